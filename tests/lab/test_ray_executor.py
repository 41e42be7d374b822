"""Ray: every run's result, none twice, though a node is lost; without Ray, what to install."""

from __future__ import annotations

import builtins
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avalanche_memplugins.lab import (
    InProcess,
    ResultStore,
    RunResult,
    RunSpec,
    Settings,
    ray_executor,
    run_all,
)
from avalanche_memplugins.lab.ray_executor import RayExecutor


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_ray(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    with pytest.raises(ValueError, match=r"ray-address: needs Ray: pip install 'avalanche-memplugins\[ray\]'"):
        RayExecutor("auto")


class FakeRay:
    """As much of Ray as the executor asks for; does a task when it is waited for."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, resources: dict[str, float]) -> None:
        self.resources, self.options, self.joined, self.cancelled = resources, {}, [], []
        self.lost: set[int] = set()

    def is_initialized(self) -> bool:
        return bool(self.joined)

    def init(self, *, address: str, **how: Any) -> None:
        if address == "nowhere":
            raise ConnectionError("nobody there")
        self.joined.append(address)

    def shutdown(self) -> None:
        self.joined.clear()

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.options = options

        def wrap(function: Callable[..., Any]) -> Any:
            return type("Task", (), {"remote": staticmethod(lambda *given: (function, given))})

        return wrap

    def wait(self, references: list[Any]) -> tuple[list[Any], list[Any]]:
        return references[-1:], references[:-1]

    def get(self, reference: Any) -> RunResult:
        function, given = reference
        if given[0].seed in self.lost:
            raise self.exceptions.RayError("the node is gone")
        return function(*given)

    def cancel(self, reference: Any, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference[1][0].seed)


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay({"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(ray_executor, "_import_ray", lambda: ray)
    return ray


def test_tasks_are_placed_by_threads_and_share_of_a_gpu(fake_ray: FakeRay, tmp_path: Path) -> None:
    executor = RayExecutor("auto", settings=Settings(threads=3), retries=2)
    assert executor.jobs == 2
    list(executor.run([], ResultStore(tmp_path)))
    assert (fake_ray.options["num_cpus"], fake_ray.options["num_gpus"]) == (3, 0)
    assert fake_ray.options["max_retries"] == 2
    executor.close()
    assert not fake_ray.is_initialized()
    assert RayExecutor("auto", settings=Settings(gpus=0.25)).jobs == 4
    fake_ray.resources = {}
    assert RayExecutor("auto").jobs == 1


@pytest.mark.parametrize("seen", [True, False])
def test_results_are_written_where_the_folder_is_seen_and_come_back_from_elsewhere(
    seen: bool, fake_ray: FakeRay, spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store = ResultStore("runs")
    if not seen:
        monkeypatch.setattr(ray_executor, "_token", _blind)
    fake_ray.lost = {1}
    stored, results = [], {}
    for result in RayExecutor("auto").run([spec(seed=seed) for seed in range(3)], store):
        results[result.spec.seed] = result
        stored.append(store.get(result.spec) is not None)
    assert stored == ([True, False, True] if seen else [False] * 3)
    assert [results[seed].ok for seed in range(3)] == [True, False, True]
    assert "Ray has lost the run" in str(results[1].error)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".unfinished"]


@pytest.mark.parametrize(("of_the_node", "used"), [(None, "DATA"), ("", "DATA"), ("/of/the/node", "/of/the/node")])
def test_a_node_takes_its_own_data_folder_else_that_of_the_command(
    of_the_node: str | None,
    used: str,
    fake_ray: FakeRay,
    spec: Callable[..., RunSpec],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMPLUGINS_DATA", "DATA")
    seen: list[str] = []

    def at_the_node(waited: list[Any]) -> tuple[list[Any], list[Any]]:
        if of_the_node is None:
            monkeypatch.delenv("MEMPLUGINS_DATA")
        else:
            monkeypatch.setenv("MEMPLUGINS_DATA", of_the_node)
        return waited[-1:], waited[:-1]

    def look(done: RunSpec, *_: Any) -> RunResult:
        seen.append(os.environ["MEMPLUGINS_DATA"])
        return RunResult(spec=done, error="not done")

    monkeypatch.setattr(fake_ray, "wait", at_the_node)
    monkeypatch.setattr("avalanche_memplugins.lab.run.perform", look)
    list(RayExecutor("auto").run([spec()], ResultStore(tmp_path / "runs")))
    assert seen == [str(tmp_path / used)], "absolute: a node's working folder is another one"


def test_leaving_early_cancels_what_is_under_way(
    fake_ray: FakeRay, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    fake_ray.lost = {0, 1, 2}
    runs = RayExecutor("auto").run([spec(seed=seed) for seed in range(3)], ResultStore(tmp_path))
    assert next(runs).spec.seed == 2
    runs.close()
    assert fake_ray.cancelled == [0, 1]


def test_bad_arguments_are_refused(fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="retries: expected an integer >= 0, got -1"):
        RayExecutor("auto", retries=-1)
    with pytest.raises(ValueError, match="no cluster answers at 'nowhere': nobody there"):
        RayExecutor("nowhere")

    def init(**how: Any) -> None:
        raise ConnectionError("set the --address flag")

    monkeypatch.setattr(fake_ray, "init", init)
    with pytest.raises(ValueError, match="no cluster answers at 'auto': start one with 'ray start --head', or give"):
        RayExecutor("auto")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_where_nobody_listens_is_told_before_ray_tries(
    form: str, fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but it does not listen
        address = form.format(taken.getsockname()[1])
        with pytest.raises(ValueError, match=f"ray-address: no cluster answers at '{address}': .*refused"):
            RayExecutor(address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ValueError, match=f"ray-address: no cluster answers at 'auto', RAY_ADDRESS={address}: "):
            RayExecutor("auto")
        assert not fake_ray.joined
        taken.listen()
        RayExecutor(address)
    assert fake_ray.joined == [address]


@pytest.mark.parametrize(
    ("address", "held", "before", "after"),
    [
        ("10.0.0.1:6379", True, None, "token"),
        ("auto", True, None, "token"),
        ("10.0.0.1:6379", False, None, None),
        ("local", True, None, None),
        ("10.0.0.1:6379", True, "disabled", "disabled"),
    ],
)
def test_a_token_that_is_there_is_shown(
    address: str,
    held: bool,
    before: str | None,
    after: str | None,
    fake_ray: FakeRay,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    if held:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    if before is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", before)
    monkeypatch.setattr(ray_executor, "_check_reachable", lambda address: None)
    RayExecutor(address)
    assert os.environ.get("RAY_AUTH_MODE") == after


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_does_every_run_once(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'avalanche-memplugins[ray]'")
    from ray.cluster_utils import Cluster

    specs = [spec(strategy=name, seed=seed, epochs=20) for seed in range(4) for name in ("naive", "rma")]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    seen: list[RunSpec] = []

    def on_result(result: RunResult, fresh: bool) -> None:
        assert fresh
        seen.append(result.spec)
        if len(seen) == 3:
            cluster.remove_node(lost, allow_graceful=False)

    store = ResultStore(tmp_path / "runs")
    executor = RayExecutor(cluster.address)
    try:
        assert executor.jobs == 2
        results = run_all(specs, store, executor, on_result)
    finally:
        executor.close()
        cluster.shutdown()
    assert not ray.is_initialized()
    assert sorted(one.key for one in seen) == sorted(one.key for one in specs), "each told once"
    plain = run_all(specs, ResultStore(tmp_path / "plain"), InProcess())
    assert [_numbers(one) for one in results] == [_numbers(one) for one in plain]
    assert len(list(store.folder.glob("*.json"))) == len(specs)


def _blind(folder: Path) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def token() -> Iterator[Path]:
        yield folder / "not seen"

    return token()


def _numbers(result: RunResult) -> RunResult:
    assert result.ok, result.error
    return replace(result, train_seconds=(), environment={})
