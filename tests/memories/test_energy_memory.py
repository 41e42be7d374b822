"""EnergyMemory: what it recalls and knows, slots and shares, bytes by hand, and that a run goes on exactly."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins.benchmarks.digits_data import digits
from avalanche_memplugins.codecs import LatentCodec, Uint8
from avalanche_memplugins.codecs.plain import Float16
from avalanche_memplugins.functional.episodes import erase_block
from avalanche_memplugins.lab.energy.options import EnergyTraining
from avalanche_memplugins.lab.energy.train import Training
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.memories._energy_slots import EMPTY
from avalanche_memplugins.networks.energy import EnergyNetwork, GatedEnergy

FLOATS = 3 * (16 + 1)  # of a slot of the tiny network


def tiny(shape: Any = (1, 4, 4), seed: int = 0, **options: Any) -> GatedEnergy:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"write_steps": 2, "read_steps": 2, "write_rate": 1.0, "read_rate": 0.3}
    return GatedEnergy(shape, writable=3, width=8, **{**defaults, **options})


def rows(n: int = 12, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=g), torch.arange(n) % classes


def memory(network: EnergyNetwork | None = None, **options: Any) -> EnergyMemory:
    defaults: dict[str, Any] = {"slots": 4, "slot_size": 4, "precision": "float32", "seed": 3}
    return EnergyMemory(tiny() if network is None else network, **{**defaults, **options})


def snapshot(mine: EnergyMemory) -> dict[str, Any]:
    return copy.deepcopy(dict(mine.state_dict()))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> EnergyNetwork:
    """Two seconds of meta-training on digits: enough for what is written to be read better than what is not."""
    options = EnergyTraining(
        out=tmp_path_factory.mktemp("energy") / "digits.safetensors",
        data="digits",
        patterns=(8,),
        rows=64,
        width=64,
        writable=24,
        rank=40,
        write_steps=4,
        read_steps=3,
        steps=120,
        validate_every=60,
        average=0.97,
    )
    training = Training(options)
    training.run()
    return training.best_network()


def unseen(n: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Digits that the network was not trained on."""
    data = digits()
    return data.x_test[skip : skip + n], data.y_test[skip : skip + n]


def erased(x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    cue, known = erase_block(x.flatten(1), 8, 4, generator=torch.Generator().manual_seed(seed))
    return cue.view_as(x), known.view_as(x)


def errors(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).sum(1)


# ---------------------------------------------------------------- what it recalls and knows


def test_what_was_written_is_read_better_than_what_was_not(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    (x, y), (other, _) = unseen(32), unseen(64, 100)
    mine.write(x, y)
    slots = torch.arange(32) // 8
    cue, known = erased(x)
    read = errors(mine.read(cue, slots=slots, known=known), x).mean()
    with torch.no_grad():
        empty = trained.read(cue.unsqueeze(0), known=known.unsqueeze(0))[-1][0]
    elsewhere = errors(mine.read(cue, slots=(slots + 1) % 4, known=known), x).mean()
    damaged, intact = erased(other)
    unknown = errors(mine.read(damaged, slots=torch.arange(64) % 4, known=intact), other).mean()
    assert read < 0.8 * errors(empty, x).mean()
    assert read < 0.8 * elsewhere
    assert read < 0.8 * unknown
    assert read < 0.5 * errors(cue, x).mean()


def test_written_rows_are_less_novel_than_others(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    (x, y), (other, _) = unseen(32), unseen(64, 100)
    mine.write(x, y)
    known, new = mine.novelty(x), mine.novelty(other)
    assert float((known[:, None] < new).float().mean()) > 0.65  # the area under the ROC curve


def test_novelty_is_the_least_change_of_energy_over_all_slots() -> None:
    mine = memory(slots=6)
    x, y = rows(20)
    mine.write(x, y)
    other = rows(7, seed=1)[0]
    want = []
    with torch.no_grad():
        for row in other:
            pattern = row.view(1, 1, 1, 4, 4)
            before = mine.network.energy(pattern, mine.network.initial).item()
            after = [mine.network.energy(pattern, mine.weights(torch.tensor([s]))).item() for s in range(5)]
            want.append(min(after) - before)
    assert mine.novelty(other, score="energy").tolist() == pytest.approx(want, abs=1e-5)
    # More rows than are worked out at once.
    many = mine.novelty(other.repeat(900, 1, 1, 1), score="energy")
    assert many[-7:].tolist() == pytest.approx(want, abs=1e-5)


def test_novelty_is_the_least_slope_over_all_slots() -> None:
    mine = memory(slots=6)
    x, y = rows(20)
    mine.write(x, y)
    other = rows(7, seed=1)[0]
    mine.network.double()
    want, step = [], 1e-6
    for row in other.double():
        slopes = []
        for slot in range(5):
            weights = tuple(weight.double() for weight in mine.weights(torch.tensor([slot])))
            ends = row.view(1, 1, 16) + step * torch.cat([torch.eye(16), -torch.eye(16)]).double().view(1, 32, 16)
            with torch.no_grad():
                high, low = mine.network.energy(ends.view(1, 32, 1, 4, 4), weights)[0].view(2, 16)
            slopes.append(float(((high - low) / (2 * step)).square().sum()))
        want.append(min(slopes))
    mine.network.float()
    assert mine.novelty(other).tolist() == pytest.approx(want, rel=1e-3)
    assert mine.novelty(other.repeat(900, 1, 1, 1))[-7:].tolist() == pytest.approx(want, rel=1e-3)
    assert not mine.novelty(other).requires_grad
    with pytest.raises(ValueError, match="score: wants one of 'slope', 'energy', got 'loss'"):
        mine.novelty(other, score="loss")  # type: ignore[arg-type]


def test_written_weights_are_those_of_the_network() -> None:
    mine = memory()
    x, y = rows(10)
    mine.write(x, y)
    for slot, part in enumerate(x.split(4)):
        want = mine.network.write(part.unsqueeze(0))
        for got, weight in zip(mine.weights(torch.tensor([slot])), want, strict=True):
            torch.testing.assert_close(got, weight.detach(), rtol=1e-5, atol=1e-6)


def read_alone(mine: EnergyMemory, cue: Tensor, slot: int, **options: Any) -> Tensor:
    with torch.no_grad():
        shaped = cue.view(1, 1, *mine.network.shape)
        return mine.network.read(shaped, mine.weights(torch.tensor([slot])), **options)[-1].flatten()


def test_rows_are_read_each_in_its_slot_in_whatever_order_they_come() -> None:
    mine = memory()
    mine.write(*rows(16))
    cue = rows(9, seed=5)[0]
    slots = torch.tensor([3, 0, 3, 2, 0, 3, 2, 2, 3])
    got = mine.read(cue, slots=slots)
    for row, slot, read in zip(cue, slots.tolist(), got, strict=True):
        torch.testing.assert_close(read.flatten(), read_alone(mine, row, slot), rtol=1e-5, atol=1e-6)
    known = rows(9, seed=6)[0] > 0.5
    kept = mine.read(cue, slots=slots, known=known, steps=3)
    assert torch.equal(kept[known], cue[known])
    for i in range(9):
        want = read_alone(mine, cue[i], int(slots[i]), known=known[i].view(1, 1, 1, 4, 4), steps=3)
        torch.testing.assert_close(kept[i].flatten(), want, rtol=1e-5, atol=1e-6)
    assert mine.read(cue[:0]).shape == (0, 1, 4, 4)


def test_samples_are_reads_from_stored_cues_with_their_labels() -> None:
    mine = memory(cue=2, slots=8)
    x, y = rows(12)
    mine.write(x[:6], y[:6] + 5, 1, origin=7)
    mine.write(x[6:], y[6:], torch.full((6,), 2), origin=torch.full((6,), 9))
    want: dict[tuple[float, ...], tuple[int, int, int]] = {}
    for slot, first, n in ((0, 0, 4), (1, 4, 2), (2, 6, 4), (3, 10, 2)):
        for i in range(first, first + n):
            small = nn.functional.interpolate(x[i : i + 1], (2, 2), mode="area").mul(255).round() / 255
            cue = nn.functional.interpolate(small, (4, 4), mode="bilinear")
            labels = (int(y[i]) + 5, 1, 7) if i < 6 else (int(y[i]), 2, 9)
            want[tuple(round(v, 3) for v in read_alone(mine, cue, slot).tolist())] = labels
    recall = mine.sample(12)
    got = {}
    for row, y_, t, origin in zip(recall.x, recall.y, recall.t, recall.origin, strict=True):
        got[tuple(round(v, 3) for v in row.flatten().tolist())] = (int(y_), int(t), int(origin))
    assert len(got) == 12  # none twice
    near = {key: min(want, key=lambda k: sum((a - b) ** 2 for a, b in zip(k, key, strict=True))) for key in got}
    assert len(set(near.values())) == 12
    for key, other in near.items():
        assert key == pytest.approx(other, abs=2e-3)
        assert got[key] == want[other]


def test_more_samples_than_patterns_are_drawn_evenly() -> None:
    mine = memory(cue=2)
    mine.write(*rows(6))
    recall = mine.sample(20)
    counts = torch.unique(recall.x.flatten(1), dim=0, return_counts=True)[1]
    assert sorted(counts.tolist()) == [3, 3, 3, 3, 4, 4]
    assert not torch.equal(mine.sample(6).x, mine.sample(6).x)  # another order each time


def test_without_stored_cues_reads_start_from_noise_or_from_rows_given() -> None:
    mine, again = memory(), memory()
    x, y = rows(4)
    for each in (mine, again):
        each.write(x, y)
    assert torch.equal(mine.sample(5).x, again.sample(5).x)
    assert not torch.equal(mine.sample(5).x, mine.sample(5).x)
    given = rows(5, seed=8)[0]
    got = mine.sample(5, cue=given).x
    for row, read in zip(given, got, strict=True):
        torch.testing.assert_close(read.flatten(), read_alone(mine, row, 0), rtol=1e-5, atol=1e-6)


def test_langevin_reads_are_draws_of_the_memorys_own_generator() -> None:
    mine, again, cold = memory(temperature=0.01, cue=4), memory(temperature=0.01, cue=4), memory(cue=4)
    for each in (mine, again, cold):
        each.write(*rows(4))
    state = torch.get_rng_state()
    first = mine.sample(4).x
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again.sample(4).x)
    assert not torch.equal(first, cold.sample(4).x)
    x = rows(4)[0]
    warm = [mine.read(x, temperature=0.01) for _ in range(2)]
    assert not torch.equal(*warm)
    assert torch.equal(mine.read(x), mine.read(x))


def test_the_energy_finds_the_slot(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    x, y = unseen(32)
    mine.write(x, y)
    cue, known = erased(x)
    flat, mask = cue.flatten(1), known.flatten(1)
    found = mine.lowest(flat, known=mask)
    want = []
    with torch.no_grad():
        for row, intact in zip(flat, mask, strict=True):
            levels = []
            for slot in range(4):
                end = read_alone(mine, row, slot, known=intact.view(1, 1, *mine.network.shape))
                shaped = end.view(1, 1, *mine.network.shape)
                level = mine.network.energy(shaped, mine.weights(torch.tensor([slot])))
                levels.append(float(level - mine.network.energy(shaped, mine.network.initial)))
            want.append(levels.index(min(levels)))
    assert float((found == torch.tensor(want)).float().mean()) > 0.96
    assert float((found == torch.arange(32) // 8).float().mean()) > 0.45  # 0.25 by chance
    slots = mine.read(cue, slots=found, known=known)
    assert torch.equal(mine.read(cue, known=known, route="energy"), slots)


def test_the_best_match_finds_the_slot(trained: EnergyNetwork) -> None:
    mine = memory(copy.deepcopy(trained), slot_size=8)
    x, y = unseen(32)
    mine.write(x, y)
    cue, known = erased(x)
    flat, mask = cue.flatten(1), known.flatten(1)
    for told in (None, mask):
        found = mine.matching(flat, known=told)
        want = []
        with torch.no_grad():
            for row, intact in zip(flat, mask, strict=True):
                ends = [read_alone(mine, row, slot).flatten() for slot in range(4)]
                kept = intact if told is not None else torch.ones_like(intact)
                moved = [float((end - row).square()[kept].sum()) for end in ends]
                want.append(moved.index(min(moved)))
        assert float((found == torch.tensor(want)).float().mean()) > 0.96
    assert float((found == torch.arange(32) // 8).float().mean()) > 0.5  # 0.25 by chance
    assert torch.equal(mine.read(cue, known=known), mine.read(cue, slots=found, known=known))


def test_the_nearest_stored_cue_finds_the_slot() -> None:
    mine = memory(cue=4, slots=4, mean=0.3, std=0.5)
    x, y = rows(16)
    x = (x - 0.3) / 0.5
    mine.write(x, y)
    near = x + 0.02 * rows(16, seed=2)[0]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    got = mine.read(near[order], route="cue")
    assert torch.equal(got, mine.read(near[order], slots=order // 4))
    assert not torch.allclose(got, mine.read(near[order], slots=(order // 4 + 1) % 4), atol=1e-3)


def test_rows_under_normalize_are_pixels_to_the_network() -> None:
    plain, normalised = memory(cue=2), memory(cue=2, mean=0.3, std=0.5)
    x, y = rows(8)
    plain.write(x, y)
    normalised.write((x - 0.3) / 0.5, y)
    slots = torch.arange(2)
    for a, b in zip(plain.weights(slots), normalised.weights(slots), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalised.sample(8).x * 0.5 + 0.3, plain.sample(8).x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(normalised.novelty((x - 0.3) / 0.5), plain.novelty(x), rtol=1e-3, atol=1e-4)
    double = memory()
    double.write(x.double(), y)
    assert double.sample(2).x.dtype == double.read(x.double()).dtype == torch.float64


class Halves(nn.Module):
    """Codes are the means of the halves of an image, as deviations from one half."""

    code_size = 2

    def encode(self, x: Tensor) -> Tensor:
        return x.view(len(x), 2, 8).mean(2) - 0.5

    def decode(self, z: Tensor) -> Tensor:
        return (z + 0.5).repeat_interleave(8, 1).view(-1, 1, 4, 4).clamp(0, 1)


def test_codes_of_a_codec_are_the_patterns() -> None:
    codec = LatentCodec(Halves(), code_mean=torch.zeros(2), code_std=torch.full((2,), 0.1))
    mine = memory(tiny(2), codec=codec, cue=Uint8(lossy=True))
    x, y = rows(4)
    x[0] = 1.0  # five standard deviations: cut off at three
    mine.write(x, y)
    patterns = ((x.view(4, 2, 8).mean(2) - 0.5) / 0.1 / 6 + 0.5).clamp(0, 1)
    assert patterns[0].tolist() == [1, 1]
    for got, want in zip(mine.weights(torch.tensor([0])), mine.network.write(patterns[None]), strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)
    end = read_alone(mine, patterns[1], 0)
    want = ((end - 0.5) * 6 * 0.1 + 0.5).repeat_interleave(8).clamp(0, 1)
    torch.testing.assert_close(mine.read(x[1:2]).flatten(), want, rtol=1e-4, atol=1e-4)
    # What is stored of a code is the code, in 256 levels here.
    assert torch.equal(mine.cues[0], (patterns * 255).round().to(torch.uint8))
    ends = torch.stack([read_alone(mine, (pattern * 255).round() / 255, 0) for pattern in patterns])
    recalled = mine.sample(4).x.view(4, 2, 8)[:, :, 0]
    wanted = ((ends - 0.5) * 6 * 0.1 + 0.5).clamp(0, 1)
    torch.testing.assert_close(
        recalled[recalled.sum(1).argsort()], wanted[wanted.sum(1).argsort()], rtol=1e-3, atol=1e-3
    )
    assert torch.equal(mine.read(x, route="cue"), mine.read(x, slots=torch.zeros(4, dtype=torch.int64)))
    once = EnergyMemory.from_budget(
        mine.nbytes, tiny(2), shape=(1, 4, 4), classes=3, slot_size=4, precision="float32", codec=codec, cue=mine.cue
    )
    assert once.slots == 1
    with pytest.raises(ValueError, match="known: entries of a row are not entries of its code"):
        mine.read(x, known=torch.ones_like(x, dtype=torch.bool))
    with pytest.raises(ValueError, match="codec: has codes of 2, but the network's patterns are of 16"):
        memory(codec=codec)


def test_classes_may_be_a_part_of_the_pattern() -> None:
    mine = memory(tiny(19), label_bits=3, cue=4)
    x, y = rows(4)
    mine.write(x, y)
    whole = torch.cat([x.flatten(1), torch.eye(3)[y]], 1)
    for got, want in zip(mine.weights(torch.tensor([0])), mine.network.write(whole[None]), strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)
    recall = mine.sample(4)
    # A thumbnail as large as the image is the image, in 256 levels.
    for row, label in zip(recall.x, recall.y.tolist(), strict=True):
        ends = [
            read_alone(mine, torch.cat([(x[i] * 255).round().flatten() / 255, torch.full((3,), 0.5)]), 0)
            for i in range(4)
        ]
        end = min(ends, key=lambda e: float((e[:16] - row.flatten()).square().sum()))
        torch.testing.assert_close(end[:16], row.flatten(), rtol=1e-4, atol=1e-5)
        assert label == int(end[16:].argmax())
    assert mine.read(x).shape == x.shape
    assert mine.novelty(x).shape == (4,)
    with pytest.raises(ValueError, match="y: wants classes below label_bits=3, got 3"):
        mine.write(x, y + 1)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_autocast_changes_nothing(precision: Any) -> None:
    plain, cast = memory(cue=2, precision=precision), memory(cue=2, precision=precision)
    x, y = rows(8)
    plain.write(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.write(x, y)
        got = cast.sample(4).x, cast.read(x), cast.novelty(x)
    assert all(
        torch.equal(a, b) for a, b in zip(got, (plain.sample(4).x, plain.read(x), plain.novelty(x)), strict=True)
    )


def test_the_network_is_frozen_and_nothing_hangs_on_a_graph() -> None:
    mine = memory(cue=2)
    x, y = rows(8)
    mine.write(x.requires_grad_(), y)
    assert not any(value.requires_grad for value in (*mine.parameters(), *mine.buffers()))
    assert not any(value.requires_grad for value in (mine.sample(3).x, mine.read(x), mine.novelty(x)))
    assert not mine.network.training


# ---------------------------------------------------------------- slots and shares


def test_a_slot_holds_rows_of_one_task_and_origin() -> None:
    mine = memory(slots=10)
    x, _ = rows(14)
    y = torch.tensor([4, 4, 2, 7, 7, 2, 4, 2, 7, 4, 4, 4, 2, 2])
    t = torch.tensor([0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    mine.write(x, y, t, origin=t + 5)
    places = mine.labels.long()
    held = [mine._table[row[row != EMPTY], 0].tolist() for row in places]
    assert sorted(zip(mine.origins.tolist(), held, strict=True)) == sorted(
        [([0, 5], [4, 4, 7, 2]), ([0, 5], [4, 2, 4, 2]), ([0, 5], [2]), ([1, 6], [2, 7, 7, 4]), ([1, 6], [4])]
    )
    assert (len(mine), mine.filled, bool(mine)) == (14, 5, True)
    assert sorted(mine.classes_held.tolist()) == sorted(y.tolist())
    summary = mine.summary()
    assert summary.per_class == {2: 5, 4: 6, 7: 3}
    assert (summary.per_task, summary.per_experience) == ({0: 9, 1: 5}, {5: 9, 6: 5})
    assert (summary.capacity, summary.filled, summary.seen) == (40, 14, 14)


def test_by_class_no_slot_mixes_classes() -> None:
    mine = memory(slots=10, by_class=True)
    x, y = rows(14)
    mine.write(x, y)
    held = [mine._table[row[row != EMPTY].long(), 0].tolist() for row in mine.labels]
    assert all(len(set(row)) == 1 for row in held)
    assert sorted(map(len, held)) == [1, 1, 4, 4, 4]
    recall = mine.sample(14)
    assert torch.bincount(recall.y).tolist() == [5, 5, 4]


def test_a_full_memory_keeps_a_uniform_draw_of_the_slots_offered() -> None:
    mine = memory(tiny(write_steps=0), slots=100, slot_size=1, seed=11)
    x, y = rows(800)
    offered = torch.arange(800)
    for part in (slice(0, 90), slice(90, 400), slice(400, 800)):
        mine.write(x[part], y[part], origin=offered[part])
    held = mine.origins[:, 1]
    assert len(mine) == mine.filled == len(held.unique()) == 100
    counts = torch.bincount(held // 100, minlength=8).float()
    assert float(((counts - 12.5) ** 2 / 12.5).sum()) < 24.3  # chi-square, 7 degrees of freedom, one in a thousand
    assert mine.summary().seen == 800
    assert torch.equal(mine.classes_held, held % 3)


def test_early_and_late_slots_have_the_same_chance() -> None:
    network, (x, y) = tiny(write_steps=0), rows(16)
    counts = torch.zeros(16)
    for seed in range(60):
        mine = memory(network, slots=2, slot_size=1, seed=seed)
        mine.write(x, y, origin=torch.arange(16))
        counts += torch.bincount(mine.origins[:, 1], minlength=16)
    assert float(((counts - 7.5) ** 2 / 7.5).sum()) < 37.7  # chi-square, 15 degrees of freedom, one in a thousand


def batches(*, classes: tuple[int, ...], n: int = 40, seed: int = 0, t: int = 0, size: int = 16) -> list[Any]:
    """Batches of an experience, nine rows in ten of the first of its classes."""
    x = rows(n, seed=seed)[0]
    y = torch.where(torch.arange(n) % 10 == 9, classes[-1], classes[0])
    return [(x[i : i + size], y[i : i + size], t) for i in range(0, n, size)]


def test_experiences_have_equal_shares_and_classes_too() -> None:
    mine = memory(slots=6, slot_size=4)
    mine.consolidate(batches(classes=(0, 1), n=120), origin=0)
    assert mine.summary().per_experience == {0: 24}
    assert mine.summary().per_class == {0: 12, 1: 12}
    before = [weight.clone() for weight in mine.weights(torch.arange(6))]
    mine.consolidate(batches(classes=(2, 3), n=120, seed=1, t=4), origin=1)
    assert mine.summary().per_experience == {0: 12, 1: 12}
    assert mine.summary().per_task == {0: 12, 4: 12}
    assert mine.summary().per_class == {0: 6, 1: 6, 2: 6, 3: 6}
    # Older slots are let go of or kept as they were.
    old = mine.origins[:, 1] == 0
    for weight, was in zip(mine.weights(torch.arange(6)), before, strict=True):
        assert all(any(torch.equal(one, other) for other in was) for one in weight[old])
    for origin in (2, 3):
        mine.consolidate(batches(classes=(origin, 9), n=120, seed=origin), origin=origin)
    assert sorted(mine.summary().per_experience.values()) == [4, 4, 8, 8]


def test_an_experience_smaller_than_its_share_is_written_whole() -> None:
    mine = memory(slots=6, slot_size=4)
    mine.consolidate(batches(classes=(0, 1), n=10), origin=0)
    assert (len(mine), mine.filled) == (10, 3)
    mine.consolidate(batches(classes=(2, 3), n=120, seed=1), origin=1)
    assert mine.summary().per_experience == {0: 10, 1: 12}


def test_slots_of_one_class_each_are_shared_by_all_classes() -> None:
    mine = memory(slots=6, slot_size=4, by_class=True)
    for origin in range(3):
        mine.consolidate(batches(classes=(2 * origin, 2 * origin + 1), n=120, seed=origin), origin=origin)
    assert mine.summary().per_experience == {0: 8, 1: 8, 2: 8}
    newest = {label: n for label, n in mine.summary().per_class.items() if label > 3}
    assert newest == {4: 4, 5: 4}


def test_with_more_experiences_than_slots_the_newest_has_one() -> None:
    mine = memory(slots=3, slot_size=4)
    kept = []
    for origin in range(8):
        mine.consolidate(batches(classes=(0, 1), seed=origin), origin=origin)
        kept.append(set(mine.summary().per_experience))
        assert origin in kept[-1]
    assert all(len(each) == 3 for each in kept[2:])
    assert mine.filled == 3


def test_rows_are_drawn_evenly_over_an_experience() -> None:
    """Of 60 rows 12 are kept, wherever they came."""
    counts = torch.zeros(60)
    network = tiny(write_steps=0)
    for seed in range(40):
        mine = memory(network, slots=12, slot_size=1, cue=4, seed=seed)
        x = (torch.arange(60.0) / 255).view(60, 1, 1, 1).expand(60, 1, 4, 4)
        mine.consolidate(
            [(x[i : i + 16], torch.zeros(len(x[i : i + 16]), dtype=torch.int64), 0) for i in range(0, 60, 16)], origin=0
        )
        counts += torch.bincount(mine.cues.flatten(1)[:, 0].long(), minlength=60)
    assert float(counts.sum()) == 480
    quarters = counts.view(4, 15).sum(1)
    assert float(((quarters - 120) ** 2 / 120).sum()) < 16.3  # chi-square, 3 degrees of freedom


def test_consolidation_is_repeatable_and_a_failed_one_changes_no_rows() -> None:
    mine, again = memory(cue=2), memory(cue=2)
    for each in (mine, again):
        for origin in range(3):
            each.consolidate(batches(classes=(0, 1), seed=origin), origin=origin)
    assert same(snapshot(mine), snapshot(again))
    bad = batches(classes=(2, 3), seed=5)
    bad[-1] = (bad[-1][0] * 9, *bad[-1][1:])
    for wrong in (bad, []):
        with pytest.raises(ValueError, match=r"x: |batches: wants the rows of an experience, got none"):
            again.consolidate(wrong, origin=4)
    many = [(rows(100)[0], torch.arange(100) + 100 * i, 0) for i in range(3)]
    with pytest.raises(ValueError, match="y: this memory holds at most 255 classes"):
        memory(slot_size=100).consolidate(many, origin=4)
    got, want = snapshot(again), snapshot(mine)
    got["_extra_state"].pop("generator")
    want["_extra_state"].pop("generator")
    assert same(got, want)


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("precision", "weights"), [("float32", 4 * FLOATS), ("float16", 2 * FLOATS), ("int8", FLOATS + 8)]
)
@pytest.mark.parametrize(("cue", "code"), [(None, 0), (2, 4), (Float16(), 32)])
def test_bytes_by_hand(precision: Any, weights: int, cue: Any, code: int) -> None:
    mine = memory(precision=precision, cue=cue)
    assert mine.nbytes == 0
    mine.write(*rows(10))
    slot = weights + 4 * code + 4 * 1 + 2 * 8
    assert mine.nbytes == 3 * slot + 3 * 4 * 8
    fixed = sum(value.numel() for value in mine.network.parameters()) * 4
    assert mine.nbytes_fixed == mine.summary().nbytes_fixed == fixed
    assert mine.summary().nbytes == mine.nbytes


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("cue", [None, 2, Float16()])
def test_a_budget_is_never_exceeded_and_never_wasted(precision: Any, cue: Any) -> None:
    network = tiny()
    x, y = rows(120)
    for nbytes in (700, 1500, 1501, 2222):
        mine = EnergyMemory.from_budget(
            nbytes, network, shape=(1, 4, 4), classes=3, slot_size=4, precision=precision, cue=cue
        )
        mine.write(x, y)
        assert mine.filled == mine.slots
        slot = (mine.nbytes - 3 * 32) // mine.slots
        assert mine.nbytes <= nbytes < mine.nbytes + slot
    exact = EnergyMemory.from_budget(
        mine.nbytes, network, shape=(1, 4, 4), classes=3, slot_size=4, precision=precision, cue=cue
    )
    assert exact.slots == mine.slots
    with pytest.raises(ValueError, match=r"nbytes: one slot takes .* bytes beside 96 of classes, got 120"):
        EnergyMemory.from_budget(120, network, shape=(1, 4, 4), classes=3)
    with pytest.raises(ValueError, match="classes"):
        EnergyMemory.from_budget(9999, network, shape=(1, 4, 4), classes=0)


def test_stored_weights_are_off_by_half_a_step_at_most() -> None:
    stored = {precision: memory(precision=precision) for precision in ("float32", "float16", "int8")}
    for mine in stored.values():
        mine.write(*rows(16))
    slots = torch.arange(4)
    exact = stored["float32"].weights(slots)
    for i, (weight, initial) in enumerate(zip(exact, stored["float32"].network.initial, strict=True)):
        delta = weight - initial
        largest = delta.abs().flatten(1).amax(1).view(-1, *[1] * (delta.ndim - 1))
        coarse = (stored["int8"].weights(slots)[i] - weight).abs()
        assert bool((coarse <= largest / 254 * 1.001 + 1e-7).all())
        assert float(coarse.max()) > 0
        half = (stored["float16"].weights(slots)[i] - weight).abs()
        assert bool((half <= delta.abs() * 2**-11 * 1.001 + 3e-7).all())


def test_nothing_written_is_nothing_stored_and_too_much_is_cut_off() -> None:
    for precision in ("float16", "int8"):
        mine = memory(tiny(write_steps=0), precision=precision)
        mine.write(*rows(4))
        for got, initial in zip(mine.weights(torch.tensor([0])), mine.network.initial, strict=True):
            assert torch.equal(got, initial)
    network = tiny()
    with torch.no_grad():
        network.write_rates.fill_(1e6)
    mine, exact = memory(copy.deepcopy(network), precision="float16"), memory(network)
    for each in (mine, exact):
        each.write(*rows(4))
    assert max(float(weight.abs().max()) for weight in exact.weights(torch.tensor([0]))) > 65504
    assert bool(mine.read(rows(4)[0]).isfinite().all())


# ---------------------------------------------------------------- state


def by_state_dict(mine: EnergyMemory, make: Callable[[], EnergyMemory], folder: Path) -> EnergyMemory:
    again = make()
    again.load_state_dict(copy.deepcopy(mine.state_dict()))
    return again


def by_folder(mine: EnergyMemory, make: Callable[[], EnergyMemory], folder: Path) -> EnergyMemory:
    mine.save(folder)
    return make().load(folder)


WAYS: dict[str, Callable[..., EnergyMemory]] = {
    "state_dict": by_state_dict,
    "folder": by_folder,
    "pickle": lambda mine, make, folder: pickle.loads(pickle.dumps(mine)),
    "deepcopy": lambda mine, make, folder: copy.deepcopy(mine),
}
KINDS: dict[str, dict[str, Any]] = {
    "int8, thumbnails, hot": {"precision": "int8", "cue": 2, "temperature": 0.01},
    "float16, noise": {"precision": "float16", "by_class": True},
    "float16 cues": {"cue": Float16(), "slot_size": 3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_restored_memory_goes_on_bit_for_bit(way: str, kind: str, tmp_path: Path) -> None:
    def make() -> EnergyMemory:
        return memory(**KINDS[kind])

    def go_on(each: EnergyMemory) -> list[Tensor]:
        each.write(*rows(20, seed=1), 1, origin=4)
        each.consolidate(batches(classes=(3, 1)), origin=5)
        recall = each.sample(9)
        return [*recall[:4], each.novelty(rows(3)[0]), each.labels, each.origins, torch.tensor(each.offered)]

    mine = make()
    for stage in range(2):  # empty, then full
        again = WAYS[way](mine, make, tmp_path / str(stage))
        untouched = snapshot(mine)
        got = go_on(again)
        assert same(snapshot(mine), untouched)
        assert all(torch.equal(a, b) for a, b in zip(got, go_on(mine), strict=True))
        assert same(snapshot(mine), snapshot(again))
        assert (mine.nbytes, len(mine), repr(mine)) == (again.nbytes, len(again), repr(again))


@pytest.mark.parametrize("way", ["state_dict", "folder"])
def test_the_state_of_another_memory_is_refused(way: str, tmp_path: Path) -> None:
    mine = memory(cue=2)
    mine.write(*rows(8))
    for number, other in enumerate(
        (lambda: memory(tiny(seed=1), cue=2), lambda: memory(cue=3), lambda: memory(cue=2, slots=5))
    ):
        target = other()
        target.write(*rows(4, seed=9))
        before = snapshot(target)
        with pytest.raises(ValueError, match="state: wants that of EnergyMemory"):
            WAYS[way](mine, lambda target=target: target, tmp_path / str(number))  # type: ignore[misc]
        assert same(snapshot(target), before)


def test_a_memory_is_where_its_buffers_are() -> None:
    mine = memory()
    mine.write(*rows(4))
    assert mine.device == mine.sample(2).x.device == torch.device("cpu")
    assert mine.to("meta").device.type == "meta"


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": nn.Linear(2, 2)}, TypeError, "network: wants an EnergyNetwork, got Linear"),
        ({"slots": 0}, ValueError, "slots: wants an integer >= 1, got 0"),
        ({"slot_size": True}, ValueError, "slot_size: wants an integer >= 1, got True"),
        ({"precision": "float8"}, ValueError, "precision: wants one of .*float16"),
        ({"label_bits": 16}, ValueError, "label_bits: wants 0 to 15, got 16"),
        ({"label_bits": 2.5}, ValueError, "label_bits: wants"),
        ({"temperature": -0.1}, ValueError, "temperature: wants a number >= 0, got -0.1"),
        ({"write_steps": 0}, ValueError, "write_steps: wants an integer >= 1, got 0"),
        ({"read_steps": 1.5}, ValueError, "read_steps: wants an integer >= 1, got 1.5"),
        ({"cue": 0}, ValueError, "cue: wants a codec, the side >= 1 of a thumbnail, or None, got 0"),
        ({"cue": True}, ValueError, "cue: wants"),
        ({"std": 0.0}, ValueError, "std: wants numbers above 0"),
        ({"codec": Float16()}, TypeError, "codec: wants a learned codec"),
    ],
)
def test_arguments_of_the_memory_are_named(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        memory(**options)


X, Y = rows(4)
WRONG_WRITES: list[tuple[tuple[Any, ...], Any, str]] = [
    ((X[:, :, :3], Y), ValueError, "x: "),
    ((X.flatten(1), Y), ValueError, r"x: wants rows of shape \(1, 4, 4\)"),
    ((X * 2, Y), ValueError, "x: .* stores pixels from 0 to 1"),
    ((X / 0, Y), ValueError, "x: wants finite values"),
    ((X.byte(), Y), ValueError, "x: without a codec wants floating-point rows"),
    ((X.tolist(), Y), TypeError, "x: wants a tensor"),
    ((X, Y[:3]), ValueError, r"y: wants shape \(4,\)"),
    ((X, Y.float()), ValueError, "y: wants integers"),
    ((X, -Y - 1), ValueError, "y: wants integers from 0"),
    ((X, Y, torch.zeros(3, dtype=torch.int64)), ValueError, "t: wants shape"),
    ((X, Y, -1), ValueError, "t: wants integers from 0"),
]


@pytest.mark.parametrize("case", range(len(WRONG_WRITES)))
def test_rows_that_do_not_fit_are_named_and_change_nothing(case: int) -> None:
    arguments, error, message = WRONG_WRITES[case]
    mine = memory(cue=2)
    mine.write(*rows(7))
    before = snapshot(mine)
    with pytest.raises(error, match=message):
        mine.write(*arguments)
    assert same(snapshot(mine), before)
    mine.write(X[:0], Y[:0])
    assert same(snapshot(mine), before)


def test_the_first_rows_must_fit_the_network_and_the_cue() -> None:
    for options, x, message in (
        (
            {},
            torch.rand(4, 1, 5, 5),
            r"x: this memory's network is for patterns of 16 numbers, got rows of \(1, 5, 5\)",
        ),
        ({"cue": 5}, X, "x: the codec Downsampled wants images"),
        ({"label_bits": 3}, X, "x: this memory's network is for patterns of 13 numbers"),
    ):
        mine = memory(**options)
        with pytest.raises(ValueError, match=message):
            mine.write(x, Y)
        assert not len(mine)
        assert mine.classes == []
    mine = memory(slots=1, slot_size=1)
    many = rows(255, classes=255)
    mine.write(*many)
    with pytest.raises(ValueError, match="y: this memory holds at most 255 classes, got 256"):
        mine.write(X[:1], torch.tensor([255]))
    assert len(mine.classes) == 255


WRONG_READS: list[tuple[Callable[[EnergyMemory], Any], str]] = [
    (lambda m: m.read(X[:, :, :3]), r"cue: wants rows of shape \(1, 4, 4\), as first written, got \(1, 3, 4\)"),
    (lambda m: m.read(X / 0), "cue: wants finite values"),
    (lambda m: m.read(X, slots=torch.tensor([0, 1, 2, 0])), r"slots: wants \(4,\) integers from 0 to 1, got"),
    (lambda m: m.read(X, slots=torch.tensor([0, 1, -1, 0])), "slots: wants"),
    (lambda m: m.read(X, slots=torch.zeros(4)), "slots: wants"),
    (lambda m: m.read(X, slots=torch.zeros(3, dtype=torch.int64)), "slots: wants"),
    (lambda m: m.read(X, route="cues"), "route: wants one of 'match', 'energy', 'cue', got 'cues'"),  # type: ignore[arg-type]
    (lambda m: m.read(X, route="cue"), "route: 'cue' wants a memory that stores cues"),
    (lambda m: m.read(X, known=X[:3] > 0), r"known: wants bool \(4, 1, 4, 4\), got torch.bool \(3, 1, 4, 4\)"),
    (lambda m: m.read(X, known=X), "known: wants bool"),
    (lambda m: m.read(X, steps=0), "steps: wants an integer >= 1, got 0"),
    (lambda m: m.read(X, temperature=-1.0), "temperature: wants a number >= 0, got -1"),
    (lambda m: m.novelty(X[:, :, :3]), r"x: wants rows of shape \(1, 4, 4\)"),
    (lambda m: m.sample(0), "n: wants an integer >= 1, got 0"),
    (lambda m: m.sample(3, cue=X), r"cue: wants shape \(3, 1, 4, 4\), got \(4, 1, 4, 4\)"),
]


@pytest.mark.parametrize("case", range(len(WRONG_READS)))
def test_reads_that_do_not_fit_are_named(case: int) -> None:
    act, message = WRONG_READS[case]
    mine = memory()
    mine.write(*rows(8))
    with pytest.raises(ValueError, match=message):
        act(mine)


def test_an_empty_memory_has_nothing_to_read() -> None:
    mine = memory()
    for act, name in ((lambda: mine.sample(2), "n"), (lambda: mine.read(X), "cue"), (lambda: mine.novelty(X), "x")):
        with pytest.raises(ValueError, match=f"^{name}: nothing has been written"):
            act()


def test_a_write_that_diverges_changes_nothing() -> None:
    torch.manual_seed(0)
    network = GatedEnergy(4, writable=2, width=4, write_steps=2, read_steps=1)
    memory = EnergyMemory(network, slots=4, slot_size=2)
    x, y = torch.rand(4, 4), torch.tensor([0, 1, 0, 1])
    memory.write(x, y)
    before = copy.deepcopy(memory.state_dict())
    with torch.no_grad():
        network.write_rates.fill_(float("inf"))
    for attempt in (lambda: memory.write(x, y + 2), lambda: memory.consolidate([(x, y + 2, 0)], origin=1)):
        with pytest.raises(ValueError, match="x: the write of these rows diverged"):
            attempt()
    after = memory.state_dict()
    assert memory.classes == [0, 1]
    assert torch.equal(after["delta0"], before["delta0"])
    assert torch.equal(after["_extra_state"]["generator"], before["_extra_state"]["generator"])
    assert after["_extra_state"]["offered"] == before["_extra_state"]["offered"]
