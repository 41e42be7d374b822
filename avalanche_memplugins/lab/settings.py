"""How runs are carried out, which is no part of what a run is."""

from __future__ import annotations

from dataclasses import dataclass

LOGGERS = ("csv", "tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Threads, device and loggers of every run; none of them is in a run's hash.

    :param threads: of a run, >= 1. Sums may be added in another order with another number, so a table that is to
        repeat bit for bit wants the same number.
    :param gpus: share of a GPU that a run takes, >= 0. Above 0 runs train on it; Ray places them by it.
    :param loggers: of Avalanche, from :data:`LOGGERS`; ``wandb`` and ``tensorboard`` want their packages.
    :raises ValueError: naming the setting that is out of range or unknown.
    """

    threads: int = 1
    gpus: float = 0.0
    loggers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"threads: wants an integer >= 1, got {self.threads!r}")
        if isinstance(self.gpus, bool) or not isinstance(self.gpus, int | float) or not 0 <= self.gpus < float("inf"):
            raise ValueError(f"gpus: wants a number >= 0, got {self.gpus!r}")
        for name in self.loggers:
            if name not in LOGGERS:
                raise ValueError(f"log: wants names from {', '.join(LOGGERS)}, got {name!r}")

    @property
    def device(self) -> str:
        """Where models are trained, as torch names it."""
        return "cuda" if self.gpus else "cpu"
