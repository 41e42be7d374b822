"""Episodes: exact counts of what is damaged, uniform places, and everything from the generator."""

from __future__ import annotations

import pytest
import torch

from avalanche_memplugins.functional.episodes import corrupt_strings, erase_block, image_episodes, string_episodes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_strings_are_fair_bits() -> None:
    x = string_episodes(50, 20, 64, generator=generator())
    assert x.shape == (50, 20, 64)
    assert x.unique().tolist() == [0.0, 1.0]
    assert x.mean().item() == pytest.approx(0.5, abs=0.01)  # 64,000 bits: five standard errors


def test_so_many_bits_are_erased_anywhere() -> None:
    x = string_episodes(50, 20, 64, generator=generator())
    cue, known = corrupt_strings(x, 24, generator=generator(1))
    assert bool(((~known).sum(-1) == 24).all())
    assert torch.equal(cue[known], x[known])
    assert bool((cue[~known] == 0.5).all())
    torch.testing.assert_close(known.float().mean((0, 1)), torch.full((64,), 40 / 64), atol=0.08, rtol=0)
    assert not torch.equal(known[0, 0], known[0, 1])


def test_random_bits_are_right_half_of_the_time() -> None:
    x = string_episodes(50, 20, 64, generator=generator())
    cue, known = corrupt_strings(x, 24, None, generator=generator(1))
    assert torch.equal(cue[known], x[known])
    assert (cue != x).float().sum(-1).mean().item() == pytest.approx(12, abs=0.4)


def test_episodes_of_images_repeat_none_within() -> None:
    images = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 1, 3, 3)
    x = image_episodes(images, 30, 15, generator=generator())
    assert x.shape == (30, 15, 9)
    assert all(len(episode[:, 0].unique()) == 15 for episode in x)
    assert len(x[..., 0].unique()) == 20
    with pytest.raises(ValueError, match="images: expected at least 21"):
        image_episodes(images, 1, 21, generator=generator())


def test_one_square_is_erased_uniformly_inside() -> None:
    x = torch.ones(60, 50, 36)
    cue, known = erase_block(x, 6, 4, generator=generator())
    holes = (~known).view(-1, 6, 6)
    assert torch.equal(cue, known.float())
    rows, columns = holes.any(2), holes.any(1)
    assert bool((rows.sum(1) == 4).all())
    assert torch.equal(holes, rows[:, :, None] & columns[:, None, :])
    corners = torch.stack([rows.int().argmax(1), columns.int().argmax(1)], 1)
    counts = torch.bincount(corners[:, 0] * 3 + corners[:, 1], minlength=9)
    assert bool((rows.int().diff(dim=1).abs().sum(1) <= 2).all())
    torch.testing.assert_close(counts / len(holes), torch.full((9,), 1 / 9), atol=0.03, rtol=0)


def test_the_generator_is_all_there_is() -> None:
    state = torch.get_rng_state()
    x = string_episodes(2, 3, 16, generator=generator(4))
    first = (*corrupt_strings(x, 8, generator=generator(5)), *erase_block(x, 4, 2, generator=generator(6)))
    again = (*corrupt_strings(x, 8, generator=generator(5)), *erase_block(x, 4, 2, generator=generator(6)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_sizes_are_named() -> None:
    x = torch.zeros(1, 2, 16)
    with pytest.raises(ValueError, match="erased: expected 0 to 16, got 17"):
        corrupt_strings(x, 17, generator=generator())
    with pytest.raises(ValueError, match="x: expected"):
        erase_block(x, 5, 2, generator=generator())
    with pytest.raises(ValueError, match="block: expected 1 to 4, got 5"):
        erase_block(x, 4, 5, generator=generator())
