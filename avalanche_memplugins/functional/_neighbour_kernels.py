"""Inner loops of the search for a few queries, written for numba."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""An array whose numbers numba computes with in the very types they have, unlike mypy's view of NumPy's."""
ROUNDING = 2.0**-22
"""More than twice what rounding changes a float32 difference by, relative to it."""
_float32: Any = np.float32
_float64: Any = np.float64  # for numba float() of a float32 is one
_int32: Any = np.int32


def pack_keys(keys: Array, centre: Array, codes: Array, steps: Array, norms: Array, residuals: Array) -> None:
    """Centred ``keys`` ``(N, D)`` in int8, each with a step, a norm, and a bound on what rounding has moved it by."""
    for row in range(keys.shape[0]):
        key, code = keys[row], codes[row]
        most, square = _float32(0), 0.0
        for d in range(key.shape[0]):
            exact = key[d] - centre[d]
            most = max(most, abs(exact))
            square += _float64(exact) * _float64(exact)
        step = _float32(most / _float32(127))
        inverse = _float32(1 / step) if step > 1e-30 else _float32(0)
        moved = 0.0
        for d in range(key.shape[0]):
            exact = key[d] - centre[d]
            rounded = np.rint(exact * inverse)
            code[d] = np.int8(rounded)
            off = _float64(exact) - _float64(step) * _float64(rounded)
            moved += off * off
        steps[row], norms[row] = step, np.sqrt(square)
        residuals[row] = np.sqrt(moved) + ROUNDING * norms[row]


def bound_distances(
    codes: Array, steps: Array, norms: Array, residuals: Array,
    query: Array, query_step: float, query_norm: float, query_residual: float, below: Array,
) -> None:  # fmt: skip
    """Bounds below the squared distances, ``(N,)``: that of the codes, less all that rounding may be worth."""
    for row in range(codes.shape[0]):
        code = codes[row]
        product = _int32(0)
        for d in range(code.shape[0]):
            product += _int32(code[d]) * _int32(query[d])
        # Said to be int32 once more: otherwise numba sums in int64, which takes twice the time.
        rough = norms[row] ** 2 + query_norm**2 - 2 * steps[row] * query_step * _int32(product)
        # |q.k - q'.k'| <= |q - q'| |k| + |q'| |k - k'|
        slip = query_residual * norms[row] + (query_norm + query_residual) * residuals[row]
        below[row] = rough - 2 * slip - ROUNDING * (norms[row] + query_norm) ** 2
