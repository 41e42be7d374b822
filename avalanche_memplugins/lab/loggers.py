"""Avalanche's own loggers, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .spec import RunSpec


def open_loggers(names: Sequence[str], spec: RunSpec, folder: Path, *, first: int) -> list[Any]:
    """Loggers of one run.

    :param names: from :data:`.LOGGERS`.
    :param spec: the run; WandB gets its fields as the configuration.
    :param folder: of the run's logs.
    :param first: experience that the run begins or goes on with. A run that goes on writes beside what it wrote before
        it was stopped, since the loggers would overwrite it.
    """
    from avalanche.logging import CSVLogger, TensorboardLogger, WandBLogger

    folder = folder / f"from-experience-{first}"

    def wandb() -> Any:
        place = folder / "wandb"
        place.mkdir(parents=True, exist_ok=True)
        name = f"{spec.benchmark}--{spec.strategy}--seed{spec.seed}"
        return WandBLogger(project_name="memplugins", run_name=name, config=spec.to_json(), dir=str(place))

    makers = {
        "csv": lambda: CSVLogger(log_folder=str(folder / "csv")),
        "tensorboard": lambda: TensorboardLogger(tb_log_dir=str(folder / "tensorboard")),
        "wandb": wandb,
    }
    return [makers[name]() for name in dict.fromkeys(names)]
