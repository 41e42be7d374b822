"""How likely each bit of an image is, given the pixels decoded before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import _coder_kernels as kernels
from avalanche_memplugins.functional._coder_kernels import Bytes, Integers
from avalanche_memplugins.functional._compiled import compiled
from avalanche_memplugins.functional.range_coder import ONE, RowsDecoder, check_pieces, encode_rows

PROBABILITIES = 256
"""Levels that a stored probability has."""
_ROWS = 512  # encoded at a time
Term = tuple[int, int, int]
_LEFT, _ABOVE, _LEFT_ABOVE, _RIGHT_ABOVE = (0, -1), (-1, 0), (-1, -1), (-1, 1)
_TEN = ((-2, -1), (-2, 0), (-2, 1), (-1, -2), (-1, -1), (-1, 0), (-1, 1), (-1, 2), (0, -2), (0, -1))


def _terms(*places: tuple[int, int], drop: int = 0) -> list[Term]:
    return [(dy, dx, drop) for dy, dx in places]


# Neighbours (line, column, low bits left out) of each plane of bits, the highest first.
_PLANES: dict[int, list[list[Term]]] = {
    1: [_terms(*_TEN)],
    2: [_terms(_LEFT, _ABOVE, _LEFT_ABOVE, _RIGHT_ABOVE)] * 2,
    4: [
        [*_terms(_LEFT, _ABOVE, drop=1), (*_RIGHT_ABOVE, 2)],
        [*_terms(_LEFT, _ABOVE, drop=1), (*_RIGHT_ABOVE, 3)],
        _terms(_LEFT, _ABOVE, drop=1),
        _terms(_LEFT, _ABOVE, drop=2),
    ],
}


@dataclass(frozen=True)
class _Template:
    """Contexts of images of ``bits`` bits a pixel: where each plane's neighbours are, and where its contexts begin."""

    terms: Integers  # (n, 4): line, column, shift down, shift up
    planes: Integers  # (bits, 4): first and last term, first context, bits of the neighbours
    contexts: int


@cache
def _template(bits: int) -> _Template:
    terms: list[tuple[int, int, int, int]] = []
    planes: list[tuple[int, int, int, int]] = []
    contexts = 0
    for plane, neighbours in enumerate(_PLANES[bits]):
        first, width = len(terms), 0
        for dy, dx, drop in reversed(neighbours):
            terms.append((dy, dx, drop, width))
            width += bits - drop
        planes.append((first, len(terms), contexts, width))
        contexts += 1 << (width + plane)
    return _Template(np.array(terms, dtype=np.int64), np.array(planes, dtype=np.int64), contexts)


def context_count(bits: int) -> int:
    """Contexts of images of 1, 2 or 4 bits a pixel: entries of their table of probabilities.

    >>> [context_count(bits) for bits in (1, 2, 4)]
    [1024, 768, 896]
    """
    return _template(_bits(bits)).contexts


def pixel_contexts(levels: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    r"""The bits of images in the order of the code, and the number of each one's context.

    A pixel's bits come from the highest to the lowest, pixels by lines, channel after channel. A bit's context is
    the pixel's own higher bits, and pixels around it that come before: of 1-bit images ten, of others up to four that
    touch it, of 4-bit images only their higher bits. Outside the image pixels are 0.

    :param levels: uint8 ``(B, C, H, W)`` from 0 to 2**bits - 1, on the CPU.
    :param bits: of a pixel: 1, 2 or 4.
    :returns: uint8 and int64 ``(B, C * H * W * bits)``.
    :raises ValueError: for another type, shape or number of bits.

    >>> bits, contexts = pixel_contexts(torch.tensor([[[[3, 0]]]], dtype=torch.uint8), 2)
    >>> bits.tolist(), contexts.shape  # two pixels, two bits each
    ([[1, 1, 0, 0]], torch.Size([1, 4]))
    """
    found, contexts = _contexts(_levels(levels, bits), bits)
    return torch.from_numpy(found), torch.from_numpy(contexts)


def count_contexts(levels: Tensor, bits: int) -> Tensor:
    """How often each context was followed by 0 and by 1, int64 ``(contexts, 2)``.

    :param levels: as for :func:`pixel_contexts`, like ``bits``.

    >>> count_contexts(torch.tensor([[[[1, 1, 1]]]], dtype=torch.uint8), 1)[:4].tolist()  # nothing, a 1 before, two
    [[0, 1], [0, 1], [0, 0], [0, 1]]
    """
    counts = np.zeros(2 * _template(_bits(bits)).contexts, dtype=np.int64)
    for part in torch.split(check.tensor("levels", levels), _ROWS):
        found, contexts = _contexts(_levels(part, bits), bits)
        counts += np.bincount((2 * contexts + found).ravel(), minlength=len(counts))
    return torch.from_numpy(counts).view(-1, 2)


def fit_probabilities(counts: Tensor, prior: Tensor | None = None, *, strength: float = 4.0) -> Tensor:
    r"""Probabilities of a 1 from counts, int32 ``(contexts,)``.

    .. math:: p = \frac{n_1 + s\, p_0}{n_0 + n_1 + s}

    :param counts: :math:`(n_0, n_1)`, ``(contexts, 2)``.
    :param prior: :math:`65536\\, p_0`, ``(contexts,)``; None: a half.
    :param strength: :math:`s` > 0, how many observations the prior counts for.

    >>> fit_probabilities(torch.tensor([[0, 0], [0, 12], [12, 0]])).tolist()
    [32768, 57344, 8192]
    """
    _check_counts(counts)
    check.number("strength", strength, above=0)
    if prior is not None:
        check.like("prior", check.tensor("prior", prior), counts.shape[:1], "one a context")
    before = torch.full((len(counts),), 0.5, dtype=torch.float64) if prior is None else prior.double() / ONE
    zeros, ones = counts.double().unbind(1)
    found = (ones + strength * before) / (zeros + ones + strength)
    return (found * ONE).round().clamp(1, ONE - 1).int()


def code_length(counts: Tensor, ones: Tensor) -> float:
    """Bits that images of these counts take with these probabilities.

    :param counts: ``(contexts, 2)`` of :func:`count_contexts`.
    :param ones: ``(contexts,)``.

    >>> counts = torch.tensor([[3, 1], [0, 8]])
    >>> round(code_length(counts, torch.tensor([16384, 65535])), 3)
    3.245
    """
    _check_counts(counts)
    check.like("ones", check.tensor("ones", ones), counts.shape[:1], "one a context")
    share = ones.double() / ONE
    zeros, hits = counts.double().unbind(1)
    return float(-(zeros * (1 - share).log2() + hits * share.log2()).sum())


def round_probabilities(ones: Tensor, bits: int = 8) -> Tensor:
    r"""Numbers of the nearest of ``2**bits`` levels, evenly spaced in the logit :math:`\log p / (1 - p)`; uint8.

    :param ones: from 1 to 65535, any shape.
    :param bits: of a level, 1 to 8.
    """
    share = ones.double() / ONE
    step, top = _spacing(bits)
    return (torch.logit(share) / step + top / 2).round().clamp(0, top).to(torch.uint8)


def from_rounded_probabilities(levels: Tensor, bits: int = 8) -> Tensor:
    """Probabilities int32 of the levels of :func:`round_probabilities`.

    >>> from_rounded_probabilities(round_probabilities(torch.tensor([1, 32768, 65535]))).tolist()
    [1, 33480, 65535]
    """
    step, top = _spacing(bits)
    return (ONE * torch.sigmoid((levels.double() - top / 2) * step)).round().clamp(1, ONE - 1).int()


def _spacing(bits: int) -> tuple[float, int]:
    top = (1 << check.integer("bits", bits, least=1, most=8)) - 1
    return 2 * np.log(ONE - 1.0) / top, top


def encode_images(levels: Tensor, bits: int, ones: Tensor) -> tuple[Tensor, Tensor]:
    """Images as bytes, each by itself: the range coder with the probabilities of the contexts.

    :param levels: as for :func:`pixel_contexts`, like ``bits``.
    :param ones: probabilities ``(contexts,)``, integers from 1 to 65535.
    :returns: as :func:`~avalanche_memplugins.functional.encode_bits`.
    :raises ValueError: if they do not fit.

    >>> image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    >>> table = fit_probabilities(count_contexts(image, 1))
    >>> buffer, lengths = encode_images(image, 1, table)
    >>> lengths.tolist()
    [1]
    >>> torch.equal(decode_images(buffer, torch.tensor([0]), lengths, 1, (1, 8, 8), table), image)
    True
    """
    table = _table(ones, bits)
    buffers, lengths = [np.zeros(0, dtype=np.uint8)], [np.zeros(0, dtype=np.int64)]
    for part in torch.split(check.tensor("levels", levels), _ROWS):
        found, contexts = _contexts(_levels(part, bits), bits)
        buffer, sizes = encode_rows(found, table[contexts])
        buffers.append(buffer)
        lengths.append(sizes)
    return torch.from_numpy(np.concatenate(buffers)), torch.from_numpy(np.concatenate(lengths))


def decode_images(
    buffer: Tensor, starts: Tensor, lengths: Tensor, bits: int, shape: tuple[int, ...], ones: Tensor
) -> Tensor:
    """The inverse of :func:`encode_images`, for any of its rows.

    :param buffer: uint8 ``(N,)``, on the CPU.
    :param starts: of the rows in it, int64 ``(B,)``.
    :param lengths: their bytes, int64 ``(B,)``.
    :param bits: of a pixel: 1, 2 or 4.
    :param shape: of an image, ``(C, H, W)``.
    :param ones: as they were encoded, ``(contexts,)``.
    :returns: levels, uint8 ``(B, C, H, W)``.
    :raises ValueError: if they do not fit, or a row does not lie within the buffer.

    >>> levels = torch.randint(4, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    >>> table = fit_probabilities(count_contexts(levels, 2))
    >>> buffer, lengths = encode_images(levels, 2, table)
    >>> second = decode_images(buffer, lengths[:1], lengths[1:2], 2, (1, 8, 8), table)
    >>> torch.equal(second, levels[1:2])
    True
    """
    check_pieces(buffer, starts, lengths)
    channels, height, width = check.integers("shape", shape, count=3)
    table, template = _table(ones, bits), _template(bits)
    pieces = buffer.numpy(), starts.numpy(), lengths.numpy()
    levels = np.empty((len(starts), channels, height, width), dtype=np.uint8)
    binary, several = compiled(kernels.decode_binary_images), compiled(kernels.decode_images)
    if binary is None or several is None:
        _decode_together(*pieces, table, template, bits, levels)
    elif bits == 1:
        binary(*pieces, table, np.zeros((height + 2, width + 4), dtype=np.uint8), levels)
    else:
        stride = width + 4
        terms = np.stack([template.terms[:, 0] * stride + template.terms[:, 1], *template.terms[:, 2:].T], 1)
        several(
            *pieces,
            table,
            np.ascontiguousarray(terms),
            template.planes,
            np.zeros((height + 2, stride), np.int64),
            levels,
        )
    return torch.from_numpy(levels)


def _contexts(levels: Bytes, bits: int) -> tuple[Bytes, Integers]:
    template = _template(bits)
    rows, channels, height, width = levels.shape
    work = np.zeros((rows, channels, height + 2, width + 4), dtype=np.int64)
    work[:, :, 2:, 2:-2] = levels
    found = np.empty((*levels.shape, bits), dtype=np.uint8)
    contexts = np.empty(found.shape, dtype=np.int64)
    for plane, (first, last, start, size) in enumerate(template.planes.tolist()):
        context = contexts[..., plane]
        context[:] = start + ((levels >> (bits - plane)).astype(np.int64) << size)
        for dy, dx, down, up in template.terms[first:last].tolist():
            context += work[:, :, 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] >> down << up
        found[..., plane] = (levels >> (bits - 1 - plane)) & 1
    count = channels * height * width * bits
    return found.reshape(rows, count), contexts.reshape(rows, count)


def _decode_together(
    buffer: Bytes,
    starts: Integers,
    lengths: Integers,
    table: NDArray[np.uint16],
    template: _Template,
    bits: int,
    levels: Bytes,
) -> None:
    """What the kernel does, for all rows at each step."""
    rows, channels, height, width = levels.shape
    decoder = RowsDecoder(buffer, starts, lengths)
    work = np.zeros((rows, height + 2, width + 4), dtype=np.int64)
    planes, terms = template.planes.tolist(), template.terms.tolist()
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                level = np.zeros(rows, dtype=np.int64)
                for first, last, start, size in planes:
                    context = start + (level << size)
                    for dy, dx, down, up in terms[first:last]:
                        context += work[:, y + 2 + dy, x + 2 + dx] >> down << up
                    level = 2 * level + decoder.next(table[context])
                work[:, y + 2, x + 2] = level
        levels[:, channel] = work[:, 2:, 2:-2]


def _check_counts(counts: Tensor) -> None:
    if check.tensor("counts", counts).ndim != 2 or counts.shape[1] != 2:
        raise ValueError(f"counts: expected (contexts, 2), got {tuple(counts.shape)}")


def _bits(bits: int) -> int:
    if isinstance(bits, bool) or bits not in tuple(_PLANES):
        raise ValueError(f"bits: expected 1, 2 or 4, got {check.show(bits)}")
    return bits


def _levels(levels: Tensor, bits: int) -> Bytes:
    _bits(bits)
    if check.tensor("levels", levels).ndim != 4 or levels.dtype != torch.uint8:
        raise ValueError(f"levels: expected uint8 (B, C, H, W), got {levels.dtype} {tuple(levels.shape)}")
    values = levels.numpy()
    if levels.numel() and int(values.max()) >= 1 << bits:
        raise ValueError(f"levels: expected values below {1 << bits}, got {int(values.max())}")
    return values


def _table(ones: Tensor, bits: int) -> NDArray[np.uint16]:
    check.like("ones", check.tensor("ones", ones), (context_count(bits),), "one a context")
    if ones.is_floating_point() or not 1 <= int(ones.min()) <= int(ones.max()) < ONE:
        raise ValueError(f"ones: expected integers from 1 to {ONE - 1}, got {check.show(ones)}")
    return ones.numpy().astype(np.uint16)
