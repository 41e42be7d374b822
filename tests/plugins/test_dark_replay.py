"""Dark experience replay, against its loss worked out by hand in float64 from outputs kept beside the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _streams import CASES, Case, run, weights
from avalanche.core import SupervisedPlugin
from torch import Tensor

from avalanche_memplugins import DarkReplayPlugin, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.memories import GaussianMemory


def numbers(x: Tensor) -> list[int]:
    return (x[:, -1] * 1_000).round().long().tolist()


def cross_entropy(output: Tensor, y: Tensor) -> float:
    z = output.detach().numpy().astype(np.float64)
    z = z - z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y.numpy()]).mean())


class Witness(SupervisedPlugin):
    """Notes every row's outputs when it first passes, and works out each loss from them."""

    def __init__(self, plugin: DarkReplayPlugin, alpha: float, beta: float) -> None:
        super().__init__()
        self.plugin, self.alpha, self.beta = plugin, alpha, beta
        self.seen: dict[int, np.ndarray] = {}
        self.draws: list[tuple[list[int], list[int]]] = []

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        replay = self.plugin.last_replay
        if replay is not None:
            half = len(replay.y) // 2 if self.alpha and self.beta else len(replay.y) if self.alpha else 0
            loss = cross_entropy(strategy.mb_output, strategy.mbatch[1])
            rows = numbers(replay.x)
            if self.alpha:
                old = np.stack([self.seen[number] for number in rows[:half]])
                loss += self.alpha * ((replay.output[:half].numpy().astype(np.float64) - old) ** 2).mean()
            if self.beta:
                loss += self.beta * cross_entropy(replay.output[half:], replay.label[half:])
            assert float(strategy.loss.detach()) == pytest.approx(loss, abs=1e-5)
            self.draws.append((rows[:half], rows[half:]))
        for number, output in zip(numbers(strategy.mbatch[0]), strategy.mb_output.detach().numpy(), strict=True):
            self.seen.setdefault(number, output.astype(np.float64))


@pytest.mark.parametrize("case", ["x, y, t", "several epochs", "online"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.4), (1.5, 0.0), (0.0, 2.0)])
def test_the_loss_is_the_papers(alpha: float, beta: float, case: str) -> None:
    plugin = DarkReplayPlugin(
        RandomMemory(40, store_logits=True, write_policy="reservoir", seed=3), alpha=alpha, beta=beta, replay_size=7
    )
    witness = Witness(plugin, alpha, beta)
    run(CASES[case], [plugin, witness])
    full = [draw for draw in witness.draws if max(map(len, draw)) == 7]
    assert len(full) >= 10
    assert {len(first) for first, _ in full} == {7 if alpha else 0}
    assert {len(second) for _, second in full} == {7 if beta else 0}
    if alpha and beta:
        assert any(set(first) != set(second) for first, second in full), "two draws, not one used twice"


def test_the_gradient_is_that_of_both_terms() -> None:
    """One step by SGD from known weights, against torch's own gradient of the loss written down in one line."""

    class Step(SupervisedPlugin):
        def __init__(self) -> None:
            super().__init__()
            self.steps = 0

        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            replay, recall = plugin.last_replay, plugin._step.recall
            if replay is None or recall is None or recall.logits is None:
                return
            model, x, y = strategy.model, strategy.mbatch[0], strategy.mbatch[1]
            dark, hard = recall.x[:5], recall.x[5:]
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss = loss + 0.3 * ((model(dark) - recall.logits[:5]) ** 2).mean()
            loss = loss + 0.6 * torch.nn.functional.cross_entropy(model(hard), recall.y[5:])
            expected = torch.autograd.grad(loss, list(model.parameters()))
            for parameter, gradient in zip(model.parameters(), expected, strict=True):
                assert torch.allclose(parameter.grad, gradient, atol=1e-6)
            self.steps += 1

    plugin = DarkReplayPlugin(RandomMemory(30, store_logits=True, seed=1), alpha=0.3, beta=0.6, replay_size=5)
    step = Step()
    run(Case(), [plugin, step])
    assert step.steps == 11


def test_with_outputs_only_it_is_replay_towards_stored_outputs() -> None:
    """DER with alpha against the convex form of MemoryReplayPlugin: equal up to the learning rate and the weight."""
    dark = DarkReplayPlugin(RandomMemory(40, store_logits=True, seed=2), alpha=1.0, beta=0.0)
    plain = MemoryReplayPlugin(
        RandomMemory(40, store_logits=True, seed=2), labels="logits", replay_weight=0.5, write_at="iteration"
    )

    class OnlyAfterTheFirst(SupervisedPlugin):
        """The first step has no replay and so no weight of a half."""

        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            if plain._step.recall is None:
                strategy.loss = 0.5 * strategy.loss

    first = run(Case(), [dark], lr=0.05, momentum=0.0)
    second = run(Case(), [plain, OnlyAfterTheFirst()], lr=0.1, momentum=0.0)
    assert torch.allclose(weights(first), weights(second), atol=1e-5)


@pytest.mark.parametrize(
    ("memory", "options", "error", "message"),
    [
        (lambda: RandomMemory(4), {}, ValueError, "memory: .* store_logits=True"),
        (lambda: GaussianMemory(), {}, TypeError, "memory: expected a RandomMemory .*, got GaussianMemory"),
        (lambda: RandomMemory(4, store_logits=True), {"alpha": -0.1}, ValueError, "alpha: expected .*, got -0.1"),
        (lambda: RandomMemory(4, store_logits=True), {"beta": float("nan")}, ValueError, "beta: expected .*, got nan"),
        (lambda: RandomMemory(4, store_logits=True), {"alpha": 0, "beta": 0}, ValueError, "alpha: nothing is replayed"),
        (lambda: RandomMemory(4, store_logits=True), {"labels": "memory"}, ValueError, "labels: .* sets its own"),
        (lambda: RandomMemory(4, store_logits=True), {"prefetch": True}, ValueError, "prefetch: .* sets its own"),
    ],
)
def test_wrong_arguments_are_named(memory: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DarkReplayPlugin(memory(), **options)
