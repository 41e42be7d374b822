"""The command line ``memplugins``."""

from __future__ import annotations

import codecs
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import tyro
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from avalanche_memplugins import __version__
from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.benchmarks.registry import BENCHMARKS
from avalanche_memplugins.energy_training.options import EnergyTraining
from avalanche_memplugins.lab import ABSENT, MEMORIES, STRATEGIES, Comparison, compare, doors
from avalanche_memplugins.lab.frontier import Frontier, draw_frontier
from avalanche_memplugins.lab.models import MODELS, TORCHVISION
from avalanche_memplugins.lab.options import UNSET
from avalanche_memplugins.lab.report import Report, rewrite
from avalanche_memplugins.lab.reproduce import Reproduction, load_preset, preset_names, reproduce
from avalanche_memplugins.lab.strategies import CODECS


@dataclass(frozen=True)
class Gallery:
    """Draw what memories replay, how reads restore damaged images, and how addresses look."""

    images: Literal["digits", "mnist", "fashion"] = "digits"
    """Images to write: the digits that come with scikit-learn, enlarged, or a data set of 28 x 28 images."""
    budget: str = "50KB"
    """Most bytes of each memory, such as 50KB or 2MB."""
    seed: int = 0
    """Seed of the draws."""
    data_root: Annotated[Path | None, tyro.conf.arg(aliases=["--data"]), UNSET] = None
    """Folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("gallery")
    """Folder for the pictures."""


@dataclass(frozen=True)
class Recall:
    """Compare associative memories: random strings, and images with a block erased. Ends in two tables and pictures."""

    images: Literal["digits", "mnist", "fashion"] = "digits"
    """Images to write: the digits that come with scikit-learn, enlarged, or a data set of 28 x 28 images."""
    strings: int = 192
    """Random strings for each number of patterns and seed."""
    seeds: int = 2
    """Repetitions, for the intervals."""
    data_root: Annotated[Path | None, tyro.conf.arg(aliases=["--data"]), UNSET] = None
    """Folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("recall")
    """Folder for the pictures."""


@dataclass(frozen=True)
class Listing:
    """Show strategies, memories, benchmarks and presets, and what is left out and why."""


Command = Comparison | Frontier | Reproduction | Gallery | Recall | EnergyTraining | Report | Listing
COMMANDS: dict[str, type[Command]] = {
    "compare": Comparison,
    "frontier": Frontier,
    "reproduce": Reproduction,
    "gallery": Gallery,
    "recall": Recall,
    "train-energy": EnergyTraining,
    "report": Report,
    "list": Listing,
}
_LONGEST = 1_000  # letters of an error
_TEXT = 30  # columns that a line of the lists needs beside its name


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``memplugins``.

    :param arguments: of the command line; None: those of this process.
    :returns: exit status: 0 if all went well; 1 if a run failed or a number was not reproduced; 2 if it cannot be done
        as asked (bad arguments, damaged files, a full disk), which one line explains; 130 after Ctrl-C; 141 if the
        reader of the output has left, as ``| head`` does.
    :raises SystemExit: after the help of a command, or an error in its options, has been shown.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    memplugins ...
    0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _prepare_output()
        status = _done(given)
        sys.stdout.flush()
        return status
    except _ReaderLeftError:
        _drop_output()
        return 141
    except (ValueError, OSError, MemoryError) as problem:
        with suppress(OSError):
            _tell(problem)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return 2
    except RuntimeError as problem:
        # Torch's words for sizes that no memory can hold.
        if not any(word in str(problem) for word in ("allocate memory", "overflow", "out of memory")):
            raise
        _tell(MemoryError())
        return 2
    except KeyboardInterrupt:
        return 130


def _done(given: list[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    if given == ["--version"]:
        print(f"memplugins {__version__}")
        return 0
    if not given or given[0] in ("-h", "--help"):
        show_help(_Screen())
        return 0 if given else 2  # nothing was asked for
    try:
        command = _parsed(given)
    except BrokenPipeError as problem:
        raise _ReaderLeftError from problem
    console = _Screen()
    if isinstance(command, Listing):
        show_lists(console)
        return 0
    if isinstance(command, Report):
        console.print(Text("written: " + ", ".join(map(str, rewrite(command, console)))), soft_wrap=True)
        return 0
    if isinstance(command, Gallery):
        # Imported here, since it imports torch: the other commands need not wait for that.
        from avalanche_memplugins.gallery import draw_gallery

        draw_gallery(**vars(command), console=console)
        return 0
    if isinstance(command, Recall):
        from avalanche_memplugins.recall import draw_recall

        draw_recall(**vars(command), console=console)
        return 0
    if isinstance(command, EnergyTraining):
        from avalanche_memplugins.energy_training.train import Training

        training = Training(command)
        score = training.run(console)
        outcome = f"squared error {score.error:.3f} of the cue's {score.cue:.2f}, {score.wrong:.2f} entries wrong"
        console.print(Text(f"{outcome}; written: {training.save()}"), soft_wrap=True)
        return 0
    if isinstance(command, Reproduction):
        return 0 if all(verdict.reproduced for verdict in reproduce(command, console=console)) else 1
    if isinstance(command, Frontier):
        results, _ = draw_frontier(command, console=console)
    else:
        results = compare(command, console=console).results
    return 0 if all(result.ok for result in results) else 1


class _ReaderLeftError(Exception):
    """The reader of the output has left."""


class _Screen(Console):
    """Standard output. Without this, rich ends the process with status 1 when the reader leaves."""

    def on_broken_pipe(self) -> None:
        """Called by rich."""
        raise _ReaderLeftError


# One character for each, so that tables stay straight on a terminal without Unicode.
_STAND_INS = {
    **dict.fromkeys("─━╌╴╶╸╺", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **dict(zip("±·…○●✗", "~-.o*x", strict=True)),
}


def _stand_in(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    found = problem.object[problem.start : problem.end]
    return "".join(_STAND_INS.get(letter, "?") for letter in found), problem.end


def _prepare_output() -> None:
    """Make standard output and error take whatever is written, even if they are closed or know no Unicode."""
    codecs.register_error("memplugins", _stand_in)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="memplugins")


def _drop_output() -> None:
    """Drop what cannot be written; otherwise Python tries again at its end, and complains."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(problem: BaseException) -> None:
    """Print an error as one line, even if the content of a file has put line breaks into it."""
    if isinstance(problem, MemoryError):
        text = "not enough memory for what was asked"
    elif isinstance(problem, OSError) and problem.strerror:
        text = f"{problem.filename}: {problem.strerror}" if problem.filename is not None else problem.strerror
    else:
        text = str(problem)
    text = "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST])
    line = Text.assemble(("error: ", "bold red"), " ".join(text.split()))
    Console(stderr=True).print(line, soft_wrap=True)


def _parsed(arguments: list[str]) -> Command:
    """The command with its options.

    :raises ValueError: if there is no command of that name, or an option is empty.
    :raises SystemExit: after the command's help, or an error in its options, has been shown.
    """
    command = look_up("command", arguments[0], COMMANDS)
    for before, given in pairwise(arguments):
        # As from a shell's variable that is not set; an empty path would be the current folder.
        if not given or re.fullmatch(r"--[\w-]+=", given):
            option = (given or before).strip("-=")
            raise ValueError(f"{option}: expected a value, got an empty text")
    wants_help = {"-h", "--help"} & set(arguments)
    with redirect_stdout(_Wrapped(sys.stdout)) if wants_help else nullcontext():
        return tyro.cli(
            command,
            prog=f"memplugins {arguments[0]}",
            args=arguments[1:],
            config=(tyro.conf.FlagConversionOff, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName),
        )


class _Wrapped:
    """A terminal that breaks long lines between words. Tyro wraps the text in boxes, but not the text above them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        width = shutil.get_terminal_size().columns
        return self._out.write("\n".join(_broken(line, width) for line in text.split("\n")))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


def _broken(line: str, width: int) -> str:
    if len(line) <= width or "\x1b" in line:
        return line
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def show_help(console: Console) -> None:
    """Print what the commands are for."""
    first_lines = [(name, (options.__doc__ or "").partition("\n")[0]) for name, options in COMMANDS.items()]
    console.print("usage: memplugins COMMAND [OPTIONS]\n", markup=False)
    console.print("Memory plugins for Avalanche: compare them at equal bytes, reproduce published numbers.\n")
    console.print(_named(first_lines, console.width))
    console.print("\n`memplugins COMMAND --help` shows the options of a command.")
    console.print("`memplugins --version` shows the version.")


def show_lists(console: Console) -> None:
    """Print what there is, by name; also what installed packages register, see :mod:`.doors`."""

    def own(kind: str) -> list[tuple[str, str]]:
        return [(name, f"your own: {point.value}") for name, point in doors.registered(kind).items()]

    strategies = [(one.name, one.summary + (f"; note: {one.note}" if one.note else "")) for one in STRATEGIES.values()]
    benchmarks = []
    for info in BENCHMARKS.values():
        source = "comes with scikit-learn" if info.local else "from MEMPLUGINS_DATA, or downloaded"
        benchmarks.append((info.name, f"{info.summary}; {info.scenario}; {source}"))
    benchmarks.append(("folder:DIR", "images of your own, in one folder a class; class-incremental"))
    models = [(one.name, one.summary) for one in MODELS.values()]
    models.append((f"{TORCHVISION}NAME", "a classifier of torchvision, such as torchvision:resnet18"))
    published = []
    for name in preset_names():
        preset = load_preset(name)
        published.append((name, f"{preset.summary}; about {preset.minutes:g} min a seed on one core"))
    lists = {
        "strategies": strategies + own("strategy"),
        "left out": [(one.name, one.reason) for one in ABSENT],
        "memories": [(memory.name, memory.summary) for memory in MEMORIES] + own("memory"),
        "codecs": [(name, codec.summary) for name, codec in CODECS.items()] + own("codec"),
        "models": models + own("model"),
        "benchmarks": benchmarks + own("benchmark"),
        "presets": published,
    }
    for number, (title, lines) in enumerate(lists.items()):
        if number:
            console.print("\n")
        console.print(Text(title, "bold"))
        console.print(_named(lines, console.width))


def _named(lines: Sequence[tuple[str, str]], width: int) -> RenderableType:
    """Names with their texts beside them, or below them on a narrow screen."""
    longest = max(len(name) for name, _ in lines)
    if longest + _TEXT > width:
        return Group(
            *(
                part
                for name, text in lines
                for part in (Text(name, "cyan", overflow="fold"), Padding(Text(text), (0, 0, 0, 2)))
            )
        )
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="cyan", min_width=16)
    table.add_column()
    for name, text in lines:
        table.add_row(name, Text(text))
    return table
