"""Context models: contexts by their definition, exact round trips, code lengths of float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional import (
    code_length,
    context_count,
    context_model,
    count_contexts,
    decode_images,
    encode_images,
    fit_probabilities,
    pixel_contexts,
    range_coder,
)
from avalanche_memplugins.functional.context_model import from_rounded_probabilities, round_probabilities

# By the docstring: neighbours (line, column, bits left out), the most significant first.
NEIGHBOURS = {
    1: [[(-2, -1, 0), (-2, 0, 0), (-2, 1, 0), *[(-1, dx, 0) for dx in range(-2, 3)], (0, -2, 0), (0, -1, 0)]],
    2: [[(0, -1, 0), (-1, 0, 0), (-1, -1, 0), (-1, 1, 0)]] * 2,
    4: [
        [(0, -1, 1), (-1, 0, 1), (-1, 1, 2)],
        [(0, -1, 1), (-1, 0, 1), (-1, 1, 3)],
        [(0, -1, 1), (-1, 0, 1)],
        [(0, -1, 2), (-1, 0, 2)],
    ],
}


@pytest.fixture(params=["numba", "numpy"])
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        for module in (context_model, range_coder):
            monkeypatch.setattr(module, "compiled", lambda kernel: None)


def images(bits: int, *shape: int, seed: int = 0, smooth: bool = True) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if smooth:
        x = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
        x = (x - x.amin()) / (x.amax() - x.amin())
    return (x * 2**bits).floor().clamp(0, 2**bits - 1).to(torch.uint8)


def by_hand(levels: np.ndarray, bits: int) -> tuple[list[int], list[int]]:
    """Bits and contexts of one image ``(C, H, W)``, pixel by pixel."""
    found, contexts = [], []

    def at(channel: int, y: int, x: int) -> int:
        inside = 0 <= y < levels.shape[1] and 0 <= x < levels.shape[2]
        return int(levels[channel, y, x]) if inside else 0

    for channel, y, x in np.ndindex(*levels.shape):
        start, level = 0, int(levels[channel, y, x])
        for plane, neighbours in enumerate(NEIGHBOURS[bits]):
            context = level >> (bits - plane)
            width = 0
            for dy, dx, drop in neighbours:
                context = (context << (bits - drop)) | (at(channel, y + dy, x + dx) >> drop)
                width += bits - drop
            found.append(level >> (bits - 1 - plane) & 1)
            contexts.append(start + context)
            start += 1 << (width + plane)
    return found, contexts


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_contexts_are_those_of_the_definition(bits: int) -> None:
    levels = images(bits, 3, 2, 5, 7, smooth=False)
    found, contexts = pixel_contexts(levels, bits)
    for row in range(3):
        assert (found[row].tolist(), contexts[row].tolist()) == by_hand(levels[row].numpy(), bits)
    assert int(contexts.max()) < context_count(bits)
    counts = count_contexts(levels, bits)
    assert int(counts.sum()) == found.numel()
    assert torch.equal(counts.sum(1), torch.bincount(contexts.flatten(), minlength=context_count(bits)))
    assert torch.equal(counts[:, 1], torch.bincount(contexts[found == 1], minlength=context_count(bits)))


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 9, 5), (1, 1, 1), (2, 1, 17), (1, 17, 2)])
def test_images_come_back(bits: int, shape: tuple[int, ...]) -> None:
    levels = images(bits, 40, *shape, smooth=min(shape[1:]) > 4)
    for seed, table in enumerate(
        [
            fit_probabilities(count_contexts(levels, bits), strength=1.0),
            torch.randint(1, 65536, (context_count(bits),), generator=torch.Generator().manual_seed(1)),
            torch.full((context_count(bits),), 65535),
        ]
    ):
        buffer, lengths = encode_images(levels, bits, table)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        starts = lengths.cumsum(0) - lengths
        assert torch.equal(decode_images(buffer, starts[order], lengths[order], bits, shape, table), levels[order])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_thousands_of_random_images_take_the_ideal_length(bits: int) -> None:
    levels = torch.cat([images(bits, 2000, 1, 14, 14), images(bits, 500, 1, 14, 14, seed=1, smooth=False)])
    table = fit_probabilities(count_contexts(levels, bits))
    buffer, lengths = encode_images(levels, bits, table)
    assert torch.equal(decode_images(buffer, lengths.cumsum(0) - lengths, lengths, bits, (1, 14, 14), table), levels)
    found, contexts = pixel_contexts(levels, bits)
    share = table.numpy().astype(np.float64)[contexts.numpy()] / 65536
    ideal = -np.log2(np.where(found.numpy() == 1, share, 1 - share)).sum(1) / 8
    assert (lengths.numpy() <= 1.005 * ideal + 1).all()
    assert float(lengths.sum()) >= (ideal - 1).clip(0).sum()
    assert code_length(count_contexts(levels, bits), table) / 8 == pytest.approx(ideal.sum(), rel=1e-9)


def test_both_paths_give_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    levels, table = images(2, 60, 1, 10, 11), torch.randint(1, 65536, (context_count(2),))
    noise = torch.randint(0, 256, (4000,), dtype=torch.uint8)  # any bytes decode to something
    starts, lengths = torch.arange(60) * 60, torch.full((60,), 55)
    before = encode_images(levels, 2, table), decode_images(noise, starts, lengths, 2, (1, 10, 11), table)
    for module in (context_model, range_coder):
        monkeypatch.setattr(module, "compiled", lambda kernel: None)
    after = encode_images(levels, 2, table), decode_images(noise, starts, lengths, 2, (1, 10, 11), table)
    assert torch.equal(before[0][0], after[0][0])
    assert torch.equal(before[0][1], after[0][1])
    assert torch.equal(before[1], after[1])


def test_probabilities_are_counts_with_a_prior() -> None:
    counts = torch.tensor([[3, 1], [0, 0], [0, 10**9]])
    prior = torch.tensor([65536 // 4] * 3)
    expected = [round(65536 * (1 + 4 * 0.25) / 8), 65536 // 4, 65535]
    assert fit_probabilities(counts, prior).tolist() == expected
    assert fit_probabilities(counts, strength=2.0).tolist()[:2] == [round(65536 * 2 / 6), 32768]


@pytest.mark.parametrize("bits", [5, 8])
def test_rounding_goes_to_the_nearest_logit(bits: int) -> None:
    ones = torch.arange(1, 65536)
    rounded = round_probabilities(ones, bits)
    assert (int(rounded.min()), int(rounded.max())) == (0, 2**bits - 1)
    levels = np.linspace(-np.log(65535), np.log(65535), 2**bits)
    logits = np.log(ones.numpy() / (65536 - ones.numpy()))
    distances = abs(logits[:, None] - levels)
    assert distances[np.arange(65535), rounded.numpy()] == pytest.approx(distances.min(1), abs=1e-9)
    back = from_rounded_probabilities(rounded, bits)
    assert torch.equal(round_probabilities(back, bits), rounded)
    # Stored bytes decode on other machines, too: no level lies where their last bit could round it to another integer.
    shares = 65536 / (1 + np.exp(-levels))
    assert abs(shares - np.floor(shares) - 0.5).min() > 1e-6


def test_what_does_not_fit_is_told() -> None:
    levels, table = images(2, 2, 1, 4, 4, smooth=False), torch.full((context_count(2),), 9)
    with pytest.raises(ValueError, match="bits: expected 1, 2 or 4, got 3"):
        encode_images(levels, 3, table)
    with pytest.raises(ValueError, match="levels: expected values below 2"):
        encode_images(levels, 1, torch.full((context_count(1),), 9))
    with pytest.raises(ValueError, match="levels: expected uint8"):
        encode_images(levels.float(), 2, table)
    with pytest.raises(ValueError, match="ones: expected shape"):
        encode_images(levels, 2, table[1:])
    with pytest.raises(ValueError, match="ones: expected integers from 1"):
        encode_images(levels, 2, table * 0)
    with pytest.raises(ValueError, match="counts: expected"):
        fit_probabilities(torch.zeros(4))
