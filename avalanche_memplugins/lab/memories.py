"""Memories by name, for ``memplugins list``. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MemoryInfo:
    """A memory of the library.

    :param name: of the class, importable from ``module``.
    :param module: where it is.
    :param summary: one line for a reader.
    """

    name: str
    module: str
    summary: str


MEMORIES = (
    MemoryInfo(
        name="RandomMemory",
        module="avalanche_memplugins.memories",
        summary="rows of the stream; write: ring, reservoir, class_balanced, task_balanced; "
        "read: uniform, cycle, class_balanced, task_balanced; codec: raw, float16, uint8, 4bit, 1bit",
    ),
    MemoryInfo(
        name="EpisodicMemory",
        module="avalanche_memplugins.memories",
        summary="a RandomMemory that also finds the rows nearest to a query, exactly; for MbPA",
    ),
    MemoryInfo(
        name="DifferentiableNeuralDictionary",
        module="avalanche_memplugins.memories",
        summary="NEC's keys and values by class, read by kernel, updated in place",
    ),
)
