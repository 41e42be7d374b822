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

from . import executors
from .before import check_before
from .executors import Executor
from .spec import RunSpec, Settings
from .store import ResultStore, RunResult
from .strategies import ABSENT, Recipe, changed, find_recipe, named, parsed, parsed_options
from .streams import defaults_of, folder_of

MOST_SEEDS = 10_000
T = TypeVar("T")
# How options look in ``--help``: those whose text says what happens without them show no default.
UNSET = tyro.conf.arg(help_behavior_hint="")
NAMES = tyro.conf.arg(metavar="NAME [NAME ...]")
# Those that a run has under the same name.
_OF_EVERY_RUN = (
    "hidden",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "schedule",
    "batch_size",
    "train_rows",
    "test_rows",
)
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
    """Model by name, such as mlp, cnn or torchvision:resnet18; `memplugins list` shows them. With options as in
    cnn:channels=16, or module:function of your own."""
    freeze_backbone: bool = False
    """Train the last layer of a torchvision model only."""
    hidden: int = 256
    """Units in a hidden layer."""
    optimizer: str = "adam"
    """Optimiser: adam, sgd, adamw, or module:function of your own."""
    lr: float = 1e-3
    """Learning rate."""
    momentum: float = 0.0
    """Momentum of sgd."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser."""
    schedule: str = "constant"
    """Learning rate within an experience: constant, cosine (down to 0), step (a tenth after half of the steps, again
    after three quarters), or module:function of your own."""
    image_size: Annotated[int | None, UNSET] = None
    """Side to which the images of a benchmark folder:DIR are scaled; by default 64."""
    options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OPTION=VALUE [OPTION=VALUE ...]"), UNSET] = ()
    """Options for every strategy that has them, such as codec=2bit. For one strategy alone: er:codec=2bit."""

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
        :param strategy: name of the strategy, with options as in ``er:codec=2bit`` or without.
        :param seed: of the run.
        :param budget: most bytes that its memory may take; None: ``memory_size`` counts.
        :param memory_size: most rows that its memory may hold.
        :raises ValueError: naming the option that is out of range or unknown.
        """
        benchmark, benchmark_options = parsed(benchmark)
        if self.image_size is not None and folder_of(benchmark):
            benchmark_options = {"image_size": self.image_size, **benchmark_options}
        model, model_options = parsed(self.model)
        if self.freeze_backbone:
            model_options = {"freeze_backbone": True, **model_options}
        strategy, options = parsed(self.method(strategy))
        n_experiences, epochs = self.experiences, self.epochs
        if n_experiences is None or epochs is None:
            usual = defaults_of(benchmark, benchmark_options)
            n_experiences, epochs = (
                own if given is None else given for given, own in zip((n_experiences, epochs), usual, strict=True)
            )
        return RunSpec(
            benchmark=benchmark,
            strategy=strategy,
            seed=seed,
            n_experiences=n_experiences,
            epochs=epochs,
            memory_size=memory_size,
            budget=budget,
            model=model,
            **{name: getattr(self, name) for name in _OF_EVERY_RUN},
            options=tuple(options.items()),
            benchmark_options=tuple(benchmark_options.items()),
            model_options=tuple(model_options.items()),
        )

    def method(self, strategy: str) -> str:
        """A strategy with those options that are not at its defaults, as one name.

        :param strategy: name, with options of its own or without; those of :attr:`options` come on top.
        :raises ValueError: if there is no such strategy or option, or a module that it needs is missing.

        >>> StreamOptions(options=("codec=2bit",)).method("er:policy=ring")
        'er:codec=2bit,policy=ring'
        """
        name, own = parsed(strategy)
        recipe = check_strategy(name)
        shared = {key: value for key, value in parsed_options(self.options).items() if key in recipe.options}
        return named(name, changed(recipe.with_defaults({**shared, **own}), recipe.options))

    def methods(self, strategies: Sequence[str]) -> list[str]:
        """The strategies that take part, each once, see :meth:`method`.

        :raises ValueError: also for an option that none of them has.
        """
        recipes = [check_strategy(parsed(strategy)[0]) for strategy in strategies]
        for name in parsed_options(self.options):
            if not any(name in recipe.options for recipe in recipes):
                raise ValueError(f"options: none of {', '.join(strategies)} has an option {name!r}")
        return list(dict.fromkeys(self.method(strategy) for strategy in strategies))


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
