"""Runs on a Ray cluster."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avalanche_memplugins.benchmarks.roots import ENV

from .spec import RunSpec, Settings
from .store import ResultStore, RunResult

RETRIES = 5
_WAIT = 5.0
_TOKEN = Path("~/.ray/auth_token")


class RayExecutor:
    """Does each run as a Ray task, placed where its threads and its share of a GPU are free.

    If a node is lost or a process dies, its run is done again elsewhere, at most ``retries`` times. A run that raises
    an error is not done again. If the nodes see the folder of the results (a cluster of one machine, a shared file
    system), each run writes its result there, and its state after each experience. A run that is done again then goes
    on from its last state. Otherwise results come back to this process, which writes them. The package must be
    installed on every node. Data sets are looked for in the node's own ``MEMPLUGINS_DATA``, then in this process's.

    :param address: of the cluster: ``"auto"``, ``"HOST:PORT"``, ``"ray://HOST:PORT"``, or ``"local"`` for a new one
        on this machine.
    :param settings: how; None: one thread a run, no GPU.
    :param retries: of a run, >= 0.
    :raises ValueError: if Ray is not installed, ``retries`` is below 0, or no cluster answers at the address.
    """

    def __init__(self, address: str, *, settings: Settings | None = None, retries: int = RETRIES) -> None:
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries: expected an integer >= 0, got {retries!r}")
        self.address = address
        self.settings = settings or Settings()
        self.retries = retries
        _show_token(address)
        self.ray = _import_ray()
        self._joined = not self.ray.is_initialized()
        if self._joined:
            _check_reachable(address)
            try:
                self.ray.init(address=address, log_to_driver=False, logging_level="error")
            except (ConnectionError, RuntimeError, ValueError) as problem:
                # Ray's own advice is on flags of its own.
                start, token = "start one with 'ray start --head', or give HOST:PORT", "does it ask for a token?"
                why = start if address == "auto" else f"{problem}; {token}"
                raise ValueError(f"ray-address: no cluster answers at {address!r}: {why}") from problem

    @property
    def jobs(self) -> int:
        """Number of runs that the cluster has room for now; at least 1."""
        have = self.ray.cluster_resources()
        room = have.get("CPU", 0) / self.settings.threads
        if self.settings.gpus:
            room = min(room, have.get("GPU", 0) / self.settings.gpus)
        return max(1, int(room))

    def run(self, specs: Sequence[RunSpec], store: ResultStore) -> Iterator[RunResult]:
        """As :meth:`.Executor.run`. Leaving the iterator early cancels the tasks."""
        task = self.ray.remote(
            num_cpus=self.settings.threads,
            num_gpus=self.settings.gpus,
            max_retries=self.retries,
            scheduling_strategy="SPREAD",
        )(_do)
        # A node's own working folder is another one.
        store = ResultStore(store.folder.resolve())
        data = os.environ.get(ENV)
        data = os.path.abspath(os.path.expanduser(data)) if data else None
        with _token(store.folder) as token:
            pending = {task.remote(spec, store, self.settings, token, data): spec for spec in specs}
            try:
                while pending:
                    (done,), _ = self.ray.wait(list(pending))
                    yield self._take(done, pending.pop(done))
            finally:
                # Once this process has left the cluster, its tasks have ended with it.
                for one in pending if self.ray.is_initialized() else ():
                    self.ray.cancel(one, force=True)

    def close(self) -> None:
        """Leave the cluster, if it was this executor that had joined it."""
        if self._joined:
            self.ray.shutdown()

    def _take(self, reference: Any, spec: RunSpec) -> RunResult:
        try:
            result: RunResult = self.ray.get(reference)
        except self.ray.exceptions.RayError as problem:
            again = f"after {self.retries} retries: " if self.retries else ""
            return RunResult(spec=spec, error=f"{again}{problem}\n{type(problem).__name__}: Ray has lost the run")
        return result


def _do(spec: RunSpec, store: ResultStore, settings: Settings, token: Path, data: str | None) -> RunResult:
    """Do a run on a node, in the results' folder if it is seen from there."""
    import tempfile

    from .processes import warm_up
    from .run import perform

    if data is not None and not os.environ.get(ENV):
        os.environ[ENV] = data
    warm_up(settings.threads)
    if token.exists():
        return perform(spec, store, settings)
    with tempfile.TemporaryDirectory(prefix="memplugins-") as own:
        return perform(spec, ResultStore(Path(own) / "runs"), settings)


def _show_token(address: str) -> None:
    """Have Ray show its token to the cluster, if there is one here.

    From 2.60 on `ray start` asks for one as soon as there is one, but who joins by HOST:PORT shows it only when told.
    A cluster that asks for none takes no notice. Ray looks at the variable when it is imported.
    """
    here = any(map(os.environ.get, ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))) or _TOKEN.expanduser().is_file()
    if address != "local" and here:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_reachable(address: str) -> None:
    # Ray itself tries for minutes, and fills the terminal with messages.
    variable = os.environ.get("RAY_ADDRESS") if address == "auto" else None
    named = re.fullmatch(r"(?:ray://)?([^:/]+|\[.+\]):(\d+)", variable or address)
    if named is None:
        return
    try:
        socket.create_connection((named[1].strip("[]"), int(named[2])), timeout=_WAIT).close()
    except (OSError, OverflowError) as problem:
        where = f"{address!r}, RAY_ADDRESS={variable}" if variable else repr(address)
        raise ValueError(f"ray-address: no cluster answers at {where}: {problem}") from problem


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """A file that a node finds only if it sees the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".seen-{uuid.uuid4().hex}"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as problem:
        raise ValueError("ray-address: needs Ray: pip install 'avalanche-memplugins[ray]'") from problem
    return ray
