"""No training step waits for a GPU, or copies more to it than is known: counted without one, see ``fake_cuda``."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from fake_cuda import GPU, fake_cuda
from memories_and_plugins import PLUGINS
from torch import nn
from waits import CASES, steps_of

from avalanche_memplugins.metrics import memory_metrics
from avalanche_memplugins.testing import PluginCase
from avalanche_memplugins.testing.streams import network

# Waits a step that are known, by case and file. What is fewer is welcome; take it off here.
GENERATIVE = {  # classes are looked up on the host, and statistics are solved there or checked
    "_checks/_rows.py": 5,
    "memories/_generative.py": 4,
    "functional/gaussian.py": 2,
}
GAUSSIAN = {**GENERATIVE, "memories/gaussian_memory.py": 4, "memories/_gaussian_bank.py": 7}
KANERVA = {
    **GENERATIVE,
    "_normalisation.py": 2,
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
    "by class at each iteration": {LABELS: 2},
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
    **{case.name: GAUSSIAN for case in PLUGINS if "Gaussian" in case.name},
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
    **{name: 12 for name in WAITS if "Gaussian" in name or name.startswith("VAE")},
    **{name: 17 for name in WAITS if name.startswith("Kanerva")},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_waits_for_the_gpu_only_where_it_is_known_to(case: PluginCase) -> None:
    step = steps_of(case)
    known = WAITS.get(case.name, {})
    assert step.steps == 4
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
