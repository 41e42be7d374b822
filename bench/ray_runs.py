"""Forty small runs on a Ray cluster of two nodes, one of which is killed while they go on.

    pip install -e '.[ray]' && python bench/ray_runs.py        two minutes

Counts the results, and compares each with the same run done in this process.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from _common import Options, launch
from _record import table

from avalanche_memplugins.lab import InProcess, ResultStore, RunResult, RunSpec, run_all
from avalanche_memplugins.lab.ray_executor import RayExecutor

SEEDS, STRATEGIES, KILL_AFTER = 20, ("naive", "rma"), 10


def main(options: Options) -> None:
    """Do the runs, count, record."""
    specs = [
        RunSpec(benchmark="split-digits", strategy=strategy, seed=seed, n_experiences=5, epochs=1, hidden=64)
        for seed in range(options.least(SEEDS, 7))
        for strategy in STRATEGIES
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(Path(folder) / "runs")
        counted = on_a_cluster(specs, store)
        files = len(list(store.folder.glob("*.json")))
        plain = run_all(specs, ResultStore(Path(folder) / "plain"), InProcess())
        same = sum(numbers(one) == numbers(store.get(one.spec)) for one in plain)
    rows: list[list[object]] = [
        ["runs asked for", len(specs)],
        ["results that came back", counted["results"]],
        ["of these failed", counted["failed"]],
        ["runs told of twice", counted["twice"]],
        ["result files", files],
        ["runs under way when the node was killed", counted["under way"]],
        ["runs equal bit for bit to the same in one process", same],
        ["seconds on the cluster, its start included", f"{counted['seconds']:.0f}"],
    ]
    text = f"Two nodes of one CPU each on one machine; one is killed after {KILL_AFTER} results.\n\n"
    text += table(["", "count"], rows)
    options.write("Runs on a Ray cluster that loses a node", text, "python bench/ray_runs.py")


def on_a_cluster(specs: list[RunSpec], store: ResultStore) -> dict[str, float]:
    """What happened, in numbers."""
    from ray.cluster_utils import Cluster

    start = time.perf_counter()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    told: list[RunResult] = []
    under_way = 0

    def on_result(result: RunResult, fresh: bool) -> None:
        nonlocal under_way
        told.append(result)
        if len(told) == KILL_AFTER:
            under_way = len(list((store.folder / ".unfinished").glob("*.lock")))
            cluster.remove_node(lost, allow_graceful=False)

    executor = RayExecutor(cluster.address)
    try:
        run_all(specs, store, executor, on_result)
    finally:
        executor.close()
        cluster.shutdown()
    return {
        "results": len(told),
        "failed": sum(not result.ok for result in told),
        "twice": len(told) - len({result.spec for result in told}),
        "under way": under_way,
        "seconds": time.perf_counter() - start,
    }


def numbers(result: RunResult | None) -> RunResult | None:
    """All but seconds and the machine's description."""
    return None if result is None else replace(result, train_seconds=(), environment={})


if __name__ == "__main__":
    launch(main, Options, __doc__)
