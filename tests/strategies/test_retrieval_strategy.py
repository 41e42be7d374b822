"""Probabilistic retrieval in a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _streams import FEATURES, Case, plain, rows, weights
from avalanche.training import Naive
from torch import Tensor, nn

from avalanche_memplugins import EpisodicMemory, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.checkpointing import load_run_state, save_run_state
from avalanche_memplugins.networks import ProbabilisticRetrievalClassifier, RetrievalClassifier
from avalanche_memplugins.strategies import ProbabilisticRetrieval

C = FEATURES


class Body(nn.Module):
    """An untrained encoder for rows of numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.code_size = C
        self.layer = nn.Linear(FEATURES, 2 * C)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_variance = self.layer(x).chunk(2, 1)
        return mu, log_variance - 3

    def encode(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]


def classifier() -> ProbabilisticRetrievalClassifier:
    body = Body()
    return ProbabilisticRetrievalClassifier(body, classes=6, n=4, hidden=12, layers=2, seed=3)


def options(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    return {"optimizer": optimizer, "train_mb_size": 16, "eval_mb_size": 64, "evaluator": None}


def make(**more: Any) -> ProbabilisticRetrieval:
    model = classifier()
    return ProbabilisticRetrieval(model=model, **{**options(model), "mem_size": 30, "seed": 4, **more})


def train(strategy: Any, stream: Any) -> Any:
    torch.manual_seed(1)
    for experience in stream:
        strategy.train(experience, num_workers=0)
    return strategy


def test_it_is_replay_of_float16_codes_on_naive() -> None:
    model = classifier()
    memory = RandomMemory(30, write_policy="class_balanced", codec="float16", seed=4)
    naive = Naive(
        model=model, plugins=[MemoryReplayPlugin(memory, at="encoder", write_at="iteration")], **options(model)
    )
    mine = train(make(), Case().stream())
    assert torch.equal(weights(mine), weights(train(naive, Case().stream())))
    assert mine.memory.nbytes == 30 * (2 * 2 * C + 12) + mine.memory.write_policy.nbytes


@pytest.mark.parametrize("case", [Case(), Case(plain), Case(options={"eval_every": 1, "train_epochs": 2})])
def test_what_is_kept_is_the_posterior_of_stream_rows(case: Case) -> None:
    strategy = train(make(**case.options), case.stream())
    held = strategy.memory.rows(torch.arange(30))
    assert sorted(set(held.y.tolist())) == list(range(6))
    x, y = rows(180, 0).tensors
    wanted = torch.cat(strategy.model.encoder.autoencoder.posterior(x), 1).half().float()
    distance = torch.cdist(held.x, wanted)
    # A value may round the other way when the batch is another one.
    assert distance.min(1).values.max() < 0.01
    assert torch.equal(y[distance.argmin(1)], held.y)


def test_a_code_comes_back_with_other_latents() -> None:
    strategy = make(mem_size=1, replay_size=1)
    seen: list[Tensor] = []
    strategy.model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    code = torch.randn(1, 2 * C)
    code[:, C:] = -40.0  # no noise of its own: what differs is alpha's doing
    strategy.memory.write(code, torch.tensor([2]))
    strategy.memory.write = lambda *args, **kwargs: None
    train(strategy, Case().stream())
    drawn = torch.stack([rows_[-1] for rows_ in seen]).view(-1, 4, C)
    alpha = drawn / strategy.memory.rows(torch.zeros(1, dtype=torch.int64)).x[:, :C]
    assert len(torch.unique(alpha)) > 0.99 * alpha.numel()
    assert abs(float(alpha.mean()) - 1) < 0.15
    assert abs(float(alpha.std()) - 0.5) < 0.15


def test_replay_remembers() -> None:
    def right(strategy: Any) -> float:
        x, y = rows(60, 1).tensors
        return float((strategy.model.eval()(x).argmax(1) == y).float().mean())

    # One run of so few rows says little.
    kept = [right(train(make(train_epochs=20, seed=seed), Case().stream())) for seed in range(10, 16)]
    forgot = train(make(train_epochs=20, mem_size=None), Case().stream())
    assert forgot.memory is None
    assert right(forgot) <= 0.4  # the two classes that came last
    assert sum(kept) / len(kept) > right(forgot) + 0.1


@pytest.mark.parametrize("neighbours", [False, True])
def test_a_resumed_run_is_the_unbroken_one(neighbours: bool, tmp_path: Path) -> None:
    def build() -> Any:
        if not neighbours:
            return make()
        memory = EpisodicMemory(30, codec="float16", seed=4)
        body = Body()
        model = RetrievalClassifier(body, memory, classes=6, neighbours=4, hidden=12, layers=2)
        return Naive(model=model, plugins=[MemoryReplayPlugin(memory, at="encoder")], **options(model))

    stream = list(Case().stream())
    whole = build()
    torch.manual_seed(1)
    for number, experience in enumerate(stream):
        whole.train(experience, num_workers=0)
        if number == 0:
            save_run_state(whole, tmp_path / "run")
    resumed = build()
    torch.manual_seed(99)
    load_run_state(resumed, tmp_path / "run")
    for experience in stream[1:]:
        resumed.train(experience, num_workers=0)
    assert torch.equal(weights(whole), weights(resumed))
    x = rows(8, 1).tensors[0]
    assert torch.equal(whole.model.train()(x), resumed.model.train()(x))


def test_published() -> None:
    before = torch.get_rng_state()
    body = Body()
    torch.set_rng_state(before)
    one = ProbabilisticRetrieval.published(body, classes=6, evaluator=None)
    assert torch.equal(torch.get_rng_state(), before)
    (group,) = one.optimizer.param_groups
    assert type(one.optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-3, 0, 0)
    assert (one.train_mb_size, one.train_epochs, one.memory) == (1, 3, None)
    assert (one.model.n, one.model.alpha_std, one.model.seed) == (10, 0.5, 2022)
    assert not any(isinstance(p, MemoryReplayPlugin) for p in one.plugins)
    torch.manual_seed(123)
    assert torch.equal(weights(one), weights(ProbabilisticRetrieval.published(body, classes=6, evaluator=None)))
    other = ProbabilisticRetrieval.published(body, classes=6, evaluator=None, train_epochs=1, mem_size=7, seed=1)
    assert (other.train_epochs, other.memory.capacity) == (1, 7)
    assert not torch.equal(weights(one), weights(other))


def test_a_model_without_an_encoder_is_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match="model: expected a ProbabilisticRetrievalClassifier, or another model with a layer"
    ):
        ProbabilisticRetrieval(model=model, **options(model))
