"""Does what is not done yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .executors import Executor
from .result import RunResult
from .spec import RunSpec
from .store import ResultStore


def run_all(
    specs: Sequence[RunSpec],
    store: ResultStore,
    executor: Executor,
    on_result: Callable[[RunResult, bool], None] = lambda result, fresh: None,
) -> list[RunResult]:
    """Results of all runs, those in the store and those still to do.

    A result is in the store before it is reported, and a run under way leaves its state in the store after each
    experience: whatever ends this early, the next call goes on from there. A run that had failed is tried again,
    from its beginning.

    :param specs: the runs; one named twice is done once.
    :param store: where results are, and go.
    :param executor: does the runs.
    :param on_result: called with each result and whether it is fresh: first for those in the store.
    :returns: a result for each run, in the order of ``specs``.
    """
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
