"""Policies and codecs by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

from avalanche_memplugins import _checks as check
from avalanche_memplugins import codecs
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories.policies import (
    Balanced,
    Cycle,
    GroupBalanced,
    ReadPolicy,
    Reservoir,
    Ring,
    Uniform,
    WritePolicy,
)

_WRITE: dict[str, Callable[[], WritePolicy]] = {
    "ring": Ring,
    "reservoir": Reservoir,
    "class_balanced": lambda: GroupBalanced("class"),
    "task_balanced": lambda: GroupBalanced("task"),
}
_READ: dict[str, Callable[[bool], ReadPolicy]] = {
    "uniform": lambda replacement: Uniform(replacement=replacement),
    "cycle": lambda replacement: _cycle(replacement),
    "class_balanced": lambda replacement: Balanced("class", replacement=replacement),
    "task_balanced": lambda replacement: Balanced("task", replacement=replacement),
}
# What gives placements in order; those of a user are looked at.
WRITE_KINDS = (Ring, Reservoir, GroupBalanced)
READ_KINDS = (Uniform, Cycle, Balanced)
_CODECS: dict[str, Callable[[], Codec]] = {
    "raw": codecs.Raw,
    "float16": codecs.Float16,
    "uint8": codecs.Uint8,
    "int8": codecs.Int8,
    "4bit": lambda: codecs.Bits(4),
    "1bit": lambda: codecs.Bits(1),
}


def write_policy(policy: str | WritePolicy) -> WritePolicy:
    """The policy of that name, or a copy of the given one: it keeps what belongs to one memory.

    :raises TypeError: for a class in the place of its instance.
    """
    if isinstance(policy, str):
        return check.one_of("policy", policy, _WRITE)()
    check.having("policy", policy, ("grouping", "start", "place"), "a name or a WritePolicy")
    return copy.deepcopy(policy)


def read_policy(read: str | ReadPolicy, replacement: bool) -> ReadPolicy:
    """The policy of that name, or a copy of the given one.

    :raises TypeError: for a class in the place of its instance.
    """
    if isinstance(read, str):
        return check.one_of("read", read, _READ)(replacement)
    check.having("read", read, ("grouping", "start", "choose"), "a name or a ReadPolicy")
    return copy.deepcopy(read)


def codec_of(codec: str | Codec) -> Codec:
    """The codec of that name, or the given one.

    :raises TypeError: if it lacks a part, or is a class.
    """
    return check.one_of("codec", codec, _CODECS)() if isinstance(codec, str) else _complete(codec)


def _complete(codec: Codec) -> Codec:
    check.having("codec", codec, ("check", "encode", "decode", "spec", "nbytes_fixed"), "a name or a Codec")
    return codec


def _cycle(replacement: bool) -> Cycle:
    if replacement:
        raise ValueError(
            "replacement: expected False for read='cycle', which gives every row once a pass, got replacement=True"
        )
    return Cycle()
