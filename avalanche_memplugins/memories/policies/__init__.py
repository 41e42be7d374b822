"""Write policies say which rows stay, read policies which come back; they combine freely."""

from avalanche_memplugins.memories.policies.balanced import GroupBalanced
from avalanche_memplugins.memories.policies.balanced_read import Balanced
from avalanche_memplugins.memories.policies.cycle import Cycle
from avalanche_memplugins.memories.policies.read import ReadPolicy, Uniform
from avalanche_memplugins.memories.policies.write import (
    Grouping,
    Placement,
    Reservoir,
    Ring,
    WritePolicy,
)

__all__ = [
    "Balanced",
    "Cycle",
    "GroupBalanced",
    "Grouping",
    "Placement",
    "ReadPolicy",
    "Reservoir",
    "Ring",
    "Uniform",
    "WritePolicy",
]
