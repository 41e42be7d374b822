"""What ``compare``, ``frontier`` and ``reproduce`` have in common: their options, and the way from runs to results."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import tyro
from rich.console import Console

from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.benchmarks.registry import get_benchmark

from . import executors
from .before import check_before
from .executors import Executor
from .settings import Settings
from .spec import RunSpec
from .store import ResultStore, RunResult
from .strategies import ABSENT, STRATEGIES, StrategyInfo

MOST_SEEDS = 10_000
T = TypeVar("T")
# How options look in ``--help``: those whose text says what happens without them show no default.
UNSET = tyro.conf.arg(help_behavior_hint="")
NAMES = tyro.conf.arg(metavar="NAME [NAME ...]")
BYTES = tyro.conf.arg(metavar="BYTES [BYTES ...]")


def own_first(cls: type[T]) -> type[T]:
    """Put a dataclass's own fields before those that it inherits, in ``--help`` and in :meth:`RunOptions.command`."""
    declared = [vars(parent).get("__dataclass_fields__", {}) for parent in cls.__mro__]

    def distance(name: str) -> int:
        return max(i for i, names in enumerate(declared) if name in names)

    known = cls.__dataclass_fields__  # type: ignore[attr-defined]
    cls.__dataclass_fields__ = {name: known[name] for name in sorted(known, key=distance)}  # type: ignore[attr-defined]
    return cls


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a command's runs are carried out, and where their results go."""

    COMMAND: ClassVar[str] = ""

    jobs: Annotated[int | None, UNSET] = None
    """Runs at a time, each in a process of its own; by default as many as the cores hold."""
    threads: int = 1
    """Threads of a run."""
    gpus: float = 0.0
    """Share of a GPU that a run takes; 0 trains on the CPU."""
    ray_address: Annotated[str | None, UNSET] = None
    """Ray cluster that does the runs, such as auto or HOST:PORT; by default this machine does them."""
    log: Annotated[tuple[str, ...], NAMES, UNSET] = ()
    """Avalanche's loggers, which write to the folder `logs`: csv, tensorboard, wandb."""
    data_root: Annotated[Path | None, UNSET] = None
    """Folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given."""
    out: Path = Path("results")
    """Folder for the results."""

    @property
    def store(self) -> ResultStore:
        """Where the runs' results are kept."""
        return ResultStore(self.out / "runs")

    def settings(self) -> Settings:
        """How the runs are carried out.

        :raises ValueError: naming the setting that is out of range or unknown.
        """
        return Settings(threads=self.threads, gpus=self.gpus, loggers=self.log, data_root=self.data_root)

    def command(self) -> str:
        """The command line that these options stand for: all that are not at their defaults."""
        words = ["memplugins", self.COMMAND]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING:
                words.append(str(value))
            elif value != field.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def run(
        self,
        specs: Sequence[RunSpec],
        console: Console,
        executor: Executor | None = None,
        *,
        announce: Callable[[], object] = lambda: None,
    ) -> list[RunResult]:
        """Check that the runs can begin, then do those that are not done, with their progress on the screen.

        :param specs: the runs.
        :param console: for the progress.
        :param executor: does the runs; None: what the options say.
        :param announce: called between the check and the first run.
        :returns: a result for each run, in the order of ``specs``.
        :raises ValueError: if a setting is out of range or unknown, before anything is run.
        :raises KeyboardInterrupt: after Ctrl-C, having said how to go on.
        """
        settings = self.settings()
        does = executor or executors.open_executor(ray_address=self.ray_address, jobs=self.jobs, settings=settings)
        try:
            check_before(specs, self.out, settings, here=self.ray_address is None)
            announce()
            return executors.run_all(specs, self.store, does, console=console)
        finally:
            # Otherwise the next command would use this cluster, even if it names another one.
            if executor is None and hasattr(does, "close"):
                does.close()


@dataclass(frozen=True, kw_only=True)
class StreamOptions(RunOptions):
    """What all runs of a comparison have in common: the stream's length, the model, the optimiser."""

    experiences: Annotated[int | None, UNSET] = None
    """Number of experiences of a stream; by default what is usual for the benchmark."""
    epochs: Annotated[int | None, UNSET] = None
    """Epochs of training on each experience; by default what is usual for the benchmark."""
    train_rows: Annotated[int | None, UNSET] = None
    """Train on only so many rows of each experience, drawn by the seed, the same for all; by default on all."""
    test_rows: Annotated[int | None, UNSET] = None
    """Test on only so many rows of each experience, drawn likewise; by default on all."""
    batch_size: int = 32
    """Rows of the stream a step; a replay strategy trains on as many more from its memory."""
    model: str = "mlp"
    """Model: mlp (two hidden layers), linear, or linear-zero (linear, starts from zero)."""
    hidden: int = 256
    """Units in a hidden layer."""
    optimizer: str = "adam"
    """Optimiser: adam or sgd, both without momentum or weight decay."""
    lr: float = 1e-3
    """Learning rate."""

    def spec(
        self,
        benchmark: str,
        strategy: str,
        seed: int,
        *,
        budget: int | None,
        memory_size: int = RunSpec.memory_size,
    ) -> RunSpec:
        """One run with these options.

        :param benchmark: name of the benchmark.
        :param strategy: name of the strategy.
        :param seed: of the run.
        :param budget: most bytes that its memory may take; None: ``memory_size`` counts.
        :param memory_size: most rows that its memory may hold.
        :raises ValueError: naming the option that is out of range or unknown.
        """
        info = get_benchmark(benchmark)
        return RunSpec(
            benchmark=benchmark,
            strategy=strategy,
            seed=seed,
            n_experiences=info.n_experiences if self.experiences is None else self.experiences,
            epochs=info.epochs if self.epochs is None else self.epochs,
            memory_size=memory_size,
            budget=budget,
            model=self.model,
            hidden=self.hidden,
            optimizer=self.optimizer,
            lr=self.lr,
            batch_size=self.batch_size,
            train_rows=self.train_rows,
            test_rows=self.test_rows,
        )


def check_seeds(seeds: int) -> None:
    """Raise ``ValueError`` unless so many seeds can be run."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds: expected an integer from 1 to {MOST_SEEDS}, got {seeds!r}")


def check_strategy(name: str) -> StrategyInfo:
    """The strategy of that name, if it can run here.

    :raises ValueError: if there is none, or a module that it needs is missing.
    """
    if name in (left_out := {absent.name: absent for absent in ABSENT}):
        raise ValueError(f"strategy: {name} is left out: {left_out[name].reason}")
    info = look_up("strategy", name, STRATEGIES)
    if info.requires and importlib.util.find_spec(info.requires) is None:
        raise ValueError(f"strategy: {name} {info.note}")
    return info
