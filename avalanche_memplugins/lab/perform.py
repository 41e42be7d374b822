"""A run together with its place in the store: what every executor does, in whatever process."""

from __future__ import annotations

from .settings import Settings
from .spec import RunSpec
from .store import ResultStore, RunResult


def perform(spec: RunSpec, store: ResultStore, settings: Settings) -> RunResult:
    """Do a run, or the rest of it, and keep its result; if another process has done it meanwhile, take that one.

    :param spec: the run.
    :param store: where its result goes, and its state after each experience.
    :param settings: how.
    """
    import torch

    from .execute import execute

    torch.set_num_threads(settings.threads)
    with settings.data(), store.claim(spec) as folder:
        known = store.get(spec)
        if known is not None and known.ok:
            return known
        logs = store.folder.parent / "logs" / store.path(spec).stem
        return store.keep(execute(spec, folder=folder, settings=settings, logs=logs))
