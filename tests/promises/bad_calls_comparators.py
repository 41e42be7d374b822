"""Calls of ``memories.comparators``."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from _call_record import RECORDS, record
from _comparators import controller, slot_network
from _comparators import made as comparator
from bad_calls_functional import normal
from bad_calls_memories import CODEC
from bad_values import (
    Array,
    Integer,
    Number,
    Shape,
    Thing,
    Values,
)
from torch import Tensor

from avalanche_memplugins.memories import comparators as B

WIDTH = 8

record(
    "memories.comparators.HopfieldMemory",
    B.HopfieldMemory,
    lambda: {"size": 4, "rule": "hebb", "update": "synchronous", "keep_diagonal": False, "sweeps": 2, "seed": 0},
)
record(
    "memories.comparators.ModernHopfieldMemory",
    B.ModernHopfieldMemory,
    lambda: {
        "size": 4,
        "beta": 1.0,
        "similarity": "dot",
        "steps": 1,
        "threshold": None,
        "clamp": False,
        "centre": 0.0,
        "capacity": None,
        "codec": None,
        "shape": None,
    },
    threshold=Number(least=0, none=True),
    centre=Number(),
    capacity=Integer(none=True),
    codec=CODEC,
    shape=Shape(none=True),
)
record(
    "memories.comparators.ModernHopfieldMemory.from_budget",
    B.ModernHopfieldMemory.from_budget,
    lambda: {"nbytes": 1_000, "size": 4, "codec": None, "shape": None, "beta": 1.0},
    codec=CODEC,
    shape=Shape(none=True),
    beta=None,
)
record("memories.comparators.SlotMemory", B.SlotMemory, lambda: {"network": slot_network(WIDTH)}, network=Thing())
record(
    "memories.comparators.ControllerMemory", B.ControllerMemory, lambda: {"network": controller(WIDTH)}, network=Thing()
)


def bits() -> Tensor:
    return (normal(1, 2, WIDTH) > 0).float()


def associative(name: str) -> Any:
    made = comparator(name, WIDTH)
    made.write(bits())
    return made


def constructed(name: str, call: Any, **given: Any) -> None:
    """Record a call with its defaults, and what has none."""
    parameters = inspect.signature(call).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    kinds = {"rounds": Integer(least=0)} if "rounds" in defaults else {}
    record(name, call, lambda: {**defaults, **given}, nbytes=None, **kinds)


for name in B.__all__:
    if f"memories.comparators.{name}" not in RECORDS:
        constructed(f"memories.comparators.{name}", getattr(B, name), size=WIDTH)
        if hasattr(getattr(B, name), "from_budget"):
            call = getattr(B, name).from_budget
            constructed(f"memories.comparators.{name}.from_budget", call, size=WIDTH, nbytes=1_000)
for name in B.__all__:
    record(
        f"memories.comparators.{name}.write",
        lambda name=name, **a: associative(name).write(**a),
        lambda: {"patterns": bits()},
        patterns=Array(finite=True, rows=True),
    )
    record(
        f"memories.comparators.{name}.read",
        lambda name=name, **a: associative(name).read(**a),
        lambda: {"cue": bits(), "known": None, "steps": None},
        cue=Array(finite=True, rows=True),
        known=Values((3, "x", bits(), torch.ones(1, 2, 3, dtype=torch.bool))),
        steps=Integer(none=True, huge=False),
    )
