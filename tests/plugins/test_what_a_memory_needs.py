"""A memory that chooses rows by their loss or outputs is given them; where the loss cannot be had, it is told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _streams import CASES, Case, Watcher, build, network, run, weights
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import Tensor, nn

from avalanche_memplugins import GaussianMemory, LatentReplayPlugin, MemoryReplayPlugin, RandomMemory


class Recorder(RandomMemory):
    """Keeps rows as ever, and notes what it was given with them."""

    needs: Any = frozenset({"x", "y", "loss", "logits"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = []

    def write(self, x: Tensor, y: Tensor, t: Any = 0, *, origin: Any = None, **extras: Any) -> None:
        assert extras.keys() == self.needs - {"x", "y"}
        self.given.append((x, y, extras.get("logits"), extras.get("loss")))
        super().write(x, y, t, origin=origin)


class Outputs(SupervisedPlugin):
    """Notes the stream's labels and outputs after each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append((strategy.mb_y.clone(), strategy.mb_output.detach().clone()))


def cross_entropies(output: Tensor, y: Tensor) -> np.ndarray[Any, Any]:
    o = output.double().numpy()
    o = o - o.max(1, keepdims=True)
    return np.log(np.exp(o).sum(1)) - o[np.arange(len(y)), y.numpy()]


@pytest.mark.parametrize("name", ["x, y, t", "x, y", "multi-head", "online", "several epochs"])
@pytest.mark.parametrize("policy", ["append", "replace"])
def test_rows_come_with_their_losses_and_outputs(name: str, policy: Any) -> None:
    memory, outputs = Recorder(40, seed=1), Outputs()
    run(CASES[name], [MemoryReplayPlugin(memory, write_epochs="all", batch_policy=policy, seed=0), outputs])
    assert len(memory) == 40
    assert len(memory.given) == len(outputs.seen)
    for (x, y, logits, loss), (seen, output) in zip(memory.given, outputs.seen, strict=True):
        assert logits is not None
        assert loss is not None
        assert not loss.requires_grad
        assert not logits.requires_grad
        assert loss.shape == (len(x),)
        assert torch.equal(y, seen)
        assert torch.equal(logits, output)
        np.testing.assert_allclose(loss.numpy(), cross_entropies(output, y), atol=1e-5)


@pytest.mark.parametrize("at", [None, "features"])
def test_at_the_end_of_an_experience_they_are_those_of_the_model_then(at: str | None) -> None:
    memory, case = Recorder(40, seed=1), Case()
    strategy = build(case, [MemoryReplayPlugin(memory, write_at="experience", at=at, seed=0)])
    experience = next(iter(case.stream()))
    strategy.train(experience, num_workers=0)
    x = torch.stack([row[0] for row in experience.dataset])
    y = torch.tensor([row[1] for row in experience.dataset])
    with torch.no_grad():
        output = strategy.model(x)
    assert torch.equal(torch.cat([y for _, y, *_ in memory.given]), y)
    assert torch.allclose(torch.cat([logits for *_, logits, _ in memory.given]), output, atol=1e-6)  # type: ignore[misc]
    losses = torch.cat([loss for *_, loss in memory.given])  # type: ignore[misc]
    np.testing.assert_allclose(losses.numpy(), cross_entropies(output, y), atol=1e-5)


def test_needing_changes_no_weight_and_what_is_not_needed_is_not_given() -> None:
    class Plain(Recorder):
        needs = frozenset()

    class Latent(Recorder):
        needs = frozenset({"loss"})

    runs = [
        run(Case(), [MemoryReplayPlugin(kind(40, seed=1), seed=0, write_at="iteration")])
        for kind in (Plain, Latent, Recorder)
    ]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert torch.equal(weights(runs[0]), weights(runs[2]))
    memory = Latent(40, seed=1)
    run(Case(), [LatentReplayPlugin(memory, at="features", freeze_below=False, seed=0, write_at="iteration")])
    assert memory.given[0][0].shape[1:] == (16,)
    assert all(logits is None and loss is not None for *_, logits, loss in memory.given)


class Own(nn.Module):
    """A criterion of the user's own that knows reductions."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        loss = 2 * F.nll_loss(output.log_softmax(1), y, reduction="none")
        return loss if self.reduction == "none" else loss.mean()


def squares(output: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    return F.mse_loss(output, F.one_hot(y, 6).float(), reduction=reduction)


WEIGHT = torch.tensor([1.0, 2.0, 3.0, 1.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("criterion", "by_hand"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT), lambda o, y: cross_entropies(o, y) * WEIGHT[y].numpy()),
        (nn.CrossEntropyLoss(reduction="sum"), cross_entropies),
        (F.cross_entropy, cross_entropies),
        (
            functools.partial(F.cross_entropy, label_smoothing=0.2),
            lambda o, y: (
                0.8 * cross_entropies(o, y)
                + 0.2 * np.mean([cross_entropies(o, torch.full_like(y, c)) for c in range(6)], axis=0)
            ),
        ),
        (Own(), lambda o, y: 2 * cross_entropies(o, y)),
        (squares, lambda o, y: ((o.double().numpy() - np.eye(6)[y.numpy()]) ** 2).mean(1)),
    ],
)
def test_the_loss_is_the_criterions(criterion: Any, by_hand: Callable[[Tensor, Tensor], Any]) -> None:
    memory, outputs = Recorder(40, seed=1), Outputs()
    run(Case(), [MemoryReplayPlugin(memory, seed=0, write_at="iteration"), outputs], criterion=criterion, lr=0.01)
    for (_, y, _, loss), (_, output) in zip(memory.given, outputs.seen, strict=True):
        assert loss is not None
        np.testing.assert_allclose(loss.numpy(), by_hand(output, y), rtol=1e-4, atol=1e-5)
    assert getattr(criterion, "reduction", "mean") != "none"  # the user's own is left as it is


class Overrides(Naive):  # type: ignore[misc]
    """A strategy whose loss is not its criterion's alone."""

    def criterion(self) -> Tensor:
        return 2 * self._criterion(self.mb_output, self.mb_y)


class NoReduction(nn.Module):
    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output, y)


@pytest.mark.parametrize(
    ("kind", "criterion", "got"),
    [
        (Overrides, nn.CrossEntropyLoss(), r"a criterion\(\) of Overrides's own"),
        (Naive, NoReduction(), "NoReduction"),
        (Naive, lambda output, y: F.cross_entropy(output, y), "<lambda>"),
    ],
)
def test_a_loss_that_cannot_be_had_row_by_row_is_told_before_training(kind: Any, criterion: Any, got: str) -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    strategy = kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=criterion,
        plugins=[MemoryReplayPlugin(Recorder(9), write_at="iteration")],
        evaluator=None,
    )
    with pytest.raises(
        ValueError, match=rf"criterion: Recorder chooses rows by their loss.*reduction='none'.*got {got};"
    ):
        strategy.train(next(iter(Case().stream())), num_workers=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_reduction_that_gives_no_loss_a_row_is_told_before_a_step() -> None:
    class Deaf(Own):
        def forward(self, output: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(output, y)

    strategy = build(Case(), [MemoryReplayPlugin(Recorder(9), write_at="iteration")], criterion=Deaf())
    before = weights(strategy).clone()
    with pytest.raises(ValueError, match=r"criterion: expected one loss for each of the 16 rows .*got a tensor \(\)"):
        strategy.train(next(iter(Case().stream())), num_workers=0)
    assert torch.equal(weights(strategy), before)


def test_needs_that_no_plugin_knows_are_told() -> None:
    class Greedy(Recorder):
        needs = frozenset({"loss", "gradient"})

    with pytest.raises(
        ValueError, match=r"memory: expected needs among 'x', 'y', 'loss' and 'logits', got \['gradient'\]"
    ):
        MemoryReplayPlugin(Greedy(3), write_at="iteration")

    class Learner(GaussianMemory):
        needs = frozenset({"loss"})

        def consolidate(self, batches: Any, *, origin: int) -> None: ...

    with pytest.raises(ValueError, match=r"memory: expected one that learns from batches .*needs \['loss'\]"):
        MemoryReplayPlugin(Learner())  # type: ignore[arg-type]


def test_training_that_diverges_is_named() -> None:
    class Strict(Recorder):
        def write(self, x: Tensor, y: Tensor, t: Any = 0, *, origin: Any = None, **extras: Any) -> None:
            if not extras["loss"].isfinite().all():
                raise ValueError("loss: expected finite values, got NaN")
            super().write(x, y, t, origin=origin, **extras)

    with pytest.raises(ValueError, match=r"model: expected finite losses, got NaN .* training has diverged"):
        run(Case(), [MemoryReplayPlugin(Strict(9), replay_size=1, write_at="iteration")], lr=1e38)


@pytest.mark.parametrize("policy", ["hardest", "herding", "gss"])
@pytest.mark.parametrize("name", ["x, y, t", "online", "several epochs"])
def test_policies_that_need_more_than_counts_train(policy: str, name: str) -> None:
    memory, watcher = RandomMemory(30, write_policy=policy, seed=1), Watcher()
    strategy = run(CASES[name], [MemoryReplayPlugin(memory, seed=0, write_at="iteration"), watcher])
    assert len(memory) == 30
    assert torch.isfinite(weights(strategy)).all()
    assert watcher.losses == pytest.approx(watcher.own_losses, abs=1e-5)
