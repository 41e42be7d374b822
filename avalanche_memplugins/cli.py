"""The command line: ``memplugins compare``, ``frontier``, ``reproduce``, ``gallery``, ``train-energy``, ``report``,
``list``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avalanche_memplugins import __version__
from avalanche_memplugins.benchmarks.registry import BENCHMARKS
from avalanche_memplugins.lab import ABSENT, MEMORIES, STRATEGIES, Comparison, compare, presets
from avalanche_memplugins.lab.energy.options import EnergyTraining
from avalanche_memplugins.lab.frontier import Frontier, draw_frontier
from avalanche_memplugins.lab.gallery_options import Gallery
from avalanche_memplugins.lab.reproduce import Reproduction, reproduce
from avalanche_memplugins.lab.rewrite import Report, rewrite


@dataclass(frozen=True)
class Listing:
    """Show strategies, memories, benchmarks and presets, and what is left out and why."""


Command = (
    Annotated[Comparison, tyro.conf.subcommand("compare")]
    | Annotated[Frontier, tyro.conf.subcommand("frontier")]
    | Annotated[Reproduction, tyro.conf.subcommand("reproduce")]
    | Annotated[Gallery, tyro.conf.subcommand("gallery")]
    | Annotated[EnergyTraining, tyro.conf.subcommand("train-energy")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Listing, tyro.conf.subcommand("list")]
)
_ABOUT = (
    "Memory plugins for Avalanche: compare them, at equal bytes too, reproduce published numbers. "
    "`memplugins --version` tells the version."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``memplugins``.

    :param arguments: of the command line; None: those of this process.
    :returns: exit status: 0; 1 if a run failed or a number was not reproduced; 2 for bad arguments; 130 after Ctrl-C.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not Unicode still gets its table
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"memplugins {__version__}")
        return 0
    try:
        command = _parsed(given or ["--help"])
    except SystemExit:
        if given:
            raise
        return 2  # the help was shown, but nothing was asked for
    console = Console()
    try:
        if isinstance(command, Listing):
            show_lists(console)
            return 0
        if isinstance(command, Report):
            console.print(Text("written: " + ", ".join(map(str, rewrite(command)))), soft_wrap=True)
            return 0
        if isinstance(command, Gallery):
            # Brings in torch, for which the other commands' first lines need not wait.
            from avalanche_memplugins.lab.gallery import draw_gallery

            draw_gallery(command, console)
            return 0
        if isinstance(command, EnergyTraining):
            from avalanche_memplugins.lab.energy.train import Training

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
    except ValueError as problem:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(problem)), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0 if all(result.ok for result in results) else 1


def _parsed(arguments: list[str]) -> Command:
    """The command with its options.

    :raises SystemExit: once help, or what is wrong, has been shown.
    """
    wants_help = {"-h", "--help"} & set(arguments)
    with redirect_stdout(_Wrapped(sys.stdout)) if wants_help else nullcontext():
        return tyro.cli(
            Command,
            prog="memplugins",
            description=_ABOUT,
            args=arguments,
            config=(tyro.conf.FlagConversionOff,),
        )


class _Wrapped:
    """A terminal that breaks long lines between words: tyro wraps what stands in boxes, but not the text above them."""

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


def show_lists(console: Console) -> None:
    """Print what there is, by name."""
    strategies = _table("strategies")
    for strategy in STRATEGIES.values():
        note = f"; note: {strategy.note}" if strategy.note else ""
        strategies.add_row(strategy.name, Text(strategy.summary + note))
    absent = _table("left out")
    for one in ABSENT:
        absent.add_row(one.name, Text(one.reason))
    memories = _table("memories")
    for memory in MEMORIES:
        memories.add_row(memory.name, memory.summary)
    benchmarks = _table("benchmarks")
    for info in BENCHMARKS.values():
        source = "comes with scikit-learn" if info.local else "from MEMPLUGINS_DATA, or downloaded"
        benchmarks.add_row(info.name, f"{info.summary}; {info.scenario}; {source}")
    published = _table("presets")
    for name in presets.names():
        preset = presets.load_preset(name)
        published.add_row(name, f"{preset.summary}; about {preset.minutes:g} min a seed on one core")
    console.print(strategies, absent, memories, benchmarks, published, sep="\n\n")


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="cyan", min_width=16)
    table.add_column()
    return table
