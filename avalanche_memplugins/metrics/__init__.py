"""Metrics of memories for Avalanche's evaluator."""

from avalanche_memplugins.metrics.memory_bytes import MemoryBytes, MemoryFixedBytes
from avalanche_memplugins.metrics.memory_metrics import memory_metrics
from avalanche_memplugins.metrics.memory_novelty import MemoryNovelty
from avalanche_memplugins.metrics.on_device import on_device
from avalanche_memplugins.metrics.replay_accuracy import ReplayAccuracy
from avalanche_memplugins.metrics.replay_agreement import ReplayAgreement
from avalanche_memplugins.metrics.replay_bound import ReplayBound

__all__ = [
    "MemoryBytes",
    "MemoryFixedBytes",
    "MemoryNovelty",
    "ReplayAccuracy",
    "ReplayAgreement",
    "ReplayBound",
    "memory_metrics",
    "on_device",
]
