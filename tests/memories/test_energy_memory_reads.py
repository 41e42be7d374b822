"""EnergyMemory: what reads and samples give, from every kind of cue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _energy_bank import memory, read_alone, rows, tiny
from torch import Tensor, nn

from avalanche_memplugins.codecs import LatentCodec, Uint8
from avalanche_memplugins.memories import EnergyMemory


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
    with pytest.raises(
        ValueError, match="known: expected None with a codec, as entries of a row are not entries of its code, got"
    ):
        mine.read(x, known=torch.ones_like(x, dtype=torch.bool))
    with pytest.raises(ValueError, match="codec: expected codes of 16, as the network's patterns are, got"):
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
    with pytest.raises(ValueError, match="y: expected classes below label_bits=3, got 3"):
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


# ---------------------------------------------------------------- arguments


X = rows(4)[0]
WRONG_READS: list[tuple[Callable[[EnergyMemory], Any], str]] = [
    (lambda m: m.read(X[:, :, :3]), r"cue: expected rows of shape \(1, 4, 4\), as first written, got"),
    (lambda m: m.read(X / 0), "cue: expected finite values"),
    (lambda m: m.read(X, slots=torch.tensor([0, 1, 2, 0])), r"slots: expected \(4,\) integers from 0 to 1, got"),
    (lambda m: m.read(X, slots=torch.tensor([0, 1, -1, 0])), r"slots: expected \(4,\) integers from 0 to 1, got"),
    (lambda m: m.read(X, slots=torch.zeros(4)), r"slots: expected \(4,\) integers from 0 to 1, got"),
    (lambda m: m.read(X, slots=torch.zeros(3, dtype=torch.int64)), r"slots: expected \(4,\) integers from 0 to 1, got"),
    (lambda m: m.read(X, route="cues"), "route: expected one of 'match', 'energy', 'cue', got"),  # type: ignore[arg-type]
    (lambda m: m.read(X, route="cue"), "route: expected a memory that stores cues for 'cue', got"),
    (lambda m: m.read(X, known=X[:3] > 0), r"known: expected bool \(4, 1, 4, 4\), got torch.bool \(3, 1, 4, 4\)"),
    (lambda m: m.read(X, known=X), "known: expected bool"),
    (lambda m: m.read(X, steps=0), "steps: expected an integer >= 1, got 0"),
    (lambda m: m.read(X, temperature=-1.0), "temperature: expected a number >= 0, got -1"),
    (lambda m: m.novelty(X[:, :, :3]), r"x: expected rows of shape \(1, 4, 4\)"),
    (lambda m: m.sample(0), "n: expected an integer >= 1, got 0"),
    (lambda m: m.sample(3, cue=X), r"cue: expected shape \(3, 1, 4, 4\), a row for each of n, got"),
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
