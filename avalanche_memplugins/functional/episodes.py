"""Episodes for associative memories: N patterns are written together, then each is read from a damaged cue.

All randomness comes from the generator given, on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor


def string_episodes(episodes: int, patterns: int, bits: int = 128, *, generator: torch.Generator) -> Tensor:
    """Fair random bits ``(E, N, bits)``, 0.0 or 1.0.

    >>> string_episodes(2, 3, 128, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 128])
    """
    return torch.randint(2, (episodes, patterns, bits), generator=generator).float()


def corrupt_strings(
    x: Tensor, erased: int = 64, value: float | None = 0.5, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Put exactly ``erased`` bits of each string, chosen uniformly, to ``value``.

    :param x: ``(..., bits)`` in {0, 1}.
    :param value: what an erased bit becomes; None: a fair random bit, right half of the time.
    :returns: the cue, and whether its bit is known to be right, bool; both like ``x``.

    >>> cue, known = corrupt_strings(torch.ones(1, 8), 3, generator=torch.Generator().manual_seed(0))
    >>> cue.sum(), known.sum()
    (tensor(6.5000), tensor(5))
    """
    if not 0 <= erased <= x.shape[-1]:
        raise ValueError(f"erased: expected 0 to {x.shape[-1]}, got {erased}")
    order = torch.rand(x.shape, generator=generator).argsort(-1)
    known = order >= erased
    if value is None:
        damaged = torch.randint(2, x.shape, generator=generator).to(x)
    else:
        damaged = torch.full_like(x, value)
    return torch.where(known, x, damaged), known


def image_episodes(images: Tensor, episodes: int, patterns: int, *, generator: torch.Generator) -> Tensor:
    """Images drawn from a pool, no image twice within an episode.

    :param images: ``(M, 1, S, S)`` with M >= ``patterns``.
    :returns: ``(E, N, S * S)``.

    >>> images, generator = torch.rand(9, 1, 4, 4), torch.Generator().manual_seed(0)
    >>> image_episodes(images, 2, 3, generator=generator).shape
    torch.Size([2, 3, 16])
    """
    if len(images) < patterns:
        raise ValueError(f"images: expected at least {patterns}, one a pattern, got {len(images)}")
    chosen = torch.stack([torch.randperm(len(images), generator=generator)[:patterns] for _ in range(episodes)])
    return images[chosen].flatten(2)


def erase_block(x: Tensor, size: int, block: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put one square of each image to 0; its place is uniform over all that lie wholly inside.

    :param x: ``(..., size * size)``.
    :param block: side of the square in pixels.
    :returns: the cue, and whether its pixel is known to be right, bool; both like ``x``.

    >>> cue, known = erase_block(torch.ones(1, 16), 4, 2, generator=torch.Generator().manual_seed(0))
    >>> cue.sum(), known.sum()
    (tensor(12.), tensor(12))
    """
    if x.shape[-1] != size * size:
        raise ValueError(f"x: expected (..., {size * size}) for images of {size} x {size}, got {tuple(x.shape)}")
    if not 1 <= block <= size:
        raise ValueError(f"block: expected 1 to {size}, got {block}")
    corner = torch.randint(size - block + 1, (2, *x.shape[:-1], 1), generator=generator)
    axis = torch.arange(size)
    rows, columns = (axis >= corner) & (axis < corner + block)
    known = ~(rows.unsqueeze(-1) & columns.unsqueeze(-2)).flatten(-2)
    return x * known, known
