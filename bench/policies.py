"""What the policies of a memory of rows cost: microseconds a batch of 32, and bytes a slot, against 1k to 1M rows.

OMP_NUM_THREADS=1 python bench/policies.py        ten minutes
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from _common import Options, launch
from _record import table

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Bits

PAIRS = (
    ("reservoir", "uniform"),
    ("ring", "cycle"),
    ("class_balanced", "uniform"),
    ("reservoir", "class_balanced"),
    ("class_balanced", "class_balanced"),
    ("task_balanced", "task_balanced"),
)
SHAPE = (1, 28, 28)
FILL, BATCH, CALLS = 1_000, 32, 50


def filled(capacity: int, policy: str, read: str) -> RandomMemory:
    """A memory that has been offered a little more than it holds."""
    memory = RandomMemory(
        capacity,
        write_policy=policy,
        read_policy=read,
        codec=Bits(1),
        labels="uint8",
        store_tasks=False,
        validate="first",
    )
    x, y = torch.rand(FILL, *SHAPE).round(), torch.arange(FILL) % 10
    for _ in range(capacity // FILL + 1):
        memory.write(x, y, origin=y)
    return memory


def microseconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - began) / CALLS * 1e6


def times(capacity: int, repetitions: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Least of several turns, in which all pairs come one after the other."""
    memories = {pair: filled(capacity, *pair) for pair in PAIRS}
    x, y = torch.rand(BATCH, *SHAPE).round(), torch.arange(BATCH) % 10
    least = dict.fromkeys(PAIRS, (float("inf"), float("inf")))
    for _ in range(repetitions):
        for pair, memory in memories.items():
            write = microseconds(lambda memory=memory: memory.write(x, y, origin=y))  # type: ignore[misc]
            sample = microseconds(lambda memory=memory: memory.sample(BATCH))  # type: ignore[misc]
            least[pair] = min(least[pair][0], write), min(least[pair][1], sample)
    return least


def bytes_a_slot(policy: str, read: str, capacity: int = 20_000) -> tuple[float, float]:
    """Bytes of the policies that are counted, and that are taken."""
    gc.collect()
    tracemalloc.start()
    memory = filled(capacity, policy, read)
    memory.sample(capacity)
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    cycle = getattr(memory.read_policy, "_ahead", None)
    tensors = 0 if cycle is None else cycle.untyped_storage().nbytes()
    for name in ("_key", "_group"):  # of earlier versions
        held = getattr(memory.write_policy, name, None)
        tensors += held.nbytes if isinstance(held, torch.Tensor) else 0
    return (memory.write_policy.nbytes + memory.read_policy.nbytes) / capacity, (traced + tensors) / capacity


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """How often, and where to."""

    repetitions: int = 9
    section: str = "Cost of policies"
    """Heading in bench/RESULTS.md."""


def main(options: Settings) -> None:
    """Measure and record."""
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000, 1_000_000]
    found = {size: times(size, options.least(options.repetitions, 1)) for size in sizes}
    rows: list[list[object]] = []
    for pair in PAIRS:
        counted, taken = bytes_a_slot(*pair)
        cells = [f"{found[size][pair][0]:.0f} / {found[size][pair][1]:.0f}" for size in sizes]
        base = found[sizes[-1]][PAIRS[0]]
        ratio = " / ".join(f"{mine / uniform:.2f}" for mine, uniform in zip(found[sizes[-1]][pair], base, strict=True))
        rows.append([", ".join(pair), *cells, ratio, f"{counted:.1f}", f"{taken:.1f}"])
    header = ["write, read", *(f"{size:,} rows" for size in sizes), "over uniform", "counted", "taken"]
    text = (
        f"Microseconds of CPU time to write / to sample a batch of {BATCH} 1-bit rows of 28 x 28, ten groups, memory "
        "full and just full, so that most rows offered are still kept; least of several interleaved turns. Last: "
        "policies' bytes a slot, as `nbytes` counts them and as tracemalloc and the tensors show them.\n\n"
        + table(header, rows)
    )
    options.write(options.section, text, "OMP_NUM_THREADS=1 python bench/policies.py")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
