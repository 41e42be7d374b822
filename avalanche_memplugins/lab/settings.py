"""How runs are carried out, which is no part of what a run is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from avalanche_memplugins.benchmarks.names import look_up
from avalanche_memplugins.benchmarks.roots import ENV
from avalanche_memplugins.benchmarks.roots import data_root as find_root

MOST_THREADS = 1024
LOGGERS = ("csv", "tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Threads, device and loggers of every run; none of them is in a run's hash.

    :param threads: of a run, 1 to 1024. Sums may be added in another order with another number, so a table that is to
        repeat bit for bit wants the same number.
    :param gpus: share of a GPU that a run takes, >= 0. Above 0 runs train on it; Ray places them by it.
    :param loggers: of Avalanche, from :data:`LOGGERS`; ``wandb`` and ``tensorboard`` want their packages.
    :param data_root: folder of the data sets, as torchvision lays them out; None: ``MEMPLUGINS_DATA``.
    :raises ValueError: naming the setting that is out of range or unknown, or a folder that does not exist.
    """

    threads: int = 1
    gpus: float = 0.0
    loggers: tuple[str, ...] = ()
    data_root: Path | None = None

    def __post_init__(self) -> None:
        threads = self.threads
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads: expected an integer from 1 to {MOST_THREADS}, got {threads!r}")
        if isinstance(self.gpus, bool) or not isinstance(self.gpus, int | float) or not 0 <= self.gpus < float("inf"):
            raise ValueError(f"gpus: expected a number >= 0, got {self.gpus!r}")
        for name in self.loggers:
            look_up("log", name, dict.fromkeys(LOGGERS))
        if self.data_root is not None:
            # Absolute: a node of a cluster works in another folder.
            object.__setattr__(self, "data_root", Path(os.path.abspath(find_root(self.data_root) or "")))

    @property
    def device(self) -> str:
        """Where models are trained, as torch names it."""
        return "cuda" if self.gpus else "cpu"

    @contextmanager
    def data(self) -> Iterator[None]:
        """Within it the benchmarks read their data from :attr:`data_root`, if that is given."""
        if self.data_root is None:
            yield
            return
        before = os.environ.get(ENV)
        os.environ[ENV] = str(self.data_root)
        try:
            yield
        finally:
            if before is None:
                del os.environ[ENV]
            else:
                os.environ[ENV] = before
