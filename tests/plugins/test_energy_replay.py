"""Rehearsal from an energy memory: what is written when, what is replayed from which cue, the strategy, the metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _streams import CLASSES, FEATURES, Case, network, rows, run, weights
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.memories import EnergyMemory, Recall
from avalanche_memplugins.metrics import MemoryNovelty
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.plugins import EnergyReplayPlugin
from avalanche_memplugins.pretrained import save_energy
from avalanche_memplugins.strategies import EnergyRehearsal

# The stream's rows are no images: this maps -10 ... 10 to the interval of patterns.
SCALE: dict[str, Any] = {"mean": 0.5, "std": 0.05}


def energy(seed: int = 0) -> GatedEnergy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GatedEnergy(FEATURES, writable=4, width=12, write_steps=2, read_steps=2)


def memory(**options: Any) -> EnergyMemory:
    return EnergyMemory(energy(), **{"slots": 12, "slot_size": 4, "by_class": True, **SCALE, **options})


class Watch(SupervisedPlugin):
    """Batches of the stream and what was replayed beside them."""

    def __init__(self, plugin: EnergyReplayPlugin) -> None:
        super().__init__()
        self.plugin, self.held, self.batches, self.replayed = plugin, [], [], []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self.plugin.last_replay is not None:
            self.batches.append(strategy.mbatch[0].clone())
            self.replayed.append(self.plugin.last_replay)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.held.append(self.plugin.memory.summary().per_experience)


def test_every_experience_gets_an_equal_share_when_it_has_ended() -> None:
    plugin = EnergyReplayPlugin(memory())
    watch = Watch(plugin)
    run(Case(), [watch, plugin])
    # The watching plugin comes first, so it sees the memory as the experience before left it.
    assert watch.held == [{}, {0: 48}, {0: 24, 1: 24}]
    assert plugin.memory.summary().per_experience == {0: 16, 1: 16, 2: 16}
    assert {int(label) for replay in watch.replayed for label in replay.label} <= set(plugin.memory.classes)


def test_current_rows_are_the_cues_when_asked_for() -> None:
    asked: list[tuple[int, Tensor | None]] = []

    class Noted(EnergyMemory):
        def sample(self, n: int, *, cue: Tensor | None = None) -> Recall:
            asked.append((n, cue))
            return super().sample(n, cue=cue)

    noted = Noted(energy(), slots=12, slot_size=4, by_class=True, **SCALE)
    plugin = EnergyReplayPlugin(noted, cue="current", replay_size=40)
    watch = Watch(plugin)
    run(Case(), [plugin, watch])
    assert asked
    for (count, cue), batch in zip(asked, watch.batches, strict=True):
        assert count == 40
        assert cue is not None
        assert torch.equal(cue, torch.cat([batch] * 4)[:40])


def test_rows_read_from_current_ones_want_a_class() -> None:
    with pytest.raises(ValueError, match="cue: what is read from rows of the stream has the class of its slot"):
        EnergyReplayPlugin(memory(by_class=False), cue="current")
    with pytest.raises(ValueError, match="cue: expected one of 'stored', 'current', got"):
        EnergyReplayPlugin(memory(), cue="recent")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="memory: expected an EnergyMemory, got RandomMemory"):
        EnergyReplayPlugin(RandomMemory(10))  # type: ignore[arg-type]


def test_the_strategy_is_its_plugin_on_naive(tmp_path: Any) -> None:
    path = save_energy(tmp_path / "small", energy(), patterns=4, manifest={})
    plugin = EnergyReplayPlugin(
        EnergyMemory.from_budget(
            3_000, energy(), shape=(FEATURES,), classes=CLASSES, slot_size=4, precision="int8", seed=3, **SCALE
        ),
        seed=3,
    )
    expected = weights(run(Case(), [plugin]))
    model = network()
    strategy = EnergyRehearsal(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        network=str(path), budget=3_000, shape=(FEATURES,), classes=CLASSES, cue=None, seed=3, **SCALE,
        train_mb_size=16, eval_mb_size=64, evaluator=None,
    )  # fmt: skip
    torch.manual_seed(1)
    for experience in Case().stream():
        strategy.train(experience, num_workers=0)
    assert torch.equal(weights(strategy), expected)
    assert 0 < strategy.memory.nbytes <= 3_000
    with pytest.raises(ValueError, match=r"budget: expected bytes such as .* got 'much'"):
        EnergyRehearsal(model=model, optimizer=strategy.optimizer, budget="much")
    with pytest.raises(ValueError, match=r"budget: expected at least .* got 3"):
        EnergyRehearsal(model=model, optimizer=strategy.optimizer, budget=3)


def evaluated(plugins: list[Any]) -> dict[str, float]:
    """Metrics of an evaluation on all classes after the first experience only."""
    model = network()
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05), train_mb_size=16, eval_mb_size=7,
        plugins=plugins, evaluator=EvaluationPlugin(MemoryNovelty(), loggers=[]),
    )  # fmt: skip
    benchmark = Case().benchmark()
    strategy.train(next(iter(benchmark.train_stream)), num_workers=0)
    found: dict[str, float] = strategy.eval(benchmark.test_stream, num_workers=0)
    return {name: value for name, value in found.items() if name.startswith("MemoryNovelty")}


def test_novelty_ranks_rows_of_the_whole_evaluation() -> None:
    plugin = EnergyReplayPlugin(memory())
    found = evaluated([plugin])
    kept = plugin.memory
    x, y = rows(60, 1).tensors
    scores = kept.novelty(x).numpy()
    unseen = ~np.isin(y.numpy(), kept.classes)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[unseen] for b in scores[~unseen]]
    assert found["MemoryNovelty_AUROC/eval_phase/test_stream"] == pytest.approx(np.mean(pairs), abs=1e-4)
    per_experience = [value for name, value in sorted(found.items()) if "Exp/" in name]
    assert len(per_experience) == 3
    assert np.mean(per_experience) == pytest.approx(scores.mean(), abs=1e-4)


def test_a_memory_without_scores_is_warned_of_once() -> None:
    with pytest.warns(UserWarning, match="no memory of the strategy has novelty") as caught:
        assert evaluated([MemoryReplayPlugin(RandomMemory(10))]) == {}
    assert len([w for w in caught if "novelty" in str(w.message)]) == 1
