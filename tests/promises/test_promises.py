"""Every memory, codec, policy and plugin of the library keeps what testing/ says that it promises."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from memories_and_plugins import CODECS, MEMORIES, PLUGINS, POLICIES
from torch import nn

from avalanche_memplugins.plugins import TensorLoaderPlugin
from avalanche_memplugins.testing import PluginCase, parametrize_with_checks
from avalanche_memplugins.testing.streams import SCENARIOS, Watcher, build

PLAIN = SCENARIOS["x, y, t"]
CASES = [*CODECS, *POLICIES, *MEMORIES, *PLUGINS]


@parametrize_with_checks(CASES)
def test_promise(case: Any, check: Any) -> None:
    check(case)


def public_classes() -> Iterator[type]:
    """Classes that a user can make a memory, codec, policy or plugin of."""
    kinds = {
        "memories": lambda kind: issubclass(kind, nn.Module),
        "memories.comparators": lambda kind: issubclass(kind, nn.Module),
        "memories.policies": lambda kind: hasattr(kind, "place") or hasattr(kind, "choose"),
        "codecs": lambda kind: hasattr(kind, "encode"),
        "plugins": lambda kind: issubclass(kind, SupervisedPlugin),
    }
    for package, belongs in kinds.items():
        module = import_module(f"avalanche_memplugins.{package}")
        for name in module.__all__:
            kind = getattr(module, name)
            if isinstance(kind, type) and not getattr(kind, "_is_protocol", False) and belongs(kind):
                yield kind


@pytest.mark.parametrize("kind", list(public_classes()), ids=lambda kind: kind.__name__)
def test_every_public_class_has_a_case(kind: type) -> None:
    assert kind in {type(case.make()) for case in CASES}


@pytest.mark.gpu
@pytest.mark.parametrize("case", PLUGINS, ids=lambda case: case.name)
def test_no_step_waits_for_the_gpu(case: PluginCase) -> None:
    plugin = case.make()
    # By class, rows are drawn by labels that the host must see; what models the stream looks at all of it.
    memory = getattr(plugin, "memory", None)
    if memory is None or not hasattr(memory, "store") or "class" in case.name:
        pytest.skip("has to look at labels or rows on the host")
    strategy = build(PLAIN, [TensorLoaderPlugin(), plugin], device="cuda")
    experiences = list(PLAIN.stream())
    strategy.train(experiences[0])

    class Strict(Watcher):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    strategy.plugins.insert(0, Strict())
    try:
        strategy.train(experiences[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert memory.device.type == "cuda"
