"""Training steps with a memory in files that are not in memory yet: what telling the system beforehand brings.

A memory-mapped memory is filled and pushed out of the page cache; then a small MLP trains on a batch of 32 and 32
rows from it. Wall time, since the processor waits for the disk.

    OMP_NUM_THREADS=1 python bench/mapped.py --scratch FOLDER_ON_A_DISK
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from _common import Options, launch
from _record import table

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.memories import row_store

BATCH = 32
STEPS = 150
# Whether the system is told which rows come, whether they are fetched by another thread.
ARMS = {
    "plain": (False, False),
    "another thread": (False, True),
    "read-ahead (what the memory does)": (True, False),
    "read-ahead and another thread": (True, True),
}


def push_out(memory: RandomMemory, folder: Path) -> None:
    """Drop the files from this process's pages and from the system's cache."""
    advise = ctypes.CDLL(None).madvise
    for _, buffer in memory.store.named_buffers():
        advise(ctypes.c_void_p(buffer.data_ptr()), ctypes.c_size_t(buffer.nbytes), mmap.MADV_DONTNEED)
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train(memory: RandomMemory, x: torch.Tensor, y: torch.Tensor, *, read_ahead: bool, thread: bool) -> float:
    """Milliseconds a step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    advice = row_store.read_ahead if read_ahead else lambda *arguments: None
    with (
        mock.patch.object(row_store, "read_ahead", advice),
        mock.patch.object(row_store.RowStore, "is_apart", thread),
    ):
        start = time.perf_counter()
        for _ in range(STEPS):
            old = memory.sample(BATCH)
            memory.prefetch(BATCH)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(torch.cat([x, old.x])), torch.cat([y, old.y]))
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - start) / STEPS * 1e3


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """How much, and where."""

    scratch: Path = Path(tempfile.gettempdir())
    """Folder on a disk: 1.3 GB."""
    rows: int = 400_000
    repetitions: int = 7


def main(options: Settings) -> None:
    """Measure and record."""
    if options.quick:
        options = replace(options, rows=4_000, repetitions=1)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        place = Path(folder) / "rows"
        memory = RandomMemory(options.rows, write_policy="ring", storage=place, validate="first")
        x, y = torch.rand(2_000, 1, 28, 28), torch.arange(2_000) % 10
        for _ in range(options.rows // len(x)):
            memory.write(x, y)
        found: dict[str, dict[str, list[float]]] = {arm: {"cold": [], "warm": []} for arm in ARMS}
        for state in ("cold", "warm"):
            memory.store["codes"].sum()
            for _ in range(options.repetitions):
                for arm, (ahead, thread) in ARMS.items():
                    if state == "cold":
                        push_out(memory, place)
                    found[arm][state].append(train(memory, x[:BATCH], y[:BATCH], read_ahead=ahead, thread=thread))
    rows: list[list[object]] = []
    for arm, at in found.items():
        pairs = [a / b for a, b in zip(at["cold"], found["plain"]["cold"], strict=True)]
        middles = [f"{statistics.median(at[state]):.2f}" for state in ("cold", "warm")]
        rows.append([arm, *middles, f"{statistics.median(pairs):.2f}"])
    text = (
        f"Milliseconds of wall time a step, medians of {options.repetitions} interleaved runs of {STEPS} steps; "
        f"{options.rows:,} rows of 28 x 28 float32 in files. Cold: pushed out of the page cache before each run. "
        "Other programs ran on the machine meanwhile.\n\n"
        + table(["arm", "cold, ms a step", "warm, ms a step", "cold, over plain"], rows)
    )
    options.write("Memory in files", text, "OMP_NUM_THREADS=1 python bench/mapped.py --scratch FOLDER")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
