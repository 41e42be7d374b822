"""What is compared with what."""

from __future__ import annotations

import importlib.util
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.benchmarks.registry import get_benchmark

from .settings import Settings
from .spec import RunSpec
from .strategies import ABSENT, STRATEGIES, Recipe, find_recipe

MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Compare strategies on benchmarks over several seeds.

    Every strategy gets the same stream, first weights, model, optimiser, epochs and batch size, and every memory
    the same number of rows or, with a budget, of bytes. Runs that are already done are taken from the output folder.
    """

    benchmarks: tuple[str, ...] = ("split-digits", "permuted-digits")
    """Benchmarks by name; `memplugins list` shows them."""
    strategies: tuple[str, ...] = ("naive", "replay", "rma", "er-reservoir", "cumulative")
    """Strategies by name; `memplugins list` shows them."""
    seeds: int = 3
    """Number of seeds: 0, 1, 2, ..."""
    baseline: str | None = None
    """Strategy that differences are taken from; by default replay if it takes part, else the first."""
    memory_size: int = 200
    """Rows that each memory holds at most."""
    budget: str | None = None
    """Bytes that each memory may take, such as 50KB or 2MB, in the place of rows. Strategies that cannot be sized
    run all the same; the table shows what they hold."""
    experiences: int | None = None
    """Length of the streams; by default what is usual for the benchmark."""
    epochs: int | None = None
    """Epochs an experience; by default what the benchmark has registered."""
    train_rows: int | None = None
    """Train on only so many rows of each experience, drawn by the seed, the same for all; by default on all."""
    test_rows: int | None = None
    """Test on only so many rows of each experience, likewise."""
    batch_size: int = 32
    """Rows of the stream a step; a replay strategy trains on as many from its memory besides."""
    model: str = "mlp"
    """Model: mlp (two hidden layers), linear or linear-zero (linear from zero)."""
    hidden: int = 256
    """Units in a hidden layer."""
    optimizer: str = "adam"
    """Optimiser: adam or sgd, both without momentum settings or weight decay."""
    lr: float = 1e-3
    """Learning rate."""
    jobs: int | None = None
    """Runs at a time, a process each; by default as many as the cores hold."""
    threads: int = 1
    """Threads of a run."""
    gpus: float = 0.0
    """Share of a GPU that a run takes; 0 trains on the CPU."""
    ray_address: str | None = None
    """Ray cluster that does the runs, such as auto or HOST:PORT; by default this machine's processes do."""
    log: tuple[str, ...] = ()
    """Avalanche's loggers, written to the folder `logs`: csv, tensorboard, wandb."""
    data_root: Path | None = None
    """Folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given."""
    out: Path = Path("results/compare")
    """Folder for results, tables and pictures. Other options give another report; the earlier one is then kept in
    `earlier` within it."""

    def specs(self) -> list[RunSpec]:
        """All runs, seed by seed, so that whole comparisons are done early.

        :raises ValueError: naming the setting that is out of range or unknown.
        """
        check_seeds(self.seeds)
        for field in ("benchmarks", "strategies"):
            if not getattr(self, field):
                raise ValueError(f"{field}: expected at least one name, got none")
        self.baseline_name()
        budget = None if self.budget is None else parse_bytes(self.budget)
        for strategy in self.strategies:
            check_strategy(strategy)
        return [
            RunSpec(
                benchmark=benchmark,
                strategy=strategy,
                seed=seed,
                n_experiences=_or(self.experiences, get_benchmark(benchmark).n_experiences),
                epochs=_or(self.epochs, get_benchmark(benchmark).epochs),
                memory_size=self.memory_size,
                budget=None if STRATEGIES[strategy].sized == "no" else budget,
                model=self.model,
                hidden=self.hidden,
                optimizer=self.optimizer,
                lr=self.lr,
                batch_size=self.batch_size,
                train_rows=self.train_rows,
                test_rows=self.test_rows,
            )
            for seed in range(self.seeds)
            for benchmark in dict.fromkeys(self.benchmarks)
            for strategy in dict.fromkeys(self.strategies)
        ]

    def settings(self) -> Settings:
        """How the runs are carried out.

        :raises ValueError: naming the setting that is out of range or unknown.
        """
        return Settings(threads=self.threads, gpus=self.gpus, loggers=self.log, data_root=self.data_root)

    def command(self) -> str:
        """The command line that makes this comparison: what is not at its default."""
        words = ["memplugins", "compare"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def baseline_name(self) -> str:
        """The strategy that differences are taken from.

        :raises ValueError: if it does not take part.
        """
        if self.baseline is None:
            return "replay" if "replay" in self.strategies else self.strategies[0]
        return look_up("baseline", self.baseline, {name: name for name in self.strategies})


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def check_seeds(seeds: int) -> None:
    """Raise ``ValueError`` unless so many seeds can be run."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds: expected an integer from 1 to {MOST_SEEDS}, got {seeds!r}")


def check_strategy(name: str) -> Recipe:
    """The strategy of that name, if it can run here.

    :raises ValueError: if there is none, or a module that it needs is missing.
    """
    if name in (left_out := {absent.name: absent for absent in ABSENT}):
        raise ValueError(f"strategy: {name} is left out: {left_out[name].reason}")
    info = find_recipe(name)
    if info.requires and importlib.util.find_spec(info.requires) is None:
        raise ValueError(f"strategy: {name} {info.note}")
    return info


def label(strategy: str) -> str:
    """Name of a strategy for tables and pictures."""
    return STRATEGIES[strategy].label
