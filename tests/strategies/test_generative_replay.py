"""VAEReplay is its plugin on Naive, remembers, and leaves the caller's things alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from _streams import CLASSES, FEATURES, Case, network, rows, run, weights
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from avalanche_memplugins import MemoryReplayPlugin
from avalanche_memplugins.memories import VAEMemory
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.strategies import VAEReplay


def train(*, epochs: int = 1, **options: Any) -> VAEReplay:
    model = network()
    strategy = VAEReplay(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        **{"shape": (FEATURES,), "steps": 10, "batch_size": 16, "train_mb_size": 16, "eval_mb_size": 64, **options},
        train_epochs=epochs,
        evaluator=None,
    )
    torch.manual_seed(1)
    for experience in Case().stream():
        strategy.train(experience, num_workers=0)
    return strategy


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize("labels", ["old_model", "soft", "memory"])
def test_it_is_its_plugin_on_naive(labels: str, classes: int | None) -> None:
    torch.manual_seed(3)
    generator = ConditionalVAE((FEATURES,), classes=classes, likelihood="gaussian")
    memory = VAEMemory(generator, steps=10, batch_size=16, seed=3)
    plugin = MemoryReplayPlugin(memory, replay_weight="growing", labels=labels, seed=3)
    expected = weights(run(Case(), [plugin]))
    strategy = train(labels=labels, classes=classes, seed=3)
    assert torch.equal(weights(strategy), expected)
    assert len(strategy.memory) == 180
    assert sorted(strategy.memory.classes) == list(range(CLASSES))


def test_it_remembers_where_naive_forgets() -> None:
    """Six Gaussian classes in three experiences: plain fine-tuning ends at a third."""
    x, y = rows(120, 5).tensors

    def accuracy(strategy: Any) -> float:
        with torch.no_grad():
            return float((strategy.model(x).argmax(1) == y).float().mean())

    naive = run(Case(options={"train_epochs": 10}), [])
    replay = train(epochs=10, steps=300, lr=3e-3)
    assert accuracy(naive) < 0.45
    assert accuracy(replay) > accuracy(naive) + 0.2


def test_the_callers_things_stay_as_they_were() -> None:
    mine: list[Any] = []
    model = network()
    state = torch.get_rng_state()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    VAEReplay(model=model, optimizer=optimizer, plugins=mine, evaluator=None, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert mine == []


def test_arguments_are_keywords_and_those_of_avalanche_come_along() -> None:
    parameters = inspect.signature(VAEReplay.__init__).parameters
    assert all(p.kind is not p.POSITIONAL_OR_KEYWORD for name, p in parameters.items() if name != "self")
    strategy = train(peval_mode="iteration", eval_every=-1)
    assert isinstance(strategy, SupervisedTemplate)
    with pytest.raises(ValueError, match="steps: expected an integer >= 1, got"):
        train(steps=0)
    with pytest.raises(ValueError, match="labels: expected one of"):
        train(labels="old")
