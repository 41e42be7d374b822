"""What every memory, codec, policy and plugin promises, as checks to run on classes of one's own."""

from avalanche_memplugins.testing.cases import CodecCase, MemoryCase, PluginCase, PolicyCase
from avalanche_memplugins.testing.run import (
    Outcome,
    Report,
    check_codec,
    check_memory,
    check_plugin,
    check_policy,
    checks_of,
    parametrize_with_checks,
)

__all__ = [
    "CodecCase",
    "MemoryCase",
    "Outcome",
    "PluginCase",
    "PolicyCase",
    "Report",
    "check_codec",
    "check_memory",
    "check_plugin",
    "check_policy",
    "checks_of",
    "parametrize_with_checks",
]
