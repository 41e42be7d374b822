"""Inner loops of the range coder, one row after the other: written for numba, and valid Python without it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

TOP = 1 << 56
"""The whole interval; it and all sums within fit into int64."""
_int64: Any = np.int64  # for mypy its result is no int, as it is for numba
BOTTOM = 1 << 48
"""An interval below this gives off a byte."""
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Array: TypeAlias = Any
"""An array whose numbers numba computes with in the very types they have, unlike mypy's view of NumPy's."""


def encode_rows(bits: Array, ones: Array, out: Array, lengths: Array) -> None:
    """Code each row of ``bits`` ``(B, n)`` into ``out`` ``(B, width)``, zero before; its bytes into ``lengths``."""
    for row in range(bits.shape[0]):
        low, width, size = 0, TOP, 0
        for i in range(bits.shape[1]):
            bound = (width >> 16) * _int64(ones[row, i])
            if bits[row, i]:
                width = bound
            else:
                low += bound
                width -= bound
                if low >= TOP:
                    low -= TOP
                    place = size - 1
                    while out[row, place] == 255:
                        out[row, place] = 0
                        place -= 1
                    out[row, place] += 1
            while width < BOTTOM:
                out[row, size] = low >> 48
                size += 1
                low = (low & (BOTTOM - 1)) << 8
                width <<= 8
        # Of all numbers within the interval, one with few bytes: 0, the end of the whole interval, or one byte.
        value = 0 if low == 0 else TOP
        if value >= low + width:
            value = ((low + BOTTOM - 1) >> 48) << 48
        if value >= TOP:
            value -= TOP
            place = size - 1
            while out[row, place] == 255:
                out[row, place] = 0
                place -= 1
            out[row, place] += 1
        out[row, size] = value >> 48
        size += 1
        while size > 0 and out[row, size - 1] == 0:
            size -= 1
        lengths[row] = size


def decode_rows(buffer: Array, starts: Array, lengths: Array, ones: Array, bits: Array) -> None:
    """The inverse of :func:`encode_rows`: fills ``bits`` ``(B, n)``."""
    for row in range(bits.shape[0]):
        place, end = starts[row], starts[row] + lengths[row]
        offset, width = 0, TOP
        for _ in range(7):
            offset <<= 8
            if place < end:
                offset |= _int64(buffer[place])
                place += 1
        for i in range(bits.shape[1]):
            bound = (width >> 16) * _int64(ones[row, i])
            if offset < bound:
                bits[row, i] = 1
                width = bound
            else:
                bits[row, i] = 0
                offset -= bound
                width -= bound
            while width < BOTTOM:
                offset <<= 8
                if place < end:
                    offset |= _int64(buffer[place])
                    place += 1
                width <<= 8


def decode_images(
    buffer: Array,
    starts: Array,
    lengths: Array,
    ones: Array,
    terms: Array,
    planes: Array,
    work: Array,
    levels: Array,
) -> None:
    """Decode images whose bits were coded with the probabilities of their contexts.

    :param ones: ``(contexts,)``, probabilities of a 1.
    :param terms: ``(n, 3)``: a neighbour's place relative to the pixel in ``work``, its shift down and up.
    :param planes: ``(bits, 4)``: first and last term, first context, and bits of the neighbours of each plane.
    :param work: ``(H + 2, W + 4)``, zero: two lines above the image, two columns on either side.
    :param levels: ``(B, C, H, W)``, to be filled.
    """
    rows, channels, height, across = levels.shape
    stride = across + 4
    flat = work.reshape(-1)
    bits = planes.shape[0]
    for row in range(rows):
        place, end = starts[row], starts[row] + lengths[row]
        offset, width = 0, TOP
        for _ in range(7):
            offset <<= 8
            if place < end:
                offset |= _int64(buffer[place])
                place += 1
        for channel in range(channels):
            for y in range(height):
                for x in range(across):
                    at = (y + 2) * stride + x + 2
                    level = 0
                    for plane in range(bits):
                        context = 0
                        for term in range(planes[plane, 0], planes[plane, 1]):
                            context |= (flat[at + terms[term, 0]] >> terms[term, 1]) << terms[term, 2]
                        context += planes[plane, 2] + (level << planes[plane, 3])
                        bound = (width >> 16) * _int64(ones[context])
                        if offset < bound:
                            width = bound
                            level = 2 * level + 1
                        else:
                            offset -= bound
                            width -= bound
                            level = 2 * level
                        while width < BOTTOM:
                            offset <<= 8
                            if place < end:
                                offset |= _int64(buffer[place])
                                place += 1
                            width <<= 8
                    flat[at] = level
                    levels[row, channel, y, x] = level


def decode_binary_images(buffer: Array, starts: Array, lengths: Array, ones: Array, work: Array, levels: Array) -> None:
    """:func:`decode_images` of 1 bit a pixel: the ten neighbours slide along as three numbers, which is faster.

    :param work: ``(H + 2, W + 4)``, zero.
    """
    rows, channels, height, across = levels.shape
    for row in range(rows):
        place, end = starts[row], starts[row] + lengths[row]
        offset, width = 0, TOP
        for _ in range(7):
            offset <<= 8
            if place < end:
                offset |= _int64(buffer[place])
                place += 1
        for channel in range(channels):
            for y in range(height):
                far, near, line = work[y], work[y + 1], work[y + 2]
                above = _int64(far[2])
                touching = (_int64(near[2]) << 1) | _int64(near[3])
                before = _int64(0)
                for x in range(across):
                    above = ((above << 1) & 7) | _int64(far[x + 3])
                    touching = ((touching << 1) & 31) | _int64(near[x + 4])
                    bound = (width >> 16) * _int64(ones[(above << 7) | (touching << 2) | before])
                    if offset < bound:
                        width = bound
                        level = 1
                    else:
                        offset -= bound
                        width -= bound
                        level = 0
                    before = ((before << 1) & 3) | level
                    line[x + 2] = level
                    while width < BOTTOM:
                        offset <<= 8
                        if place < end:
                            offset |= _int64(buffer[place])
                            place += 1
                        width <<= 8
            levels[row, channel] = work[2:, 2:-2]
