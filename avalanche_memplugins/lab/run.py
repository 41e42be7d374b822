"""One run, from spec to numbers: built, trained, tested, kept."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import platform
import re
import shutil
import time
import traceback
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metric_results import AlternativeValues
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import CSVLogger, TensorboardLogger, WandBLogger
from avalanche.training import Naive
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

# The exact states of all global generators, which an evaluation beside the run must leave as they were.
from avalanche_memplugins._random import capture_random, restore_random
from avalanche_memplugins.checkpointing import CheckpointError, load_run_state, save_run_state
from avalanche_memplugins.lab.models import find_model
from avalanche_memplugins.lab.nets import TaskMasked, task_classes
from avalanche_memplugins.lab.spec import PROTOCOL, RunSpec, Settings
from avalanche_memplugins.lab.store import ResultStore, RunResult, checked_numbers, sealed, unsealed, write_whole
from avalanche_memplugins.lab.strategies import LABEL_BYTES, Built, Setup
from avalanche_memplugins.lab.strategies.loops import Scheduled, ServedTests, StopAfter
from avalanche_memplugins.lab.streams import open_benchmark
from avalanche_memplugins.lab.training import make_optimizer, make_schedule

_NOISE = (
    "DeprecationWarning:",
    "UserWarning: No loggers specified",
    "UserWarning: no QP solver found",
    "UserWarning: Plugin <avalanche_memplugins.lab.",  # Avalanche's StreamingLDA never calls some of their callbacks
)
_NUMBERS, _STATE = "numbers.json", "state"


def perform(spec: RunSpec, store: ResultStore, settings: Settings) -> RunResult:
    """Do a run, or the rest of it, and keep its result; if another process has done it meanwhile, take that one.

    :param spec: the run.
    :param store: where its result goes, and its state after each experience.
    :param settings: how.
    """
    torch.set_num_threads(settings.threads)
    with settings.data(), store.claim(spec) as folder:
        known = store.get(spec)
        if known is not None and known.ok:
            return known
        logs = store.folder.parent / "logs" / store.path(spec).stem
        return store.keep(execute(spec, folder=folder, settings=settings, logs=logs))


def execute(
    spec: RunSpec, *, folder: Path | None = None, settings: Settings | None = None, logs: Path | None = None
) -> RunResult:
    """Train on each experience in turn and test on all of them after each.

    :param spec: the run.
    :param folder: for the state after each experience. If there is one, the run goes on from it, and gives bit for
        bit (on a CPU) what it would have given without a stop. None: the run begins anew and leaves nothing.
    :param settings: how; None: on the CPU, without loggers.
    :param logs: folder for what loggers write.
    :returns: the numbers, or the traceback if anything was raised.
    """
    settings = settings or Settings()
    with _recorded_warnings() as warned:
        try:
            spec.check_code()
            checkpoint = Checkpoint(folder, spec, _versions())
            run = _Run(spec, settings, logs, checkpoint, warned)
            try:
                numbers = run.train()
            finally:
                close_loggers(run.loggers)
        except Exception:
            return RunResult(spec=spec, error=traceback.format_exc(), environment=_environment(settings))
    return RunResult(spec=spec, **numbers, environment=_environment(settings))


class _Run:
    def __init__(self, spec: RunSpec, settings: Settings, logs: Path | None, checkpoint: Checkpoint, warned: Any):
        self.spec, self.settings, self.logs = spec, settings, logs
        self.checkpoint, self.warned = checkpoint, warned
        self.loggers: list[Any] = []

    def train(self) -> dict[str, Any]:
        progress = self.checkpoint.numbers()
        if progress is not None:
            self._build(first=len(progress.accuracy))
            if not self.checkpoint.load(self.built.strategy, self.benchmark.train_stream, progress):
                progress = None
        if progress is None:
            progress = Progress()
            self._build(first=0)
            progress.untrained = self._untrained()
        strategy, stream = self.built.strategy, self.benchmark.train_stream
        before = progress.warnings
        for experience in stream[len(progress.accuracy) :]:
            start = time.perf_counter()
            strategy.train(experience)
            progress.train_seconds.append(time.perf_counter() - start)
            progress.memory_bytes.append(self.built.memory_bytes())
            progress.accuracy.append(self._test(strategy))
            progress.warnings = list(dict.fromkeys([*before, *self.warned()]))
            if len(progress.accuracy) < len(stream):
                self.checkpoint.save(strategy, progress)
        weights = hashlib.sha256()
        for value in strategy.model.state_dict().values():
            weights.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
        return {
            "untrained": tuple(progress.untrained),
            "accuracy": tuple(map(tuple, progress.accuracy)),
            "train_seconds": tuple(progress.train_seconds),
            "memory_bytes": tuple(progress.memory_bytes),
            "fixed_bytes": self.built.fixed_bytes(),
            "weights": weights.hexdigest(),
            "warnings": tuple(progress.warnings),
        }

    def _build(self, first: int) -> None:
        self.benchmark = open_benchmark(self.spec)
        metrics = [accuracy_metrics(experience=True)]
        if self.settings.loggers and self.logs is not None:
            close_loggers(self.loggers)  # of a run that turned out to begin anew
            self.loggers = open_loggers(self.settings.loggers, self.spec, self.logs, first=first)
            metrics = [
                accuracy_metrics(epoch=True, experience=True, stream=True),
                loss_metrics(epoch=True, experience=True),
            ]
        # After the benchmark is built, so that every strategy of a seed begins with the same weights.
        RNGManager.set_random_seeds(self.spec.seed)
        self.built = build(self.spec, self.benchmark, EvaluationPlugin(*metrics, loggers=self.loggers or None))
        self.built.strategy.device = torch.device(self.settings.device)

    def _test(self, strategy: Any) -> list[float]:
        stream = self.benchmark.test_stream
        return list(_by_experience(strategy.eval(stream), len(stream)))

    def _untrained(self) -> list[float]:
        """Accuracy of the first weights on each experience, [] for a model that gives none yet."""
        states = capture_random()
        try:
            model = copy.deepcopy(self.built.strategy.model)
            beside = Naive(
                model=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
                criterion=torch.nn.CrossEntropyLoss(),
                eval_mb_size=256,
                device=self.settings.device,
                evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=None),
            )
            return self._test(beside)
        except Exception:  # only forward transfer needs these numbers: no reason to lose the run
            return []
        finally:
            restore_random(states)


def _by_experience(metrics: dict[str, Any], n_experiences: int) -> tuple[float, ...]:
    found: dict[int, float] = {}
    for name, value in metrics.items():
        match = re.fullmatch(r"Top1_Acc_Exp/eval_phase/test_stream/(?:Task\d+/)?Exp(\d+)", name)
        if match:
            found[int(match[1])] = float(value)
    if sorted(found) != list(range(n_experiences)):
        raise RuntimeError(f"expected one accuracy for each of {n_experiences} experiences, Avalanche gave {found}")
    return tuple(found[k] for k in range(n_experiences))


@contextmanager
def _recorded_warnings() -> Iterator[Any]:
    """Keeps the screen clean, yet loses no warning but those that Avalanche gives about itself in every run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")

        def messages() -> list[str]:
            # Sorted out here and not by filters, since Avalanche resets the filters when it warns.
            told = [f"{item.category.__name__}: {item.message}" for item in caught]
            return [text for text in dict.fromkeys(told) if not text.startswith(_NOISE)]

        yield messages


def _versions() -> dict[str, str]:
    packages = ("avalanche-memplugins", "avalanche-lib", "torch", "numpy")
    return {
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in packages},
    }


def _environment(settings: Settings) -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if settings.gpus and torch.cuda.is_available() else None
    return {
        "machine": platform.platform(),
        "cores": str(os.cpu_count()),
        "device": settings.device if gpu is None else f"{settings.device}: {gpu}",
        **_versions(),
    }


def build(spec: RunSpec, benchmark: Any, evaluator: Any) -> Built:
    """Model, optimiser and strategy of a run; the first weights come from torch's global generator.

    :param spec: the run.
    :param benchmark: its stream.
    :param evaluator: Avalanche's evaluation plugin.
    """
    info, model_info = spec.info, find_model(spec.model)
    fields = {field: getattr(spec, field) for field in model_info.fields}
    model: Any = model_info.make(info.input_shape, info.n_classes, **fields, **dict(spec.model_options))
    if info.scenario == "task-incremental":
        model = TaskMasked(model, task_classes(benchmark, info.n_classes))
    rates = {"lr": spec.lr, "momentum": spec.momentum, "weight_decay": spec.weight_decay}
    optimizer = make_optimizer(spec.optimizer, model.parameters(), **rates)
    batches = [math.ceil(len(experience.dataset) / spec.batch_size) for experience in benchmark.train_stream]
    epochs = spec.epochs if spec.iterations is None else math.ceil(spec.iterations / min(batches))
    plugins: list[Any] = [ServedTests()]
    if spec.iterations is not None:
        plugins.append(StopAfter(spec.iterations))
    if spec.schedule != "constant":
        plugins.append(Scheduled(optimizer, partial(make_schedule, spec.schedule), spec.iterations))
    common = {
        "model": model,
        "optimizer": optimizer,
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": spec.batch_size,
        "train_epochs": epochs,
        "eval_mb_size": 256,
        "evaluator": evaluator,
        "plugins": plugins,
    }
    built: Built = spec.recipe.build(
        Setup(
            spec=spec,
            benchmark=benchmark,
            common=common,
            input_shape=info.input_shape,
            n_classes=info.n_classes,
            row_bytes=4 * math.prod(info.input_shape) + LABEL_BYTES,
            batches=batches,
        )
    )
    return built


def check_own(spec: RunSpec) -> None:
    """Build a run once, without training it, and put two rows through its model.

    :param spec: the run.
    :raises ValueError: if a function of the user's own fails, or returns something else than it must.
    """
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            benchmark = open_benchmark(spec)
            built = build(spec, benchmark, EvaluationPlugin())
            make_schedule(spec.schedule, built.strategy.optimizer, steps=10)
            built.memory_bytes()
            rows = torch.stack([benchmark.train_stream[0].dataset[0][0]] * 2)
            tasks = () if spec.info.scenario != "task-incremental" else (0,)
            with torch.no_grad():
                shape = tuple(built.strategy.model.eval()(rows, *tasks).shape)
    except ValueError:
        raise
    except Exception as problem:  # whatever the user's functions raise
        told = "".join(traceback.format_tb(problem.__traceback__)[-1:]).strip().partition("\n")[0]
        raise ValueError(
            f"{spec.method} with {spec.model} on {spec.benchmark}: {type(problem).__name__}: {problem} ({told})"
        ) from problem
    if shape != (2, spec.info.n_classes):
        raise ValueError(
            f"model: expected {spec.model} to make outputs (2, {spec.info.n_classes}) of two rows, got {shape}"
        )


@dataclass
class Progress:
    """A run's numbers so far, a row an experience, see :class:`.RunResult`."""

    untrained: list[float] = field(default_factory=list)
    accuracy: list[list[float]] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any], n_experiences: int) -> Progress:
        """Back from the file.

        :param values: the fields.
        :param n_experiences: length of the stream.
        :raises ValueError: naming the field that is missing, has another shape or is out of range.
        """
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"values: expected the numbers of a run, got {short(sorted(values, key=str))}")
        accuracy, warned = values["accuracy"], values["warnings"]
        if not isinstance(accuracy, list) or not 0 < len(accuracy) <= n_experiences:
            raise ValueError(f"accuracy: expected 1 to {n_experiences} rows, got {short(accuracy)}")
        if not isinstance(warned, list) or not all(isinstance(text, str) for text in warned):
            raise ValueError(f"warnings: expected texts, got {short(warned)}")
        numbers = checked_numbers(values, n_experiences, len(accuracy))
        lists = {name: list(value) for name, value in numbers.items()}
        return cls(**{**lists, "accuracy": [list(row) for row in lists["accuracy"]]}, warnings=warned)

    def cut(self, trained: int) -> None:
        """Forget what came after the first ``trained`` experiences."""
        for rows in (self.accuracy, self.train_seconds, self.memory_bytes):
            del rows[trained:]


class Checkpoint:
    """The folder of an unfinished run.

    A kill at any moment leaves a state that is whole and numbers that reach at least as far: numbers are written
    first, and cut to the state when they are read.

    :param folder: None: nothing is saved, and nothing found.
    :param spec: the run.
    :param versions: of the libraries, and the threads: a state that others have made is not gone on from, since the
        rest would not be bit for bit what one run gives.
    """

    def __init__(self, folder: Path | None, spec: RunSpec, versions: dict[str, str]) -> None:
        self.folder, self.n_experiences = folder, spec.n_experiences
        self.head = {"protocol": PROTOCOL, "spec": spec.to_json(), "versions": versions}

    def save(self, strategy: Any, progress: Progress) -> None:
        """Save where the run stands; a strategy whose state cannot be saved begins anew when it is interrupted."""
        if self.folder is None:
            return
        write_whole(self.folder / _NUMBERS, sealed({**self.head, **asdict(progress)}))
        try:
            save_run_state(strategy, self.folder / _STATE)
        except CheckpointError:
            self.discard()
            self.folder = None  # nor will it be after the next experience

    def numbers(self) -> Progress | None:
        """What was saved last; None if there is nothing that the run can go on from."""
        if self.folder is None:
            return None
        try:
            values = unsealed(self.folder / _NUMBERS)
            if {name: values.pop(name, None) for name in self.head} == self.head:
                return Progress.from_json(values, self.n_experiences)
        except (OSError, ValueError):
            pass
        self.discard()
        return None

    def load(self, strategy: Any, stream: Any, progress: Progress) -> bool:
        """Put the state into a fresh strategy and cut the numbers to it.

        :returns: False if that cannot be done. The state is then removed, and the strategy not to be used.
        """
        if self.folder is None:
            return False
        try:
            trained = load_run_state(strategy, self.folder / _STATE, experiences=stream, missing_ok=True)
        except CheckpointError as problem:
            warnings.warn(f"an unfinished run could not be gone on with and begins anew: {problem}", stacklevel=2)
            self.discard()
            return False
        if not 0 < trained <= len(progress.accuracy):
            self.discard()
            return False
        progress.cut(trained)
        return True

    def discard(self) -> None:
        """Remove what was saved."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def open_loggers(names: Sequence[str], spec: RunSpec, folder: Path, *, first: int) -> list[Any]:
    """Loggers of one run.

    :param names: from :data:`.LOGGERS`.
    :param spec: the run; WandB gets its fields as the configuration.
    :param folder: of the run's logs.
    :param first: experience that the run begins or goes on with. A run that goes on writes beside what it wrote before
        it was stopped, since the loggers would overwrite it.
    """
    folder = folder / f"from-experience-{first}"

    def wandb() -> Any:
        place = folder / "wandb"
        place.mkdir(parents=True, exist_ok=True)
        return RunWandBLogger(spec, place)

    makers = {
        "csv": lambda: CSVLogger(log_folder=str(folder / "csv")),
        "tensorboard": lambda: TensorboardLogger(tb_log_dir=str(folder / "tensorboard")),
        "wandb": wandb,
    }
    return [makers[name]() for name in dict.fromkeys(names)]


def close_loggers(loggers: Sequence[Any]) -> None:
    """Have those that can be closed write the rest."""
    for logger in loggers:
        close = getattr(logger, "close", None)
        if callable(close):
            close()


class RunWandBLogger(WandBLogger):  # type: ignore[misc]
    """Logs the numbers of one run.

    Avalanche 0.6 asks wandb for ``util.generate_id`` and ``viz.CustomChart``, which are gone. A run of the lab brings
    its own identity, and logs nothing but numbers. No code is sent.

    :param spec: the run; its fields become the configuration.
    :param folder: for wandb's files.
    """

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        super().__init__(
            project_name="memplugins",
            run_name=f"{spec.benchmark}--{spec.strategy}--seed{spec.seed}",
            config=spec.to_json(),
            dir=str(folder),
            save_code=False,
            params={"id": f"{spec.key}-{uuid.uuid4().hex[:8]}", "reinit": "finish_previous"},
        )

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Log a number; leave out what is none."""
        self.step = x_plot
        if isinstance(value, AlternativeValues):
            value = value.best_supported_value(float, int)
        if isinstance(value, float | int):
            self.wandb.log({name: value}, step=x_plot)

    def close(self) -> None:
        """Write all of it: a run's process ends without the clean-up that wandb counts on."""
        self.wandb.finish()
