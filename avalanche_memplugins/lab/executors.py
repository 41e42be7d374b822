"""Where runs are done: in this process, in others, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from rich.console import Console

from .display import display, say
from .spec import RunSpec, Settings
from .store import ResultStore, RunResult


class Executor(Protocol):
    """Executes runs, somewhere.

    >>> from avalanche_memplugins.lab import InProcess
    >>> executor: Executor = InProcess()
    """

    @property
    def jobs(self) -> int:
        """Number of runs at a time."""
        ...

    def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
        """Do the runs and yield each result as soon as it is there, in any order. A failed run is a result, too.

        :param specs: the runs.
        :param store: keeps the state of unfinished runs, and results if the process that does a run can reach it.
        """
        ...


class InProcess:
    """Does one run after the other in this process.

    :param settings: how; None: on one thread, as in worker processes.

    >>> InProcess().jobs
    1
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
    """The executor that a command's options ask for: processes of this machine, or a Ray cluster.

    :param ray_address: address of the cluster, see :class:`.RayExecutor`; None: this machine.
    :param jobs: processes at a time on this machine; None: as many as fill the cores. A cluster decides for itself.
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


def run_all(
    specs: Sequence[RunSpec],
    store: ResultStore,
    executor: Executor,
    on_result: Callable[[RunResult, bool], None] = lambda result, fresh: None,
    *,
    console: Console | None = None,
) -> list[RunResult]:
    """Do the runs whose results are not in the store yet.

    A result is stored before it is reported, and an unfinished run stores its state after each experience. If this is
    interrupted, the next call goes on from there. Failed runs are done again from their beginning.

    :param specs: the runs; one named twice is done once.
    :param store: where results are, and go.
    :param executor: does the runs.
    :param on_result: called with each result and whether it is new; first for those that are in the store.
    :param console: shows the progress, and after Ctrl-C how to go on, instead of ``on_result``; None: shows nothing.
    :returns: a result for each run, in the order of ``specs``.

    >>> import tempfile
    >>> spec = RunSpec(benchmark="split-digits", strategy="naive", seed=0, n_experiences=2, epochs=1, hidden=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [result] = run_all([spec], ResultStore(folder), InProcess())
    >>> result.ok, len(result.accuracy)
    (True, 2)
    """
    if console is not None:
        try:
            with display(console, specs, min(executor.jobs, len(specs))) as show:
                return run_all(specs, store, executor, show)
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
