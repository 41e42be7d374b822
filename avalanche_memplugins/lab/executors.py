"""Does the runs that are not done yet, in this process, in others or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

from .display import display_for, say
from .spec import RunSpec, Settings
from .store import ResultStore, RunResult


class Executor(Protocol):
    """Executes runs, somewhere."""

    @property
    def jobs(self) -> int:
        """Runs that are under way at the same time."""
        ...

    def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
        """Yield each run's result as soon as it is there, in any order; a run that fails is a result too.

        :param specs: the runs to do.
        :param store: for the state of unfinished runs, and for results if who does a run can reach it.
        """
        ...


class InProcess:
    """One run after the other in this process.

    :param settings: how; None: one thread, as in the worker processes.
    """

    jobs = 1

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
        """As :meth:`Executor.run`."""
        import torch

        from .run import perform

        for spec in specs:
            threads = torch.get_num_threads()
            try:
                result = perform(spec, store, self.settings)
            finally:
                torch.set_num_threads(threads)
            yield result


def open_executor(
    *, ray_address: str | None = None, jobs: int | None = None, settings: Settings | None = None
) -> Executor:
    """What a command's options ask for: processes of this machine, or a Ray cluster.

    :param ray_address: of the cluster, see :class:`.RayExecutor`; None: this machine.
    :param jobs: processes of this machine at a time; None: as many as fill the cores. A cluster decides for itself.
    :param settings: how runs are carried out.
    :raises ValueError: naming the option that is out of range, or if no cluster answers.
    """
    if ray_address is None:
        from .processes import LocalProcesses

        if settings is not None and settings.gpus:
            import torch

            if not torch.cuda.is_available():
                raise ValueError(f"gpus: expected 0, since torch finds no CUDA device, got {settings.gpus:g}")
        return LocalProcesses(jobs, settings)
    from .ray_executor import RayExecutor

    return RayExecutor(ray_address, settings=settings)


@contextmanager
def executor_for(
    given: Executor | None, *, ray_address: str | None, jobs: int | None, settings: Settings
) -> Iterator[Executor]:
    """The executor given, or else one that a command's options ask for, which leaves its cluster in the end.

    :param given: by the caller, whose it stays.
    :param ray_address: as for :func:`open_executor`, like ``jobs`` and ``settings``.
    :raises ValueError: as :func:`open_executor`.
    """
    executor = open_executor(ray_address=ray_address, jobs=jobs, settings=settings) if given is None else given
    try:
        yield executor
    finally:
        # Whoever names another cluster next would else go on with this one.
        if given is None and hasattr(executor, "close"):
            executor.close()


def run_all(
    specs: Sequence[RunSpec],
    store: ResultStore,
    executor: Executor,
    on_result: Callable[[RunResult, bool], None] = lambda result, fresh: None,
    *,
    console: Console | None = None,
) -> list[RunResult]:
    """Results of all runs, those in the store and those still to do.

    A result is in the store before it is reported, and a run under way leaves its state in the store after each
    experience: whatever ends this early, the next call goes on from there. A run that had failed is tried again,
    from its beginning.

    :param specs: the runs; one named twice is done once.
    :param store: where results are, and go.
    :param executor: does the runs.
    :param on_result: called with each result and whether it is fresh: first for those in the store.
    :param console: shows the progress, and after Ctrl-C how to go on; None: nothing is shown.
    :returns: a result for each run, in the order of ``specs``.
    """
    if console is not None:
        try:
            with display_for(console, specs, min(executor.jobs, len(specs))) as display:
                return run_all(specs, store, executor, display.show)
        except KeyboardInterrupt:
            done = sum(1 for spec in specs if (known := store.get(spec)) is not None and known.ok)
            kept = f"{done} of {len(specs)} runs are kept in {store.folder}"
            say(console, f"stopped: {kept}; the same command goes on from there")
            raise
    results: dict[RunSpec, RunResult] = {}
    for spec in dict.fromkeys(specs):
        known = store.get(spec)
        if known is not None and known.ok:
            results[spec] = known
            on_result(known, False)
    missing = [spec for spec in dict.fromkeys(specs) if spec not in results]
    for result in executor.run(missing, store):
        result = store.keep(result)
        results[result.spec] = result
        on_result(result, True)
    return [results[spec] for spec in dict.fromkeys(specs)]
