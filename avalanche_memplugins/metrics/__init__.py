"""Metrics of memories for Avalanche's evaluator."""

from avalanche_memplugins.metrics.memory_bytes import MemoryBytes, MemoryFixedBytes
from avalanche_memplugins.metrics.memory_metrics import memory_metrics
from avalanche_memplugins.metrics.replay_accuracy import ReplayAccuracy

__all__ = ["MemoryBytes", "MemoryFixedBytes", "ReplayAccuracy", "memory_metrics"]
