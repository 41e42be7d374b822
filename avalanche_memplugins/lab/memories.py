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
        "read: uniform, cycle, class_balanced, task_balanced; codec: raw, float16, uint8, int8, 4bit, 1bit",
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
    MemoryInfo(
        name="GaussianMemory",
        module="avalanche_memplugins.memories",
        summary="one Gaussian a class over rows or codes, in one pass; the control for all that follow",
    ),
    MemoryInfo(
        name="DynamicKanervaMemory",
        module="avalanche_memplugins.memories",
        summary="rows that every code is a mixture of, written by Bayes' rule; a posterior a class, or one for all",
    ),
    MemoryInfo(
        name="KanervaMemory",
        module="avalanche_memplugins.memories",
        summary="the same, addressed by the network of a trained Kanerva machine",
    ),
    MemoryInfo(
        name="VAEMemory",
        module="avalanche_memplugins.memories",
        summary="a VAE that learns each experience beside its own replay",
    ),
    MemoryInfo(
        name="EnergyMemory",
        module="avalanche_memplugins.memories",
        summary="patterns as minima of a meta-learned energy whose weights are written; completes, knows what is new",
    ),
    MemoryInfo(
        name="LatentMemory",
        module="avalanche_memplugins.memories",
        summary="rows as codes of an auto-encoder that is trained on the stream",
    ),
)
