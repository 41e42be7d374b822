"""Write policies say which rows stay, read policies which come back; they combine freely."""

from avalanche_memplugins.memories.policies.balanced import GroupBalanced
from avalanche_memplugins.memories.policies.gss import GSS
from avalanche_memplugins.memories.policies.hardest import Hardest
from avalanche_memplugins.memories.policies.herding import Herding
from avalanche_memplugins.memories.policies.read import Balanced, Cycle, ReadPolicy, Uniform
from avalanche_memplugins.memories.policies.write import (
    Grouping,
    Offered,
    Placement,
    Reservoir,
    Ring,
    WritePolicy,
)

__all__ = [
    "GSS",
    "Balanced",
    "Cycle",
    "GroupBalanced",
    "Grouping",
    "Hardest",
    "Herding",
    "Offered",
    "Placement",
    "ReadPolicy",
    "Reservoir",
    "Ring",
    "Uniform",
    "WritePolicy",
]
