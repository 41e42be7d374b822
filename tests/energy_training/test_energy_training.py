"""Meta-training: whatever interrupts it, the same weights; what is kept is the best; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from avalanche_memplugins.benchmarks.digits_data import digits
from avalanche_memplugins.energy_training.options import EnergyTraining
from avalanche_memplugins.energy_training.tasks import Codes, Images, tasks, thickened, thumbnails
from avalanche_memplugins.energy_training.train import Score, Training, evaluate
from avalanche_memplugins.pretrained import load_energy

SMALL: dict[str, Any] = {
    "bits": 12,
    "writable": 4,
    "width": 8,
    "rank": 10,
    "write_steps": 2,
    "read_steps": 2,
    "write_rate": 2.0,
    "patterns": (2, 3),
    "rows": 6,
    "minutes": None,
    "steps": 12,
    "validate_every": 4,
}


def options(folder: Path, **more: Any) -> EnergyTraining:
    return EnergyTraining(out=folder / "net.safetensors", **{**SMALL, **more})


def quiet(training: Training) -> Score:
    return training.run(Console(quiet=True))


def state(training: Training) -> dict[str, Tensor]:
    parts = {
        "network": training.network.state_dict(),
        "average": training.average.state_dict(),
        "best": training.best,
    }
    moments = training.optimizer.state_dict()["state"]
    parts["moments"] = {f"{number}.{key}": value for number in moments for key, value in moments[number].items()}
    assert moments
    return {f"{part}.{key}": value.clone() for part, values in parts.items() for key, value in values.items()} | {
        "generator": training.generator.get_state()
    }


class Stop(Exception):
    """The power goes."""


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"data": "digits", "cue": "both", "checkpoint": True},
        {"write_steps": 0, "read_steps": 1},
        {"first_order": True},
    ],
)
def test_stopped_after_every_validation_it_ends_where_it_would_have(more: dict[str, Any], tmp_path: Path) -> None:
    whole = Training(options(tmp_path / "whole", **more))
    score = quiet(whole)

    wanted = options(tmp_path / "parts", **more)
    for number in range(4):
        training = Training(wanted)
        assert training.step == 4 * number
        if number == 3:
            break
        save = training._save

        def crash(save: Any = save) -> None:
            save()
            raise Stop

        training._save = crash  # type: ignore[method-assign]
        with pytest.raises(Stop):
            quiet(training)
    assert quiet(training) == score
    assert [(row[0], *row[2:]) for row in training.history] == [(row[0], *row[2:]) for row in whole.history]
    mine, theirs = state(training), state(whole)
    assert mine.keys() == theirs.keys()
    assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []
    assert training.seconds >= 0


def test_a_step_lost_on_the_way_is_done_again(tmp_path: Path) -> None:
    whole, cut = Training(options(tmp_path / "whole")), Training(options(tmp_path / "cut"))
    quiet(whole)
    cut._round()
    cut._save()
    cut._one_step()  # and then the power goes
    resumed = Training(options(tmp_path / "cut"))
    assert resumed.step == 4
    quiet(resumed)
    mine, theirs = state(resumed), state(whole)
    assert [key for key in theirs if not torch.equal(mine[key], theirs[key])] == []


@pytest.mark.parametrize("more", [{}, {"first_order": True}, {"slope_rate": 0.01, "deviation_rate": 0.01}])
def test_all_weights_learn(more: dict[str, Any], tmp_path: Path) -> None:
    training = Training(options(tmp_path, **more))
    before = {key: value.clone() for key, value in training.network.state_dict().items()}
    quiet(training)
    after = training.network.state_dict()
    assert [key for key, value in before.items() if torch.equal(value, after[key])] == []
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_it_learns_to_remember(tmp_path: Path) -> None:
    training = Training(
        options(tmp_path, writable=6, width=12, rows=24, steps=150, validate_every=75, write_rate=10.0, average=0.95)
    )
    first = training.validate()
    score = quiet(training)
    blind = [evaluate(training.best_network(), training.validation_task, n, write=False).error for n in (2, 3)]
    assert score.error < 0.9 * first.error
    assert score.error < 0.7 * sum(blind) / 2  # half of the bits cannot be known but from the memory
    assert score.cue == pytest.approx(6 * 0.25)
    assert first.cue == score.cue  # the same episodes each time


def test_the_best_weights_are_kept_and_saved(tmp_path: Path) -> None:
    training = Training(options(tmp_path, data="digits"))
    scores, seen = iter([3.0, 1.0, 2.0]), []

    def validate() -> Score:
        seen.append({key: value.clone() for key, value in training.average.state_dict().items()})
        return Score(next(scores), 5.0, 4.0)

    training.validate = validate  # type: ignore[method-assign]
    assert quiet(training).error == 1.0
    assert len(seen) == 3
    best = training.best_network().state_dict()
    assert all(torch.equal(best[key], value) for key, value in seen[1].items())
    assert any(not torch.equal(best[key], value) for key, value in seen[2].items())

    found = load_energy(training.save())
    loaded = found.network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in best.items())
    assert found.patterns == 3
    assert found.manifest["steps"] == 12
    assert found.manifest["validation"] == {"error": 1.0, "cue": 5.0, "wrong": 4.0}
    assert found.manifest["options"]["rank"] == 10
    x = training.validation_task.episodes(2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again = [network.read(0.5 * x, network.write(x))[-1] for network in (found.network, training.best_network())]
    assert torch.equal(*again)


def test_finished_is_finished_and_other_options_are_refused(tmp_path: Path) -> None:
    score = quiet(Training(options(tmp_path)))
    again = Training(options(tmp_path))
    assert (again.progress, quiet(again), again.step) == (1.0, score, 12)
    assert Training(options(tmp_path, data_root=tmp_path)).step == 12  # another machine
    with pytest.raises(ValueError, match=r"out: .* with other options \(lr, patterns\)"):
        Training(options(tmp_path, lr=1e-4, patterns=(4,)))


def test_training_leaves_the_global_generator_alone_and_its_seed_decides(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    trainings = [Training(options(tmp_path / str(i), seed=seed, steps=4)) for i, seed in enumerate((5, 5, 6))]
    for training in trainings:
        quiet(training)
    assert torch.equal(torch.get_rng_state(), before)
    first, second, other = (state(training) for training in trainings)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["average.memory_weight"], other["average.memory_weight"])


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path: Path) -> None:
    training = Training(options(tmp_path))
    training.train_task.cues = lambda x, *, generator: x * torch.nan  # type: ignore[method-assign]
    before = {key: value.clone() for key, value in training.network.state_dict().items()}
    training._one_step()
    assert (training.step, training.skipped) == (1, 1)
    assert all(torch.equal(value, before[key]) for key, value in training.network.state_dict().items())


@pytest.mark.parametrize("network", ["fully-connected", "convolutional"])
def test_the_papers_image_networks_are_built_as_told(network: Any, tmp_path: Path) -> None:
    training = Training(options(tmp_path, data="digits", network=network, writable=3, hops=2, width=6, steps=1))
    made = training.network.architecture()
    assert (made["writable"], made["hops"], made["width"], made["shape"]) == (3, 2, 6, [1, 8, 8])
    training._one_step()
    assert training.skipped == 0
    with pytest.raises(ValueError, match=f"network: '{network}' is for images, got data='strings'"):
        Training(options(tmp_path, network=network))


# ---------------------------------------------------------------- what it trains on


def test_a_tenth_of_the_images_is_held_out_whatever_the_seed(tmp_path: Path) -> None:
    (train, held), (_, other) = (tasks(options(tmp_path, data="digits", seed=seed)) for seed in (0, 9))
    assert train.images is not None
    assert held.images is not None
    assert other.images is not None
    assert torch.equal(held.images, other.images)
    pool = digits().x_train
    assert len(held.images) == len(pool) // 10
    rows = torch.cat([train.images, held.images]).flatten(1)
    assert torch.equal(rows[rows[:, ::3].sum(1).argsort(stable=True)].sum(0), rows.sum(0))
    torch.testing.assert_close(rows.double().sum(0), pool.flatten(1).double().sum(0))
    assert not bool((torch.cdist(held.images.flatten(1), train.images.flatten(1)).amin(1) == 0).any())


def test_strings_have_half_of_their_bits_erased(tmp_path: Path) -> None:
    task, _ = tasks(options(tmp_path))
    x = task.episodes(4, 3, generator=torch.Generator().manual_seed(0))
    cue = task.cues(x, generator=torch.Generator().manual_seed(1))
    assert x.shape == (4, 3, 12)
    assert bool(((cue == 0.5).sum(-1) == 6).all())
    assert bool(((cue == x) | (cue == 0.5)).all())


def test_cues_of_images() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 8, 8, generator=g) * 0.8 + 0.1
    x = Images(images, "block").episodes(30, 4, generator=g)

    def cues(kind: str) -> Tensor:
        return Images(images, kind).cues(x, generator=torch.Generator().manual_seed(2))

    block, small, both = cues("block"), cues("thumbnail"), cues("both")
    assert bool(((block == 0).sum(-1) == 16).all())
    assert bool(((block == x) | (block == 0)).all())
    means = x.view(30, 4, 2, 4, 2, 4).mean((3, 5))
    torch.testing.assert_close(small.view(30, 4, 8, 8)[..., 0, 0], means[..., 0, 0])  # flat beyond the outer centres
    torch.testing.assert_close(small.view(30, 4, 8, 8)[..., 7, 7], means[..., 1, 1])
    middle = small.view(30, 4, 8, 8)[..., 3:5, 3:5].mean((2, 3))
    torch.testing.assert_close(middle, means.mean((2, 3)))
    of_small = (both == small).flatten(1).all(1)
    of_block = (both == block).flatten(1).all(1)
    assert bool((of_small ^ of_block).all())  # a whole episode is of one kind
    assert 5 <= int(of_small.sum()) <= 25
    assert torch.equal(thumbnails(x[0, 0], 8), small[0, 0])


def test_thickened_strokes_grow_by_a_pixel_down_and_right() -> None:
    images = torch.zeros(200, 1, 5, 5)
    images[:, 0, 2, 1] = 0.7
    out = thickened(images, 0.25, torch.Generator().manual_seed(0))
    grown = out.flatten(1).gt(0).sum(1) == 4
    assert 25 <= int(grown.sum()) <= 75
    assert torch.equal(out[~grown], images[~grown])
    assert bool((out[grown][:, 0, 2:4, 1:3] == torch.tensor(0.7)).all())


def test_strokes_grow_by_one_or_more_pixels_in_equal_shares() -> None:
    images = torch.zeros(600, 1, 6, 6)
    images[:, 0, 2, 1] = 1.0
    out = thickened(images, 0.5, torch.Generator().manual_seed(0), pixels=2)
    sizes = out.flatten(1).gt(0).sum(1)
    counts = {size: int((sizes == size).sum()) for size in (1, 4, 9)}
    assert sum(counts.values()) == 600
    assert abs(counts[1] - 300) < 60
    assert abs(counts[4] - counts[9]) < 60


def test_episodes_of_few_classes() -> None:
    labels = torch.arange(40) % 8
    images = (labels / 10.0).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    images = images + torch.arange(40).view(-1, 1, 1, 1) / 1e4
    task = Images(images, "block", labels=labels, classes=2)
    x = task.episodes(30, 6, generator=torch.Generator().manual_seed(0))
    seen = (x.mean(-1) * 10).floor().long()
    assert all(len(episode.unique()) == 2 for episode in seen)
    assert len(seen.unique()) == 8
    assert all(len(episode.mean(-1).unique()) == 6 for episode in x)
    with pytest.raises(ValueError, match="classes: expected at most the 8 of the images, got 9"):
        Images(images, "block", labels=labels, classes=9)
    with pytest.raises(ValueError, match="labels: expected some, since classes are given"):
        Images(images, "block", classes=2)


def test_classes_are_held_out_whole(tmp_path: Path) -> None:
    options = EnergyTraining(out=tmp_path / "net.safetensors", data="digits", size=8, classes=1, patterns=(4,))
    train, held_out = tasks(options)
    assert isinstance(train, Images)
    assert isinstance(held_out, Images)
    assert len(held_out.rows) == 1
    assert len(train.rows) == 9
    assert len(train.pool) + len(held_out.pool) == 1438


def test_a_training_starts_from_another_with_more_steps(tmp_path: Path) -> None:
    first = EnergyTraining(out=tmp_path / "first.safetensors", **{**SMALL, "write_steps": 2, "read_steps": 2})
    training = Training(first)
    quiet(training)
    path = training.save()
    old = load_energy(path).network
    more = EnergyTraining(
        out=tmp_path / "more.safetensors", init=path, **{**SMALL, "write_steps": 4, "read_steps": 3, "seed": 9}
    )
    new = Training(more).network
    for name, value in old.state_dict().items():
        taken = new.state_dict()[name]
        assert torch.equal(taken[: len(value)] if value.ndim else taken, value), name
    assert torch.equal(new.write_rates[2:], old.write_rates[-1:].expand(2, -1, -1))
    assert torch.equal(new.read_momenta[2:], old.read_momenta[-1:])
    other = EnergyTraining(out=tmp_path / "other.safetensors", init=path, **{**SMALL, "width": SMALL["width"] + 1})
    with pytest.raises(ValueError, match=r"init: expected a network of the same sizes, .* differs in .*norm_scale"):
        Training(other)


def test_classes_stand_behind_the_pixels_and_cues_do_not_tell_them() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(30, 1, 4, 4, generator=g)
    task = Images(images, "block", 3)
    x = task.episodes(40, 5, generator=g)
    cue = task.cues(x, generator=g)
    assert x.shape == (40, 5, 19)
    assert bool((x[..., 16:].sum(-1) == 1).all())
    assert bool((x[..., 16:].sum((0, 1)) > 40).all())
    assert bool((cue[..., 16:] == 0.5).all())
    assert bool(((cue[..., :16] == 0).sum(-1) == 4).all())


def test_codes_as_patterns_leave_their_signs_as_cues() -> None:
    codes = torch.tensor([[-4.0, -1.5, 0.0, 1.5, 3.0]]).repeat(4, 1) + 0.01 * torch.arange(4).view(-1, 1)
    x = Codes(codes).episodes(1, 4, generator=torch.Generator().manual_seed(0))[0].sort(0).values
    torch.testing.assert_close(x[0], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    cue = Codes(codes).cues(x, generator=torch.Generator())
    assert cue[0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"minutes": 1.0}, "minutes, steps: expected one of them, got both"),
        ({"steps": 0}, "steps: expected an integer from 1 to 2147483647, got 0"),
        ({"rows": 0}, "rows: expected an integer"),
        ({"lr": float("nan")}, "lr: expected a finite number > 0, got nan"),
        ({"validate_every": -1}, "validate_every: expected"),
        ({"clip": 0.0}, "clip: expected"),
        ({"patterns": ()}, "patterns: expected numbers >= 1"),
        ({"patterns": (4, 0)}, "patterns: expected numbers >= 1"),
        ({"average": 1.0}, r"average: expected a number in \[0, 1\), got 1"),
        ({"out": Path("net.pt")}, "out: expected a file .safetensors"),
        ({"write_steps": -1}, "write_steps: expected"),
        ({"writable": 8}, "writable: expected 1 to width - 1 = 7, got 8"),
        ({"deviation_rate": 1.0}, "deviation_rate: expected None, as slope_rate is None"),
        ({"data": "mnist", "data_root": None}, "data_root: expected the folder"),
    ],
)
def test_options_out_of_range_are_named(
    more: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMPLUGINS_DATA", raising=False)
    values = {"out": tmp_path / "net.safetensors", **SMALL, **more}
    with pytest.raises(ValueError, match=message):
        Training(EnergyTraining(**values))


def test_too_few_images_to_validate_on_are_named() -> None:
    task = Images(torch.rand(5, 1, 8, 8), "block")
    with pytest.raises(ValueError, match="images: expected at least 6, one a pattern, got 5"):
        task.episodes(1, 6, generator=torch.Generator())
