"""Agreement of labels and bound of what is replayed, against numpy; bytes of the old model."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from _streams import CASES, Case, build, run, weights
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.checkpointing import load_run_state, save_run_state
from avalanche_memplugins.metrics import MemoryFixedBytes, ReplayAccuracy, ReplayAgreement, ReplayBound

WHERE = "train_phase/train_stream/Task000"


class Judge(nn.Module):
    """Says another class in training mode; draws a random number each time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 6)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x)) if self.training else self.linear(x)


class Keep(SupervisedPlugin):
    """All that is replayed, by experience."""

    def __init__(self, plugin: MemoryReplayPlugin) -> None:
        super().__init__()
        self.plugin, self.replays = plugin, [[]]

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self.plugin.last_replay is not None:
            self.replays[-1].append(self.plugin.last_replay)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.replays.append([])


def values(strategy: Any, name: str) -> list[float]:
    recorded = strategy.evaluator.get_all_metrics()
    return [v for key, (_, found) in sorted(recorded.items()) if key.startswith(name) for v in found]


def evaluated(metrics: list[Any]) -> EvaluationPlugin:
    return EvaluationPlugin(*metrics, loggers=[])


@pytest.mark.parametrize("kind", ["module", "function", "classes", "own model"])
def test_agreement_is_the_share_of_rows_in_which_the_judge_sees_the_memorys_class(kind: str) -> None:
    torch.manual_seed(3)
    judge = Judge()
    judge.train()
    given: Any = {
        "module": judge,
        "function": lambda x: judge.linear(x),
        "classes": lambda x: judge.linear(x).argmax(1),
        "own model": None,
    }[kind]
    plugin = MemoryReplayPlugin(RandomMemory(60), labels="old_model", write_at="iteration")
    keep = Keep(plugin)
    strategy = run(Case(), [plugin, keep], evaluator=evaluated([ReplayAgreement(given)]), lr=0.005)
    expected = []
    for replays in keep.replays[:3]:
        hits, rows, other = 0, 0, 0
        for replay in replays:
            out = replay.output if given is None else judge.linear(replay.x).detach()
            hits += int((np.argmax(out.numpy(), axis=1) == replay.label.numpy()).sum())
            other += int((replay.label != replay.y).sum())
            rows += len(replay.y)
        expected.append(hits / rows)
    assert other > 0  # the class trained towards is not the memory's
    assert values(strategy, f"ReplayAgreement_Exp/{WHERE}") == pytest.approx(expected)
    assert judge.training


def test_a_judge_with_several_heads_is_told_the_task() -> None:
    case = CASES["multi-head"]
    trained = run(case, [])
    judge = copy.deepcopy(trained.model)
    plugin = MemoryReplayPlugin(RandomMemory(60), write_at="iteration")
    strategy = run(case, [plugin], evaluator=evaluated([ReplayAgreement(judge)]))
    shares = values(strategy, "ReplayAgreement_Exp")
    assert len(shares) == 3
    assert min(shares) > 0.8  # each head knows its two classes; without the task half of that


def test_metrics_of_replay_do_not_change_the_run() -> None:
    class Random(RandomMemory):
        def bound(self, x: Tensor) -> Tensor:
            return torch.randn(len(x))

    plain = run(Case(), [MemoryReplayPlugin(RandomMemory(40, seed=0), write_at="iteration")])
    state = torch.get_rng_state()
    metrics = [ReplayAgreement(Judge()), ReplayBound(), ReplayAccuracy()]
    measured = run(Case(), [MemoryReplayPlugin(Random(40, seed=0), write_at="iteration")], evaluator=evaluated(metrics))
    assert torch.equal(weights(plain), weights(measured))
    assert torch.equal(state, torch.get_rng_state())
    assert len(values(measured, "ReplayBound_Exp")) == 3


class Parts(NamedTuple):
    reconstruction: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        return self.reconstruction + self.kl


class Bounded:
    """A codec whose model has a bound."""

    nbytes_fixed = 0

    def __getattr__(self, name: str) -> Any:
        from avalanche_memplugins.codecs import Raw

        return getattr(Raw(), name)

    def bound(self, x: Tensor) -> Parts:
        return Parts(x.square().sum(1), x[:, 0])


class BoundedMemory(RandomMemory):
    def bound(self, x: Tensor) -> Tensor:
        return x.abs().sum(1)


class ConditionalMemory(RandomMemory):
    def bound(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        return y.double()


def test_a_conditional_bound_is_told_the_memorys_classes() -> None:
    plugin = MemoryReplayPlugin(ConditionalMemory(60), labels="old_model", write_at="iteration")
    keep = Keep(plugin)
    strategy = run(Case(), [plugin, keep], evaluator=evaluated([ReplayBound()]), lr=0.005)
    expected = [float(torch.cat([r.label for r in replays]).double().mean()) for replays in keep.replays[:3]]
    assert values(strategy, "ReplayBound_Exp") == pytest.approx(expected)


@pytest.mark.parametrize("owner", ["memory", "codec"])
def test_the_bound_is_the_mean_over_rows(owner: str) -> None:
    memory = BoundedMemory(60) if owner == "memory" else RandomMemory(60, codec=Bounded())
    plugin = MemoryReplayPlugin(
        memory, replay_size=lambda experience, iteration: 1 + 3 * iteration, write_at="iteration"
    )
    keep = Keep(plugin)
    strategy = run(Case(), [plugin, keep], evaluator=evaluated([ReplayBound(), ReplayBound("epoch")]))
    rows = [torch.cat([r.x for r in replays]).numpy().astype(np.float64) for replays in keep.replays[:3]]
    of = {"memory": lambda x: np.abs(x).sum(1).mean(), "codec": lambda x: ((x**2).sum(1) + x[:, 0]).mean()}[owner]
    assert values(strategy, f"ReplayBound_Exp/{WHERE}") == pytest.approx([of(x) for x in rows], rel=1e-5)
    assert values(strategy, f"ReplayBound_Epoch/{WHERE}") == pytest.approx([of(x) for x in rows], rel=1e-5)


def test_where_there_is_nothing_to_report_it_is_said_once() -> None:
    with pytest.warns(UserWarning, match="no memory of the strategy, and no codec, has a bound") as told:
        strategy = run(
            Case(), [MemoryReplayPlugin(RandomMemory(20), write_at="iteration")], evaluator=evaluated([ReplayBound()])
        )
    assert sum("has a bound" in str(w.message) for w in told) == 1
    assert values(strategy, "ReplayBound") == []
    with pytest.warns(UserWarning, match="nothing to agree with") as told:
        strategy = run(Case(), [], evaluator=evaluated([ReplayAgreement()]))
    assert sum("agree with" in str(w.message) for w in told) == 1
    assert values(strategy, "ReplayAgreement") == []


def test_the_old_models_bytes_are_fixed_bytes() -> None:
    metric = MemoryFixedBytes("experience")
    strategy = run(
        Case(),
        [MemoryReplayPlugin(RandomMemory(20), labels="soft", write_at="iteration")],
        evaluator=evaluated([metric]),
    )
    size = sum(p.nbytes for p in strategy.model.parameters())
    assert values(strategy, "MemoryFixedBytes_Exp") == [size] * 3


def test_a_checkpoint_goes_through_with_a_judge(tmp_path: Any) -> None:
    def made() -> Any:
        torch.manual_seed(0)
        metrics = [ReplayAgreement(Judge()), ReplayBound()]
        return build(
            Case(),
            [MemoryReplayPlugin(BoundedMemory(20), labels="soft", write_at="iteration")],
            evaluator=evaluated(metrics),
        )

    stream = list(Case().stream())
    one = made()
    torch.manual_seed(1)
    one.train(stream[0])
    save_run_state(one, tmp_path / "run")
    one.train(stream[1])
    two = made()
    load_run_state(two, tmp_path / "run")
    two.train(stream[1])
    assert torch.equal(weights(one), weights(two))
    assert values(one, "ReplayBound") == values(two, "ReplayBound")
    assert values(one, "ReplayAgreement") == values(two, "ReplayAgreement")


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="judge: expected a callable on a batch, or None, got"):
        ReplayAgreement("model")  # type: ignore[arg-type]
    for metric in (ReplayAgreement, ReplayBound):
        with pytest.raises(ValueError, match="emit_at: expected one of 'iteration', 'epoch', 'experience'"):
            metric(emit_at="stream")  # type: ignore[arg-type]
