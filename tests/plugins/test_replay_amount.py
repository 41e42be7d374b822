"""How much is replayed, what happens to it on the way, and when it is fetched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _streams import Case, Watcher, build, run, weights
from avalanche.core import SupervisedPlugin
from torch import Tensor
from torchvision.transforms import v2

from avalanche_memplugins import (
    LatentReplayPlugin,
    LocalAdaptationPlugin,
    MemoryReplayPlugin,
    NearestNeighbourPlugin,
    RandomMemory,
)
from avalanche_memplugins._augment import augmented
from avalanche_memplugins.memories._prefetch import Ahead
from avalanche_memplugins.memories.row_store import RowStore
from avalanche_memplugins.strategies import RMA, ExperienceReplay


def amounts(**options: Any) -> list[int]:
    plugin = MemoryReplayPlugin(RandomMemory(180), **{"write_at": "iteration", **options})
    found: list[int] = []

    class Look(SupervisedPlugin):
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            found.append(0 if plugin.last_replay is None else len(plugin.last_replay.y))

    run(Case(options={"train_epochs": 2}), [plugin, Look()])
    return found


def test_growing_replays_a_batch_for_each_experience_before() -> None:
    one, two = [16, 16, 16, 12] * 2, [32, 32, 32, 24] * 2
    assert amounts(replay_size="growing") == [0] * 8 + one + two


def test_a_function_is_asked_in_each_iteration() -> None:
    asked: list[tuple[int, int]] = []

    def schedule(experience: int, iteration: int) -> int:
        asked.append((experience, iteration))
        return experience + iteration // 4  # by epoch

    assert amounts(replay_size=schedule) == [0] * 4 + [1] * 8 + [2] * 8 + [3] * 4
    assert asked == [(experience, iteration) for experience in range(3) for iteration in range(8)]


def test_amounts_when_replacing_leave_a_row_of_the_stream() -> None:
    assert amounts(replay_size=lambda e, i: 14, batch_policy="replace")[1:4] == [14, 14, 11]
    assert amounts(replay_size="growing", batch_policy="replace")[:12] == [0] * 8 + [15, 15, 15, 11]


@pytest.mark.parametrize("size", [-1, 2.0, True, None])
def test_a_function_that_gives_no_amount_is_named(size: Any) -> None:
    plugin = MemoryReplayPlugin(RandomMemory(20), replay_size=lambda experience, iteration: size, write_at="iteration")
    with pytest.raises(
        ValueError, match=f"replay_size: expected a function .* integer >= 0, got {size} for experience 0"
    ):
        build(Case(), [plugin]).train(next(iter(Case().stream())))


@pytest.mark.parametrize("size", ["shrinking", 0, 2.5])
def test_a_bad_amount_is_named(size: Any) -> None:
    with pytest.raises(ValueError, match="replay_size: expected an integer >= 1, got"):
        MemoryReplayPlugin(RandomMemory(20), replay_size=size, write_at="iteration")


# ---------------------------------------------------------------- augmentation


def noise(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def test_augmentation_sees_replayed_rows_only() -> None:
    plugin = MemoryReplayPlugin(RandomMemory(180), augment=lambda x: x + 1_000, write_at="iteration")
    watcher = Watcher()

    class Look(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            assert not (strategy.mbatch[0][:, 0] > 500).any()
            if plugin.last_replay is not None:
                assert (plugin.last_replay.x[:, 0] > 500).all()

    run(Case(), [plugin, Look(), watcher], lr=0.0)
    assert float(plugin.memory.rows(torch.arange(180)).x.max()) < 500  # what is written is the stream's
    naive = Watcher()
    run(Case(), [naive])
    assert watcher.numbers == naive.numbers


def test_augmentation_is_random_repeatable_and_nobody_elses() -> None:
    def trained(augment: Any, seed: int = 0) -> tuple[Tensor, Watcher, Tensor]:
        watcher = Watcher()
        strategy = run(
            Case(), [MemoryReplayPlugin(RandomMemory(60), augment=augment, seed=seed, write_at="iteration"), watcher]
        )
        return weights(strategy), watcher, torch.get_rng_state()

    plain, again, other, none = trained(noise), trained(noise), trained(noise, 1), trained(None)
    assert torch.equal(plain[0], again[0])
    assert not torch.equal(plain[0], other[0])
    assert not torch.equal(plain[0], none[0])
    assert plain[1].numbers == none[1].numbers
    assert torch.equal(plain[2], none[2])  # the global generator


def test_every_draw_is_another() -> None:
    drawn: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        drawn.append(torch.rand(3))
        return x

    run(Case(), [MemoryReplayPlugin(RandomMemory(60), augment=keep, write_at="iteration")])
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn) == 11


def test_a_transform_of_torchvision() -> None:
    transform = v2.Compose([v2.RandomHorizontalFlip(p=1.0), v2.RandomCrop(4, padding=0)])
    x = torch.arange(2 * 16.0).view(2, 1, 4, 4)
    assert torch.equal(augmented(transform, x, torch.Generator()), x.flip(-1))


def test_a_bad_augmentation_is_named() -> None:
    with pytest.raises(TypeError, match="augment: expected a callable on a batch, or None, got int"):
        MemoryReplayPlugin(RandomMemory(9), augment=3, write_at="iteration")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="augment: expected an instance, got the class RandomHorizontalFlip"):
        MemoryReplayPlugin(RandomMemory(9), augment=v2.RandomHorizontalFlip, write_at="iteration")
    with pytest.raises(ValueError, match="augment: expected a batch of as many rows as it was given, 4, got Tensor"):
        augmented(lambda x: x.sum(), torch.zeros(4, 2), torch.Generator())
    with pytest.raises(ValueError, match="augment: works on inputs, but at='features' replays a module's outputs"):
        MemoryReplayPlugin(RandomMemory(9), augment=noise, at="features", write_at="iteration")
    with pytest.raises(ValueError, match="augment: works on inputs"):
        LatentReplayPlugin(RandomMemory(9), at="features", augment=noise, write_at="iteration")
    for wrong, got in ((lambda x: x[1:], "15 rows"), (lambda x: None, "NoneType")):
        strategy = build(Case(), [MemoryReplayPlugin(RandomMemory(90), augment=wrong, write_at="iteration")])
        with pytest.raises(
            ValueError, match=f"augment: expected a batch of as many rows as it was given, 16, got {got}"
        ):
            strategy.train(next(iter(Case().stream())))


@pytest.mark.parametrize("make", [RMA, ExperienceReplay])
def test_strategies_pass_it_on(make: Any) -> None:
    model = torch.nn.Linear(2, 2)
    strategy = make(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), augment=noise, evaluator=None)
    assert [p.augment for p in strategy.plugins if isinstance(p, MemoryReplayPlugin)] == [noise]


# ---------------------------------------------------------------- fetching ahead


@pytest.mark.parametrize("read", ["uniform", "cycle", "class_balanced"])
@pytest.mark.parametrize("options", [{}, {"write_every": 3}, {"at": "features"}, {"batch_policy": "replace"}], ids=str)
def test_a_run_with_prefetch_is_the_run_without(
    options: dict[str, Any], read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    use = Ahead.use
    monkeypatch.setattr(RowStore, "is_apart", True)
    monkeypatch.setattr(Ahead, "use", lambda self, *args: (used.append(self.n), use(self, *args))[1])
    case = Case(options={"train_epochs": 2})
    ends = [
        weights(
            run(
                case,
                [
                    MemoryReplayPlugin(
                        RandomMemory(40, read_policy=read, seed=3),
                        prefetch=flag,
                        **{"write_at": "iteration", **options},
                    )
                ],
            )
        )
        for flag in (False, True)
    ]
    assert torch.equal(*ends)
    # All but the first, and those before and after a last batch, which is smaller.
    assert len(used) >= 11


# ---------------------------------------------------------------- latent replay


def test_latent_replay_is_replay_at_a_layer() -> None:
    plain = run(Case(), [MemoryReplayPlugin(RandomMemory(40, seed=0), at="features", write_at="iteration")])
    latent = run(
        Case(), [LatentReplayPlugin(RandomMemory(40, seed=0), at="features", freeze_below=False, write_at="iteration")]
    )
    assert torch.equal(weights(plain), weights(latent))


@pytest.mark.parametrize("frozen", ["all", "a part", "nothing"])
def test_a_body_that_learns_is_worth_one_warning(frozen: str, recwarn: pytest.WarningsRecorder) -> None:
    plugin = LatentReplayPlugin(RandomMemory(40), at="features", write_at="iteration")
    strategy = build(Case(), [plugin])
    body = strategy.model.features
    if frozen == "all":
        body.requires_grad_(False)
    elif frozen == "a part":
        body[0].weight.requires_grad_(False)
    before = [p.requires_grad for p in strategy.model.parameters()]
    for experience in Case().stream():
        strategy.train(experience)
    assert [p.requires_grad for p in strategy.model.parameters()] == before
    told = [w for w in recwarn if "parameters below 'features' are trained" in str(w.message)]
    assert len(told) == (0 if frozen == "all" else 1)


class NoRows:
    """A read policy that gives none."""

    grouping = None
    nbytes = 0

    def start(self, capacity: int) -> None: ...

    def choose(self, *args: Any) -> list[int]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    "options", [{}, {"replay_weight": 0.5}, {"batch_policy": "replace"}, {"labels": "soft"}, {"labels": "old_model"}]
)
def test_a_read_policy_that_gives_no_rows_replays_nothing(options: dict[str, Any]) -> None:
    plugin = MemoryReplayPlugin(RandomMemory(20, read_policy=NoRows()), **{"write_at": "iteration", **options})
    strategy = run(Case(), [plugin])
    assert plugin.last_replay is None
    alone = run(Case(), [])
    assert torch.equal(weights(strategy), weights(alone))


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5)])
def test_numbers_of_numpy_are_numbers(number: Any) -> None:
    assert MemoryReplayPlugin(RandomMemory(9), replay_weight=number, write_at="iteration").replay_weight == 0.5
    assert NearestNeighbourPlugin(RandomMemory(9), mix=number).mix == 0.5
    assert LocalAdaptationPlugin(RandomMemory(9), adapt=np.int64(2)).adapt == 2
