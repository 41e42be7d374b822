"""Strategies compared on benchmarks over several seeds: runs, tables, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from rich.console import Console
from rich.text import Text

from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.benchmarks.names import look_up

from .display import say, tell
from .executors import Executor
from .options import NAMES, UNSET, StreamOptions, check_seeds, own_first
from .report import FILES, note, tables, write_files
from .spec import RunSpec
from .store import RunResult
from .strategies import sizing

if TYPE_CHECKING:
    import pandas as pd


@own_first
@dataclass(frozen=True, kw_only=True)
class Comparison(StreamOptions):
    """Compare strategies on benchmarks over several seeds.

    Every strategy gets the same stream, first weights, model, optimiser, epochs and batch size. Every memory gets the
    same number of rows or, with a budget, of bytes. Runs that are already done are taken from the output folder.

    >>> options = Comparison(strategies=("naive", "er:codec=2bit"), budget="20kB", seeds=5)
    >>> options.budget, options.memory_size
    ('20kB', 200)
    """

    COMMAND: ClassVar[str] = "compare"

    benchmarks: Annotated[tuple[str, ...], NAMES] = ("split-digits", "permuted-digits")
    """Benchmarks by name; `memplugins list` shows them. folder:DIR: images in one folder a class; or module:function of
    your own."""
    strategies: Annotated[tuple[str, ...], NAMES] = ("naive", "replay", "rma", "er", "cumulative")
    """Strategies by name; `memplugins list` shows them. With options as in er:codec=2bit; or module:function of your
    own."""
    seeds: int = 3
    """Number of seeds: 0, 1, 2, ..."""
    baseline: Annotated[str | None, UNSET] = None
    """Strategy that differences are taken from; by default replay if it takes part, else the first."""
    memory_size: int = 200
    """Most rows that each memory may hold."""
    budget: Annotated[str | None, UNSET] = None
    """Most bytes that each memory may take, such as 50KB or 2MB, instead of rows, where a strategy can be sized."""
    out: Path = Path("results/compare")
    """Folder for results, tables and pictures. A report that other options made is kept in its folder `earlier`."""

    def specs(self) -> list[RunSpec]:
        """All runs, seed by seed, so that whole comparisons are done early.

        :raises ValueError: naming the setting that is out of range or unknown.

        >>> comparison = Comparison(benchmarks=("split-digits",), strategies=("naive", "rma"), seeds=1)
        >>> [spec.title for spec in comparison.specs()]
        ['split-digits · naive · seed 0', 'split-digits · rma · seed 0']
        """
        check_seeds(self.seeds)
        for field in ("benchmarks", "strategies"):
            if not getattr(self, field):
                raise ValueError(f"{field}: expected at least one name, got none")
        self.baseline_name()
        budget = None if self.budget is None else parse_bytes(self.budget)
        methods = self.methods(self.strategies)
        return [
            self.spec(
                benchmark,
                method,
                seed,
                memory_size=self.memory_size,
                budget=None if sizing(method) == "no" else budget,
            )
            for seed in range(self.seeds)
            for benchmark in dict.fromkeys(self.benchmarks)
            for method in methods
        ]

    def baseline_name(self) -> str:
        """The strategy that differences are taken from.

        :raises ValueError: if it does not take part.
        """
        if self.baseline is None:
            return self.method("replay" if "replay" in self.strategies else self.strategies[0])
        return self.method(look_up("baseline", self.baseline, {name: name for name in self.strategies}))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a comparison returns.

    :param results: of all runs, also of failed ones.
    :param tidy: every number, see :func:`.tidy`.
    :param summary: a line for each strategy, see :func:`.summarise`.
    :param files: the files written.

    >>> import pandas as pd
    >>> summary = pd.DataFrame({"strategy": ["naive", "er"], "accuracy": [20.0, 80.0]})
    >>> outcome = Outcome(results=[], tidy=pd.DataFrame(), summary=summary, files=[])
    >>> outcome.summary.accuracy.to_list()
    [20.0, 80.0]
    """

    results: list[RunResult]
    tidy: pd.DataFrame
    summary: pd.DataFrame
    files: list[Path]


def compare(comparison: Comparison, *, console: Console | None = None, executor: Executor | None = None) -> Outcome:
    """Do the runs that are not done yet, then write and print tables and pictures.

    :param comparison: what to compare.
    :param console: where to print; None: standard output.
    :param executor: does the runs; None: what the comparison's options say.
    :raises ValueError: if a setting is out of range or unknown, before anything is run.

    >>> import tempfile
    >>> from avalanche_memplugins.lab import InProcess
    >>> short = {"benchmarks": ("split-digits",), "strategies": ("naive",), "seeds": 1, "experiences": 2, "hidden": 8}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     comparison = Comparison(**short, epochs=1, out=Path(folder))
    ...     outcome = compare(comparison, console=Console(quiet=True), executor=InProcess())
    >>> outcome.summary[["strategy", "seeds"]].to_dict("records")
    [{'strategy': 'naive', 'seeds': 1}]
    """
    if not isinstance(comparison, Comparison):
        raise TypeError(f"comparison: expected a Comparison, got {type(comparison).__name__}: {comparison!r}")
    console = console or Console()
    specs, baseline, command = comparison.specs(), comparison.baseline_name(), comparison.command()

    def keep_earlier() -> None:
        runs = [spec.key for spec in specs]
        kept = note(comparison.out, command=command, baseline=baseline, runs=runs, files=FILES)
        if kept is not None:
            say(console, f"the report of an earlier comparison is kept in {kept}")

    results = comparison.run(specs, console, executor, announce=keep_earlier)
    # Again, since another command may have begun on this folder meanwhile.
    keep_earlier()
    written = write_files(comparison.out, results, baseline, command=command)
    if written.files:
        for part in tables(written.summary, specs, baseline):
            console.print(part)
    tell(console, results, comparison.store)
    for remark in written.notes:
        console.print(Text(remark, "dim"), soft_wrap=True)
    if written.files:
        console.print(Text("written: " + ", ".join(map(str, written.files))), soft_wrap=True)
    return Outcome(results=results, tidy=written.numbers, summary=written.summary, files=written.files)
