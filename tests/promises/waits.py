"""What a training step of every plugin, codec and policy waits for, and copies to the device.

``python tests/promises/waits.py [name ...]`` prints the table, without a GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from avalanche.core import SupervisedPlugin
from fake_cuda import GPU, fake_cuda
from memories_and_plugins import CODECS, PLUGINS, POLICIES, replay, rows
from torch import nn

from avalanche_memplugins.plugins import LeanStepPlugin, TensorLoaderPlugin
from avalanche_memplugins.testing import CodecCase, PluginCase, PolicyCase
from avalanche_memplugins.testing.cases import vectors
from avalanche_memplugins.testing.streams import SCENARIOS, Scenario, build, network


class Recording(Protocol):
    """Notes ``(kind, operation, place)`` and how often, while it is on."""

    on: bool
    found: Counter[tuple[str, str, str]]


def with_policy(case: PolicyCase) -> PluginCase:
    kind = "write_policy" if hasattr(case.probe, "place") else "read_policy"
    return replay(f"policy {case.name}", lambda: rows(**{kind: case.make()}), write_at="iteration")


def with_codec(case: CodecCase) -> PluginCase:
    return replay(f"codec {case.name}", lambda: rows(codec=case.make()), write_at="iteration")


BY_CLASS = {"write_policy": "class_balanced", "read_policy": "class_balanced"}
CASES = [
    *PLUGINS,
    *(with_policy(case) for case in POLICIES),
    *(with_codec(case) for case in CODECS if case.rows is vectors),
    replay("host", lambda: rows(storage="host"), write_at="iteration"),
    replay("small labels", lambda: rows(labels="uint8"), write_at="iteration"),
    replay("no tasks", lambda: rows(store_tasks=False), write_at="iteration"),
    replay("at each iteration", rows, write_at="iteration"),
    replay("by class at each iteration", lambda: rows(**BY_CLASS), write_at="iteration"),
    replay("logits at each iteration", lambda: rows(store_logits=True), write_at="iteration"),
    replay("soft at each iteration", rows, labels="soft", write_at="iteration"),
    replay("keys", lambda: rows(embedding=nn.Linear(8, 4)), write_at="iteration"),
]


class Counting(SupervisedPlugin):  # type: ignore[misc]
    """Has the record note the iterations of the third experience and those behind it.

    Rows are replayed from the second on, when what is made once comes to the device.
    """

    def __init__(self, record: Recording) -> None:
        super().__init__()
        self.record, self.steps = record, 0

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.record.on = strategy.clock.train_exp_counter > 1

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.steps += self.record.on

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.record.on = False


@dataclass(frozen=True)
class Found:
    """What a step did, on average: ``(kind, operation, place)`` and how often."""

    steps: int
    found: Counter[tuple[str, str, str]]

    def ours(self, kind: str) -> dict[str, float]:
        """Of one kind, by file of this library."""
        by_file: Counter[str] = Counter()
        for (of, _, place), times in self.found.items():
            if of == kind and not place.startswith(("avalanche/", "torch/")):
                by_file[place.partition(":")[0]] += times
        return {name: times / self.steps for name, times in by_file.items()}


def steps_of(
    case: PluginCase,
    evaluator: Any = None,
    *,
    recording: Callable[[], AbstractContextManager[Recording]] = fake_cuda,
    device: torch.device = GPU,
) -> Found:
    """Train on a small stream.

    :param recording: gives the record; the default is of a device that is not there.
    :param device: to train on.
    """
    plain = SCENARIOS["x, y, t"]
    scenario = Scenario(plain.benchmark, lambda: network().to(device))
    with recording() as record:
        plugin, counting = case.make(), Counting(record)
        plugins = [plugin] if isinstance(plugin, TensorLoaderPlugin) else [TensorLoaderPlugin(), plugin]
        others = [] if isinstance(plugin, LeanStepPlugin) else [LeanStepPlugin()]
        strategy = build(scenario, [*plugins, *others, counting], device=device, evaluator=evaluator)
        torch.manual_seed(1)
        for experience in scenario.stream():
            strategy.train(experience, num_workers=0)
        assert all(p.device == device for p in strategy.model.parameters())
        return Found(counting.steps, record.found)


def main(names: list[str]) -> None:
    print(f"{'case':45} {'waits':>6} {'uploads':>8}   a step; waits by place")
    for case in CASES:
        if names and case.name not in names:
            continue
        step = steps_of(case)
        waits, uploads = (sum(step.ours(kind).values()) for kind in ("wait", "upload"))
        places: Counter[str] = Counter()
        for (kind, operation, place), times in step.found.items():
            if kind == "wait" or names:
                places[f"{operation} at {place}"] += times
        print(f"{case.name:45} {waits:6.2f} {uploads:8.2f}   ", end="")
        print("; ".join(f"{times / step.steps:g} {place}" for place, times in places.most_common()))


if __name__ == "__main__":
    main(sys.argv[1:])
