"""Inner loops as machine code, where numba is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

# Sums may be taken in any order; numbers that are not finite stay what they are.
_FAST = frozenset({"reassoc", "contract", "nsz"})


@cache
def compiled(kernel: Callable[..., None], *, exact: bool = True) -> Callable[..., None] | None:
    """``kernel`` as machine code, at the first call from numba's cache if it was compiled before.

    :param exact: round as written; otherwise sums of floating-point numbers may be taken in any order.
    :returns: None without numba.
    """
    try:
        import numba
    except ImportError:
        return None
    compile_: Any = partial(numba.njit, nogil=True, fastmath=False if exact else set(_FAST))
    try:
        return compile_(kernel, cache=True)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder that can be written to
        warnings.warn(
            f"numba found no folder for its cache: {kernel.__name__} is compiled anew in each process", stacklevel=2
        )
        return compile_(kernel)  # type: ignore[no-any-return]
