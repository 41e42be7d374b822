"""One section of the GPU's measurements: its clock, its results, and what went wrong."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
_OURS = ("avalanche_memplugins", "strategies", "bench", "tests")


class Run:
    """What a section is given.

    :param name: of the section.
    :param device: to measure.
    :param small: whether everything is to be as small as possible, to see that it runs.
    :param seconds: after which no further item is begun.
    :param out: file that every result is appended to as a line of JSON, as soon as it is known.
    """

    def __init__(self, name: str, device: torch.device, *, small: bool, seconds: float, out: Path) -> None:
        self.name, self.device, self.small, self.out = name, device, small, out
        self.begun = time.perf_counter()
        self.end = self.begun + seconds

    def each(self, items: Iterable[Item], name: Callable[[Item], str] = str) -> Iterator[Item]:
        """The items, as long as there is time; those left out are told."""
        waiting = list(items)
        for number, item in enumerate(waiting):
            if time.perf_counter() > self.end:
                left = [name(one) for one in waiting[number:]]
                self._keep("left out", items=left)
                print(f"  out of time, left out: {', '.join(left)}", flush=True)
                return
            yield item

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Print an error and pass over it."""
        try:
            yield
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._keep("error", what=what, error=text, at=_place(error))
            print(f"  FAILED {what}: {text} at {_place(error)}", flush=True)

    def row(self, table: str, **cells: Any) -> None:
        """A row of a table, by heading."""
        self._keep("row", table=table, cells=cells)
        shown = ", ".join(f"{name} {value}" for name, value in cells.items())
        print(f"  [{time.perf_counter() - self.begun:5.1f} s] {table}: {shown}", flush=True)

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, work: Callable[[], Any], seconds: float = 0.15) -> tuple[float, float]:
        """Microseconds that a call takes until the device is done, and until it has come back to the host.

        Medians of five blocks of calls.
        """
        for _ in range(2):
            work()
        self.sync()
        start = time.perf_counter()
        work()
        self.sync()
        once = max(time.perf_counter() - start, 1e-7)
        calls = 1 if self.small else max(1, min(2_000, int(seconds / 5 / once)))
        blocks = []
        for _ in range(5):
            self.sync()
            start = time.perf_counter()
            for _ in range(calls):
                work()
            host = time.perf_counter()
            self.sync()
            blocks.append((time.perf_counter() - start, host - start))
        done, back = (sorted(block[i] for block in blocks)[2] / calls * 1e6 for i in range(2))
        return done, back

    def _keep(self, kind: str, **more: Any) -> None:
        line = {"section": self.name, "kind": kind, "seconds": round(time.perf_counter() - self.begun, 2), **more}
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(f"/{folder}/" in frame.filename for folder in _OURS)]
    inner = [frame for frame in ours if not frame.filename.endswith(Path(__file__).name)] or frames
    if not inner:
        return "unknown"
    return f"{'/'.join(Path(inner[-1].filename).parts[-2:])}:{inner[-1].lineno}"
