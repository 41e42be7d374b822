"""The command line: ``memplugins compare``, ``memplugins list``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avalanche_memplugins.benchmarks.registry import BENCHMARKS
from avalanche_memplugins.lab import MEMORIES, STRATEGIES, Comparison, compare


@dataclass(frozen=True)
class Listing:
    """Show strategies, memories and benchmarks."""


Command = Annotated[Comparison, tyro.conf.subcommand("compare")] | Annotated[Listing, tyro.conf.subcommand("list")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``memplugins``.

    :param arguments: of the command line; None: those of this process.
    :returns: exit status: 0; 1 if a run failed; 2 for bad arguments; 130 after Ctrl-C.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not Unicode still gets its table
    command = tyro.cli(
        Command,
        prog="memplugins",
        description="Memory plugins for Avalanche: compare them, list them.",
        args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )
    console = Console()
    try:
        if isinstance(command, Listing):
            show_lists(console)
            return 0
        outcome = compare(command, console=console)
    except ValueError as problem:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(problem)), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0 if all(result.ok for result in outcome.results) else 1


def show_lists(console: Console) -> None:
    """Print what there is, by name."""
    strategies = _table("strategies")
    for strategy in STRATEGIES.values():
        strategies.add_row(strategy.name, strategy.summary)
    memories = _table("memories")
    for memory in MEMORIES:
        memories.add_row(memory.name, memory.summary)
    benchmarks = _table("benchmarks")
    for info in BENCHMARKS.values():
        source = "comes with scikit-learn" if info.local else "from MEMPLUGINS_DATA, or downloaded"
        benchmarks.add_row(info.name, f"{info.summary}; {info.scenario}; {source}")
    console.print(strategies, memories, benchmarks, sep="\n\n")


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="cyan", min_width=16)
    table.add_column()
    return table
