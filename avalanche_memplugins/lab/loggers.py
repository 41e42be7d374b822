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
    from avalanche.logging import CSVLogger, TensorboardLogger

    folder = folder / f"from-experience-{first}"

    def wandb() -> Any:
        from .wandb_logger import RunWandBLogger

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
