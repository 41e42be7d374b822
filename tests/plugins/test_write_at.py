"""When rows are written if nobody says: at the end of experiences, or at each iteration of a stream in pieces."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.training import Cumulative, JointTraining, Naive
from torch import Tensor, nn

from avalanche_memplugins import DarkReplayPlugin, MemoryReplayPlugin, RandomMemory, RandomMemoryPlugin
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.memories import VAEMemory
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.plugins import LatentReplayPlugin
from avalanche_memplugins.strategies import RMA, DarkExperienceReplay, ExperienceReplay, MbPA

BENCHMARK = SplitDigits(5, seed=0)
SIZES = [len(experience.dataset) for experience in BENCHMARK.train_stream]


class Replayed(SupervisedPlugin):  # type: ignore[misc]
    """Keeps the classes that were replayed in each iteration."""

    def __init__(self, plugin: MemoryReplayPlugin) -> None:
        super().__init__()
        self.plugin = plugin
        self.classes: list[list[int]] = []

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        last = self.plugin.last_replay
        self.classes.append([] if last is None else last.y.tolist())


def replay(capacity: int = 200, **options: Any) -> MemoryReplayPlugin:
    return MemoryReplayPlugin(RandomMemory(capacity, seed=0), seed=0, **options)


def strategy_with(*plugins: Any, kind: Any = Naive, batch: int = 32, epochs: int = 1) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    return kind(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=epochs,
        plugins=[*plugins],
        evaluator=None,
    )


def weights(strategy: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in strategy.model.parameters()])


def accuracy(strategy: Any) -> float:
    sets = [experience.dataset.eval() for experience in BENCHMARK.test_stream]
    rows = [(x, y) for data in sets for x, y, *_ in data]
    with torch.no_grad():
        found = strategy.model.eval()(torch.stack([x for x, _ in rows])).argmax(1)
    return float((found == torch.tensor([int(y) for _, y in rows])).float().mean())


def pieces(size: int, *, boundaries: bool, experiences: Any = None) -> Any:
    stream = BENCHMARK.train_stream if experiences is None else experiences
    return split_online_stream(stream, size, access_task_boundaries=boundaries, seed=0)


# ---------------------------------------------------------------- with boundaries


def test_rows_of_earlier_experiences_only_are_replayed() -> None:
    plugin = replay()
    look = Replayed(plugin)
    strategy = strategy_with(plugin, look, epochs=2)
    assert plugin.write_at == "auto"
    seen: set[int] = set()
    for experience in BENCHMARK.train_stream[:3]:
        look.classes = []
        before = plugin.memory.seen
        strategy.train(experience)
        assert plugin.write_at == "experience"
        assert plugin.memory.seen == before + len(experience.dataset), "once, whatever the epochs"
        assert {one for batch in look.classes for one in batch} == seen
        assert {len(batch) for batch in look.classes} == {32 if seen else 0}, "beside a last batch of fewer, too"
        seen |= set(experience.classes_in_this_experience)


@pytest.mark.parametrize(
    ("options", "explicit"),
    [
        ({}, {"write_at": "experience", "replay_size": 32, "replay_weight": "growing"}),
        ({"replay_weight": None}, {"write_at": "experience", "replay_size": 32}),
        ({"write_every": 3}, {"write_at": "iteration"}),
        ({"write_epochs": "all"}, {"write_at": "iteration"}),
    ],
)
def test_it_is_what_it_decides_for_bit_for_bit(options: dict[str, Any], explicit: dict[str, Any]) -> None:
    found = []
    for more in ({}, explicit):
        strategy = strategy_with(replay(**options, **more), epochs=2)
        for experience in BENCHMARK.train_stream[:2]:
            strategy.train(experience)
        found.append(weights(strategy))
    assert torch.equal(*found)


def test_an_experience_that_comes_again_is_offered_again() -> None:
    plugin = replay()
    look = Replayed(plugin)
    strategy = strategy_with(plugin, look)
    first = BENCHMARK.train_stream[0]
    strategy.train(first)
    assert not any(look.classes)
    strategy.train(first)
    assert plugin.memory.seen == 2 * SIZES[0]
    assert set(look.classes[-1]) == set(first.classes_in_this_experience)


def test_a_training_that_is_stopped_leaves_a_sample_of_the_whole_experience() -> None:
    class Stop(SupervisedPlugin):  # type: ignore[misc]
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            strategy.stop_training()

    plugin = replay()
    strategy = strategy_with(plugin, Stop(), epochs=3)
    for experience in BENCHMARK.train_stream[:2]:
        strategy.train(experience)
    assert plugin.memory.seen == sum(SIZES[:2])
    assert len(plugin.memory.summary().per_class) == 4


def test_joint_training_offers_all_experiences_in_the_end_under_their_numbers() -> None:
    plugin = replay(2_000)
    look = Replayed(plugin)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "No loggers")
        strategy_with(plugin, look, kind=JointTraining).train(BENCHMARK.train_stream)
    assert not any(look.classes)
    assert list(plugin.memory.summary().per_experience.values()) == SIZES


def test_with_all_data_so_far_each_experience_is_offered_once() -> None:
    plugin = replay(2_000)
    strategy = strategy_with(plugin, kind=Cumulative)
    for experience in BENCHMARK.train_stream[:3]:
        strategy.train(experience)
    assert list(plugin.memory.summary().per_experience.values()) == SIZES[:3]


def test_rows_come_in_shuffled_passes_where_they_stay_and_no_read_policy_is_given() -> None:
    for options, expected in (({}, "Cycle()"), ({"read_policy": "uniform"}, "Uniform(replacement=False)")):
        memory = RandomMemory(64, seed=0, **options)
        strategy = strategy_with(MemoryReplayPlugin(memory), batch=32)
        for experience in BENCHMARK.train_stream[:2]:
            strategy.train(experience)
        assert repr(memory.read_policy) == expected
    budget = RandomMemory.from_budget("20kB", shape=(1, 8, 8))
    strategy_with(MemoryReplayPlugin(budget)).train(BENCHMARK.train_stream[0])
    assert repr(budget.read_policy) == "Uniform(replacement=False)"
    assert budget.nbytes <= 20_000


# ---------------------------------------------------------------- without boundaries


@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize("size", [10, 70])
def test_an_online_stream_is_written_as_it_passes(boundaries: bool, size: int) -> None:
    found = []
    for options in ({}, {"write_at": "iteration"}):
        plugin = replay(**options)
        strategy = strategy_with(plugin, batch=10)
        for piece in pieces(size, boundaries=boundaries, experiences=BENCHMARK.train_stream[:2]):
            strategy.train(piece)
        assert plugin.write_at == "iteration"
        assert repr(plugin.memory.read_policy) == "Uniform(replacement=False)"
        assert plugin.memory.seen == sum(SIZES[:2])
        found.append(weights(strategy))
    assert torch.equal(*found)


def test_online_it_learns_far_more_than_without_a_memory() -> None:
    found = []
    for plugins in ([], [replay()]):
        strategy = strategy_with(*plugins, batch=5)
        for piece in pieces(5, boundaries=False):
            strategy.train(piece)
        found.append(accuracy(strategy))
    without, with_memory = found
    assert with_memory > 0.7
    assert with_memory > without + 0.3


@pytest.mark.parametrize(("epochs", "expected"), [(1, "iteration"), (2, "experience")])
def test_experiences_of_one_batch_are_pieces_if_it_is_seen_once(epochs: int, expected: str) -> None:
    plugin = replay()
    strategy = strategy_with(plugin, batch=max(SIZES), epochs=epochs)
    strategy.train(BENCHMARK.train_stream[0])
    assert plugin.write_at == expected
    assert plugin.memory.seen == SIZES[0]


def test_each_experience_decides_for_itself() -> None:
    plugin = replay()
    strategy = strategy_with(plugin, batch=10)
    decided = []
    base, *rest = BENCHMARK.train_stream
    strategy.train(base)
    decided.append(plugin.write_at)
    for piece in list(pieces(20, boundaries=False, experiences=rest[:1]))[:3]:
        strategy.train(piece)
        decided.append(plugin.write_at)
    strategy.train(rest[1])
    decided.append(plugin.write_at)
    assert decided == ["experience", "iteration", "iteration", "iteration", "experience"]
    assert plugin.memory.seen == SIZES[0] + 60 + SIZES[2]


# ---------------------------------------------------------------- what is told


def test_what_is_decided_is_told_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    plugin = replay()
    shown = "MemoryReplayPlugin(RandomMemory(0 of 200 rows, reservoir, raw, 0 bytes), write_at='auto'"
    assert repr(plugin) == f"{shown}, replay_weight='auto')"
    strategy = strategy_with(plugin)
    with caplog.at_level(logging.INFO):
        for experience in BENCHMARK.train_stream[:2]:
            strategy.train(experience)
    told = [record.message for record in caplog.records if "write_at" in record.message]
    assert len(told) == 1
    assert "when an experience has ended" in told[0]
    assert repr(plugin).endswith("write_at='experience' (auto), replay_weight=0.5 (auto))")
    assert repr(replay(write_at="experience")).endswith("write_at='experience')")


def test_none_is_the_former_word_for_it() -> None:
    with pytest.warns(DeprecationWarning, match="write_at: None is now 'auto'"):
        assert replay(write_at=None).write_at == "auto"


def test_a_saved_state_goes_on_as_it_was_made() -> None:
    def trained(state: dict[str, Any] | None, **options: Any) -> MemoryReplayPlugin:
        plugin = replay(**options)
        if state is not None:
            plugin.load_state_dict(state)
        strategy_with(plugin).train(BENCHMARK.train_stream[1])
        return plugin

    new = trained(None).state_dict()
    assert trained(new).write_at == "experience"
    # Version 0.1 kept no such entry, and wrote at each iteration.
    old = {name: value for name, value in new.items() if name != "write_at"}
    assert trained(old).write_at == "iteration"
    assert trained(trained(old).state_dict()).write_at == "iteration", "and saved again"
    assert trained(old, write_at="experience").write_at == "experience", "what is said counts"


# ---------------------------------------------------------------- published methods, and others


def plugin_of(strategy: Any) -> MemoryReplayPlugin:
    (plugin,) = (p for p in strategy.plugins if isinstance(p, MemoryReplayPlugin))
    return plugin


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (RMA, {"write_every": 1}, "iteration"),
        (DarkExperienceReplay, {}, "iteration"),
        (MbPA, {"replay": True}, "iteration"),
        (ExperienceReplay, {}, "experience"),
        (ExperienceReplay, {"write_at": "iteration"}, "iteration"),
        (ExperienceReplay, {"write_every": 2}, "iteration"),
    ],
)
def test_published_methods_stay_as_published(kind: Any, options: dict[str, Any], expected: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    strategy = kind(model=model, optimizer=optimizer, mem_size=500, train_mb_size=32, evaluator=None, **options)
    strategy.train(BENCHMARK.train_stream[0])
    assert plugin_of(strategy).write_at == expected


def test_plugins_of_published_methods_do_so_too() -> None:
    assert RandomMemoryPlugin(100, write_every=1).write_at == "iteration"
    assert DarkReplayPlugin(RandomMemory(10, store_logits=True)).write_at == "iteration"
    assert LatentReplayPlugin(RandomMemory(10), at="1").write_at == "auto"
    assert MemoryReplayPlugin(VAEMemory(ConditionalVAE((1, 8, 8)))).write_at == "experience"


def test_a_ring_that_is_too_short_for_the_stream_is_told_once() -> None:
    short, long = RandomMemoryPlugin(SIZES[0] + 20, write_every=1), RandomMemoryPlugin(2_000, write_every=1)
    for plugin, expected in ((short, 1), (long, 0)):
        strategy = strategy_with(plugin)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            strategy.train(BENCHMARK.train_stream[0])
            assert not [one for one in caught if "ring" in str(one.message)], "it holds all there was"
            for experience in BENCHMARK.train_stream[1:3]:
                strategy.train(experience)
        told = [str(one.message) for one in caught if "the ring is shorter than the stream so far" in str(one.message)]
        assert len(told) == expected
