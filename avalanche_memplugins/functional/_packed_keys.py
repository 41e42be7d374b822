"""Keys at a byte a number, for a query that would otherwise wait for all of them to come from memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins.functional import _neighbour_kernels as kernels
from avalanche_memplugins.functional._compiled import compiled

_WIDEST = (2**31 - 1) // 127**2  # numbers a row, of which the sum of products does not overflow int32

Kernel = Callable[..., None]


class PackedKeys:
    """Bounds below the distances to one query, made from centred keys in int8.

    Made by :func:`pack`.
    """

    def __init__(self, keys: Tensor, centre: Tensor, pack_keys: Kernel, bound_distances: Kernel) -> None:
        self.centre, self._bound = centre, bound_distances
        self._codes = np.empty(tuple(keys.shape), np.int8)
        self._steps, self._norms, self._residuals = (np.empty(len(keys)) for _ in range(3))
        source, middle = keys.numpy(), centre.numpy()
        _in_parts(len(keys), lambda part: pack_keys(source[part], middle, *self._of(part)))
        self.is_sound = bool(np.isfinite(self._norms).all())
        """Whether no number was too large."""

    def below(self, query: Tensor) -> Tensor | None:
        """``(N,)`` float64: what the squared distance between a key and the query ``(D,)`` is not less than.

        None if a number was too large.
        """
        centred = (query - self.centre).double()
        norm = float(torch.linalg.vector_norm(centred))
        if not math.isfinite(norm):
            return None
        levels = min(2**15 - 1, (2**31 - 1) // (127 * len(centred)))
        step = float(centred.abs().max()) / levels or 1.0
        code = (centred / step).round_()
        residual = float(torch.linalg.vector_norm(centred - code * step)) + kernels.ROUNDING * norm
        found = np.empty(len(self._codes))
        whole = code.to(torch.int16).numpy()
        _in_parts(len(found), lambda part: self._bound(*self._of(part), whole, step, norm, residual, found[part]))
        return torch.from_numpy(found)

    def _of(self, part: slice) -> tuple[kernels.Array, ...]:
        return self._codes[part], self._steps[part], self._norms[part], self._residuals[part]


def pack(keys: Tensor, centre: Tensor) -> PackedKeys | None:
    """The keys packed; None if they are too wide, too large, or not on the CPU, or without numba.

    :param keys: ``(N, D)`` float32.
    :param centre: ``(D,)`` float32, taken off keys and queries.
    """
    if keys.device.type != "cpu" or not 0 < keys.shape[1] <= _WIDEST:
        return None
    pack_keys, bound_distances = compiled(kernels.pack_keys, exact=False), compiled(kernels.bound_distances)
    if pack_keys is None or bound_distances is None:
        return None
    packed = PackedKeys(keys, centre, pack_keys, bound_distances)
    return packed if packed.is_sound else None


def _in_parts(rows: int, work: Callable[[slice], object]) -> None:
    """Do ``work`` on all rows, in as many parts as torch has threads."""
    each = -(-rows // torch.get_num_threads())
    parts = [slice(start, start + each) for start in range(0, rows, each)]
    if len(parts) == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(work, parts))
