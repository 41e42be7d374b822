"""No training step waits for a GPU, or copies more to it than is known: counted without one, see ``fake_cuda``.

``python tests/promises/test_waits.py [name ...]`` prints what every case does in a step, and where.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from fake_cuda import GPU, Record, fake_cuda
from memories_and_plugins import CODECS, PLUGINS, POLICIES, replay, rows
from torch import nn

from avalanche_memplugins.metrics import memory_metrics
from avalanche_memplugins.plugins import LeanStepPlugin, TensorLoaderPlugin
from avalanche_memplugins.testing import CodecCase, PluginCase, PolicyCase
from avalanche_memplugins.testing.cases import vectors
from avalanche_memplugins.testing.streams import SCENARIOS, Scenario, build, network


def with_policy(case: PolicyCase) -> PluginCase:
    kind = "write_policy" if hasattr(case.probe, "place") else "read_policy"
    return replay(f"policy {case.name}", lambda: rows(**{kind: case.make()}))


def with_codec(case: CodecCase) -> PluginCase:
    return replay(f"codec {case.name}", lambda: rows(codec=case.make()))


CASES = [
    *PLUGINS,
    *(with_policy(case) for case in POLICIES),
    *(with_codec(case) for case in CODECS if case.rows is vectors),
    replay("host", lambda: rows(storage="host")),
    replay("small labels", lambda: rows(labels="uint8")),
    replay("no tasks", lambda: rows(store_tasks=False)),
    replay("keys", lambda: rows(embedding=nn.Linear(8, 4))),
]

# Waits a step that are known, by case and file. What is fewer is welcome; take it off here.
GENERATIVE = {  # classes are looked up on the host, and statistics are solved there or checked
    "_checks/_rows.py": 5,
    "memories/_generative.py": 4,
    "functional/gaussian.py": 2,
}
GAUSSIAN = {**GENERATIVE, "memories/gaussian_memory.py": 11}
KANERVA = {
    **GENERATIVE,
    "codecs/_normalisation.py": 2,
    "functional/kanerva.py": 5,
    "memories/_kanerva.py": 7,
    "memories/_kanerva_posteriors.py": 8,
    "memories/kanerva_memory.py": 1,
}
ENERGY = {  # a slot holds what its patterns say, so that the host must know which there are
    "_checks/_rows.py": 1,
    "memories/energy_memory.py": 5,
    "memories/_energy_slots.py": 4,
}
LABELS = "memories/_labels.py"  # policies that go by class must see the classes
LOSSES = {"_checks/_rows.py": 1, "memories/policies/hardest.py": 1}
ARRIVING = {"memories/row_store.py": 2}  # rows of the step before that are still on their way to the host
WAITS: dict[str, dict[str, int]] = {
    "class_balanced": {LABELS: 2},
    "policy class_balanced": {LABELS: 1},
    "policy class_balanced read": {LABELS: 1},
    "policy hardest": LOSSES,
    "policy hardest, by class": {**LOSSES, LABELS: 1},
    "policy herding": {LABELS: 1, "memories/policies/herding.py": 4},
    "policy gss": {"memories/policies/gss.py": 4},
    "codec quantised": {"_checks/_rows.py": 1},
    "codec product quantised": {"_checks/_rows.py": 1},
    "host": ARRIVING,
    "prefetching": ARRIVING,
    **{case.name: GAUSSIAN for case in PLUGINS if case.name.startswith("Gaussian")},
    **{case.name: KANERVA for case in PLUGINS if case.name.startswith("Kanerva")},
    **{case.name: ENERGY for case in PLUGINS if case.name.startswith("energy")},
    **{case.name: {**GAUSSIAN, "memories/vae_memory.py": 3} for case in PLUGINS if case.name.startswith("VAE")},
}

# Copies to the device a step: a draw's indices; a write's rows and slots, and slots once more for the labels.
UPLOADS = 4
MORE_UPLOADS = {
    "stored logits": 5,
    "DER": 5,
    "DER++": 6,
    "DER++, at a layer": 6,
    "keys": 5,
    "policy herding": 6,
    **{name: 12 for name in WAITS if name.startswith(("Gaussian", "VAE"))},
    **{name: 17 for name in WAITS if name.startswith("Kanerva")},
}


class Counting(SupervisedPlugin):  # type: ignore[misc]
    """Has the record note what happens from the second experience's first iteration to its last, and so on."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record, self.steps = record, 0

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.record.on = strategy.clock.train_exp_counter > 0

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


def steps_of(case: PluginCase, evaluator: Any = None) -> Found:
    """Train on a small stream on the device that is not there."""
    plain = SCENARIOS["x, y, t"]
    scenario = Scenario(plain.benchmark, lambda: network().to(GPU))
    with fake_cuda() as record:
        plugin, counting = case.make(), Counting(record)
        plugins = [plugin] if isinstance(plugin, TensorLoaderPlugin) else [TensorLoaderPlugin(), plugin]
        others = [] if isinstance(plugin, LeanStepPlugin) else [LeanStepPlugin()]
        strategy = build(scenario, [*plugins, *others, counting], device=GPU, evaluator=evaluator)
        torch.manual_seed(1)
        for experience in scenario.stream():
            strategy.train(experience, num_workers=0)
        assert all(p.is_cuda for p in strategy.model.parameters())
        return Found(counting.steps, record.found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_waits_for_the_gpu_only_where_it_is_known_to(case: PluginCase) -> None:
    step = steps_of(case)
    known = WAITS.get(case.name, {})
    assert step.steps == 8
    more = {name: times for name, times in step.ours("wait").items() if times > known.get(name, 0)}
    assert not more, f"waits a step by file: {more}; in full: {step.found}"
    uploads = sum(step.ours("upload").values())
    assert uploads <= MORE_UPLOADS.get(case.name, UPLOADS), step.found


@pytest.mark.parametrize("name", ["reservoir", "stored logits"])
def test_metrics_of_the_memory_do_not_wait_within_a_step(name: str) -> None:
    case = next(case for case in PLUGINS if case.name == name)
    evaluator = EvaluationPlugin(memory_metrics(), loggers=[])
    assert steps_of(case, evaluator).ours("wait") == {}


WAITING = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool(x.any()),
    "list": lambda x: x.tolist(),
    "to the CPU": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "number of the device put by a mask": lambda x: x.clone().__setitem__(x > 0, x[:1]),
    "unique": lambda x: x.unique(),
    "copy": lambda x: torch.zeros(4).copy_(x),
    "new from a list": lambda x: torch.tensor([1.0], device=x.device),
    "from pageable memory": lambda x: torch.ones(4).to(x.device),
    "indices of the host": lambda x: x[torch.tensor([0, 1])],
    "list of indices": lambda x: x[[0, 1]],
    "eigenvalues": lambda x: torch.linalg.eigh(x[:, None] * x),
}
FREE = {
    "arithmetic": lambda x: (x * 2 + 1).sum().mean(),
    "number": lambda x: x * torch.tensor(2.0),
    "filled by a mask": lambda x: x.clone().masked_fill_(x > 0, 1.0),
    "number put by a mask": lambda x: x.clone().__setitem__(x > 0, 1.0),
    "made there": lambda x: torch.zeros(3, device=x.device),
    "indices of the device": lambda x: x[torch.arange(2, device=x.device)],
    "slice": lambda x: x.clone().__setitem__(slice(0, 2), x[2:]),
    "one upload": lambda x: x.index_select(0, torch.tensor([1]).pin_memory().to(x.device, non_blocking=True)),
    "gradient": lambda x: nn.functional.cross_entropy(
        x.clone().requires_grad_().view(1, 4), torch.zeros(1, dtype=torch.int64, device=x.device)
    ).backward(),
}


@pytest.mark.parametrize("name", [*WAITING, *FREE])
def test_the_record_tells_what_waits_from_what_does_not(name: str) -> None:
    with fake_cuda() as record:
        x = torch.arange(4.0).to(GPU)
        record.on = True
        {**WAITING, **FREE}[name](x)
        record.on = False
        kinds = {kind for kind, _, _ in record.found}
    assert ("wait" in kinds) == (name in WAITING)
    assert ("upload" in kinds) == (
        name in ("new from a list", "from pageable memory", "indices of the host", "list of indices", "one upload")
    )


def test_devices_do_not_mix() -> None:
    with fake_cuda():
        x = torch.arange(4.0).to(GPU)
        for mix in (
            lambda: x + torch.ones(4),
            lambda: torch.ones(4)[x.long()],
            lambda: torch.cat([x, torch.ones(4)]),
            lambda: torch.rand(3, device=GPU, generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match="device"):
                mix()


def test_values_and_gradients_are_those_of_the_cpu() -> None:
    x, y = torch.randn(5, 8), torch.arange(5)
    plain, other = network(), network()
    nn.functional.cross_entropy(plain(x), y).backward()
    with fake_cuda():
        model = other.to(GPU)
        loss = nn.functional.cross_entropy(model(x.to(GPU)), y.to(GPU))
        loss.backward()
        gradients = [p.grad.cpu() for p in model.parameters()]
    assert all(torch.equal(p.grad, g) for p, g in zip(plain.parameters(), gradients, strict=True))


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
