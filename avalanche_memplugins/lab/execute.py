"""One run, from spec to numbers."""

from __future__ import annotations

import copy
import hashlib
import os
import platform
import re
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The exact states of all global generators, which an evaluation beside the run must leave as they were.
from avalanche_memplugins._random import capture_random, restore_random

from .loggers import close_loggers, open_loggers
from .progress import Checkpoint, Progress
from .settings import Settings
from .spec import RunSpec
from .store import RunResult

_NOISE = ("DeprecationWarning:", "UserWarning: No loggers specified", "UserWarning: no QP solver found")


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
        from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
        from avalanche.training.determinism.rng_manager import RNGManager
        from avalanche.training.plugins import EvaluationPlugin

        from . import builders

        self.benchmark = builders.open_benchmark(self.spec)
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
        self.built = builders.build(self.spec, self.benchmark, EvaluationPlugin(*metrics, loggers=self.loggers or None))
        self.built.strategy.device = torch.device(self.settings.device)

    def _test(self, strategy: Any) -> list[float]:
        stream = self.benchmark.test_stream
        return list(_by_experience(strategy.eval(stream), len(stream)))

    def _untrained(self) -> list[float]:
        """Accuracy of the first weights on each experience, [] for a model that gives none yet."""
        from avalanche.evaluation.metrics import accuracy_metrics
        from avalanche.training import Naive
        from avalanche.training.plugins import EvaluationPlugin

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
        except Exception:  # only forward transfer wants these numbers: no reason to lose the run
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
        raise RuntimeError(f"wants one accuracy for each of {n_experiences} experiences, Avalanche gave {found}")
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
