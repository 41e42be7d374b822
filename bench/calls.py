"""Count the Python calls into this package that one training iteration makes, and one run of the lab.

    python bench/calls.py        half a minute

Every call is work, and a stack frame to step through for whoever debugs. Counted is one iteration in the middle of an
epoch on the embedded digits, with the memory full: calls of functions of the package, the files that they are in, and
the deepest chain of them. Of the lab, a comparison with one run, from the options to the report. Counts are the same on
every machine.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from _common import Options, launch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from rich.console import Console
from torch import nn

import avalanche_memplugins
from avalanche_memplugins import (
    DarkReplayPlugin,
    LatentReplayPlugin,
    LeanStepPlugin,
    MemoryReplayPlugin,
    RandomMemory,
    TensorLoaderPlugin,
)
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.lab import Comparison, InProcess, compare

PACKAGE = Path(avalanche_memplugins.__file__).parent
WARM_UP = 2  # experiences before the count
BATCH = 16


@dataclass
class Calls:
    """Calls by file and function, and how many of them were open at once."""

    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    deepest: int = 0
    _open: int = 0

    @property
    def files(self) -> Counter[str]:
        """Calls by file."""
        files: Counter[str] = Counter()
        for (file, _), calls in self.functions.items():
            files[file] += calls
        return files

    def look(self, frame: FrameType, event: str, arg: Any) -> None:
        """Count a call, as ``sys.setprofile`` reports it."""
        file = Path(frame.f_code.co_filename)
        if event not in ("call", "return") or not file.is_relative_to(PACKAGE):
            return
        if event == "return":
            self._open -= 1
            return
        self.functions[str(file.relative_to(PACKAGE)), frame.f_code.co_qualname] += 1
        self._open += 1
        self.deepest = max(self.deepest, self._open)


class Counts(SupervisedPlugin):  # type: ignore[misc]
    """Counts the calls between the second and the third batch of an epoch, once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Calls()
        self.on = False

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Start or stop counting."""
        if self.on and strategy.clock.train_exp_iterations in (2, 3):
            sys.setprofile(self.calls.look if strategy.clock.train_exp_iterations == 2 else None)


def count(make: Callable[[], list[Any]]) -> Calls:
    """The calls of one iteration of ``Naive`` with the plugins that ``make`` gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    counts = Counts()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        train_mb_size=BATCH,
        plugins=[counts, *make()],
        evaluator=None,
    )
    for number, experience in enumerate(SplitDigits(5).train_stream):
        counts.on = number == WARM_UP
        strategy.train(experience, num_workers=0)
        if counts.on:
            break
    return counts.calls


def count_run() -> Calls:
    """The calls of a comparison with one run, once a run has been done before."""
    calls = Calls()
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            comparison = Comparison(
                benchmarks=("split-digits",), strategies=("er",), seeds=1, experiences=2, epochs=1, out=Path(folder)
            )
            calls = Calls()
            sys.setprofile(calls.look)
            try:
                compare(comparison, console=Console(quiet=True), executor=InProcess())
            finally:
                sys.setprofile(None)
    return calls


def _memory(**options: Any) -> RandomMemory:
    return RandomMemory(100, seed=0, **options)


CASES: dict[str, Callable[[], list[Any]]] = {
    "replay": lambda: [MemoryReplayPlugin(_memory())],
    "replay, written at the end, read in passes": lambda: [
        MemoryReplayPlugin(_memory(read="cycle"), write_at="experience")
    ],
    "replay, class-balanced": lambda: [MemoryReplayPlugin(_memory(policy="class_balanced"))],
    "latent replay": lambda: [LatentReplayPlugin(_memory(), at="1", freeze_below=False)],
    "dark replay": lambda: [DarkReplayPlugin(_memory(store_logits=True))],
    "replay with both speed plugins": lambda: [
        MemoryReplayPlugin(_memory()),
        TensorLoaderPlugin(seed=0),
        LeanStepPlugin(),
    ],
}


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """What to print."""

    functions: str = ""
    """List the calls of one row, by its name in the table."""


def main(options: Settings) -> None:
    """Print a table; as it is the same on every machine, nothing is recorded."""
    if options.functions and options.functions not in CASES:
        raise SystemExit(f"functions: expected one of {list(CASES)}, got {options.functions!r}")
    warnings.filterwarnings("ignore")
    print("| one iteration | calls | of them in plugins | files | deepest |\n|---|---|---|---|---|")
    found = {name: count(make) for name, make in list(CASES.items())[: options.least(len(CASES), 2)]}
    for name, calls in found.items():
        plugins = sum(number for file, number in calls.files.items() if file.startswith("plugins"))
        print(f"| {name} | {calls.functions.total()} | {plugins} | {len(calls.files)} | {calls.deepest} |")
    run = count_run()
    print(f"| a run to its report | {run.functions.total()} | | {len(run.files)} | {run.deepest} |")
    if options.functions:
        for (file, function), number in sorted(found[options.functions].functions.items()):
            print(f"{number:4} {file}: {function}")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
