"""Avalanche's logger for Weights & Biases, as current versions of wandb want it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from avalanche.evaluation.metric_results import AlternativeValues
from avalanche.logging import WandBLogger

from .spec import RunSpec


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
