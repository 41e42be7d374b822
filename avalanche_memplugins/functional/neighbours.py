"""Exact k nearest neighbours, quick because most of the arithmetic may be rough."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional._packed_keys import PackedKeys, pack

Backend = Literal["torch", "faiss"]

BFLOAT16_FROM = 64  # dimensions; below, the top-k dominates and a rough product saves nothing
SPARE = 16  # candidates beyond k: enough that the certificate of the rough pass rarely fails
PREPARED = 1_024  # keys made ready at a time
KEY_BLOCK = 32_768  # keys per product, so that a score matrix stays within the byte budget at any number of keys
FEW = 4  # queries that are searched for one by one; from more of them on the product is quicker
LARGE = 1 << 22  # numbers in a table; in a smaller one a query is found at once anyway


class Neighbours(NamedTuple):
    """``indices`` ``(Q, k)`` int64 rows of the keys, nearest first, the lower row first in a tie;
    ``distances`` ``(Q, k)`` squared Euclidean distances, float32.

    >>> found = nearest(torch.tensor([[2.0]]), torch.tensor([[0.0], [1.0], [5.0]]), k=2)
    >>> found.indices, found.distances
    (tensor([[1, 0]]), tensor([[1., 4.]]))
    """

    indices: Tensor
    distances: Tensor


class MissingBackendError(ImportError, ValueError):
    """A search backend whose package is not installed."""


def check_backend(backend: Backend) -> Backend:
    """``backend`` if it can be used.

    :raises ValueError: if it is none of "torch" and "faiss".
    :raises ImportError: for "faiss" without faiss installed; a ``ValueError`` as well.
    """
    check.choice("backend", backend, get_args(Backend))
    if backend == "faiss":
        try:
            import_module("faiss")
        except ImportError as error:
            raise MissingBackendError(
                "backend: 'faiss' needs the package faiss, which cannot be imported; install the extra knn "
                "(pip install 'avalanche-memplugins[knn]') or use 'torch'"
            ) from error
    return backend


class KeyTable:
    """Keys made ready for exact nearest-neighbour search.

    A rough pass ranks every key by ``||k||^2 - 2 q.k`` (both centred on the keys' mean, which removes most of the
    cancellation), in bfloat16 where the CPU has instructions for it. The best ``k + 16`` are measured again as
    ``sum (q - k)^2`` in float64. A bound on the rough pass's rounding error then *proves* that no key left out is
    nearer than the k-th; a query whose proof fails goes to the next finer pass (float32, at last float64 over
    all keys). So the answer is always the float64 one, whatever the passes were.

    :param keys: ``(N, *shape)`` floating point, finite, N >= 1; flattened to ``(N, D)``.
    :param backend: what finds the candidates: "torch", or "faiss" (the extra ``knn``; its flat index, keys on the
        CPU). Neighbours and distances are the same; faiss was slower at every size measured (docs/mbpa.md).
    :raises ValueError: no keys, keys that are not finite, or an unknown backend.
    :raises ImportError: backend "faiss" without faiss installed.

    >>> table = KeyTable(torch.tensor([[0.0], [1.0], [5.0]]))
    >>> table.search(torch.tensor([[0.9]]), k=2).indices
    tensor([[1, 0]])
    """

    def __init__(self, keys: Tensor, *, backend: Backend = "torch") -> None:
        check_backend(backend)
        check.floats(keys=keys)
        if keys.dim() < 2 or len(keys) == 0:
            raise ValueError(f"keys: expected (N, *shape) with N >= 1, got shape {tuple(keys.shape)}")
        check.finite("keys", keys)
        if backend == "faiss" and keys.device.type != "cpu":
            raise ValueError(f"backend: expected keys on the CPU for 'faiss', got keys on {keys.device}")
        self.keys = keys.detach().flatten(1).float()
        self.uses_faiss = backend == "faiss"
        self._passes: dict[torch.dtype, tuple[Tensor, Tensor, float, float]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def search(self, queries: Tensor, k: int, *, max_bytes: int = 64 << 20) -> Neighbours:
        """The k nearest keys of every query.

        :param queries: ``(Q, *shape)``, finite, on the keys' device, as many numbers a row as a key has.
        :param k: how many, >= 1; fewer come back if there are fewer keys.
        :param max_bytes: working memory; queries and keys are taken in blocks that fit (one query at least).
        :raises ValueError: queries of another width, not finite, or k or max_bytes below 1.
        """
        check.positive_integer("k", k)
        check.positive_integer("max_bytes", max_bytes)
        check.floats(queries=queries)
        if queries.dim() < 2 or queries.shape[1:].numel() != self.keys.shape[1]:
            raise ValueError(
                f"queries: expected (Q, *shape) of {self.keys.shape[1]} numbers a row, got {tuple(queries.shape)}"
            )
        flat = queries.detach().flatten(1).float()
        check.finite("queries", flat)
        k = min(k, len(self))
        index = torch.empty(len(flat), k, dtype=torch.int64, device=flat.device)
        distance = torch.empty(len(flat), k, device=flat.device)
        if len(flat) <= FEW and 8 * len(self) <= max_bytes and self._packed is not None:
            for row, query in enumerate(flat):
                index[row], distance[row] = self._among_packed(query, k, max_bytes)
            return Neighbours(index, distance)
        per_query = min(len(self), KEY_BLOCK) * 12 + 2 * (k + SPARE) * flat.shape[1] * 12
        for rows in torch.split(torch.arange(len(flat), device=flat.device), max(1, max_bytes // per_query)):
            for dtype in self._dtypes:
                index[rows], distance[rows], proven = self._rough_then_exact(flat[rows], k, dtype)
                rows = rows[~proven]
                if len(rows) == 0:
                    break
            for row in rows.tolist():
                index[row], distance[row] = self._brute(flat[row], k, max_bytes)
        return Neighbours(index, distance)

    @cached_property
    def _dtypes(self) -> tuple[torch.dtype, ...]:
        quick = self.keys.device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
        wide = self.keys.shape[1] >= BFLOAT16_FROM and not self.uses_faiss
        return (torch.bfloat16, torch.float32) if quick and wide else (torch.float32,)

    @cached_property
    def _packed(self) -> PackedKeys | None:
        large = self.keys.numel() >= LARGE and not self.uses_faiss
        return pack(self.keys, self._centre) if large else None

    @cached_property
    def _centre(self) -> Tensor:
        return self.keys.mean(0)

    def _centred(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, float, float]:
        """Of a pass: keys, squared norms, largest norm, largest rounding residual; made when it is first run."""
        if dtype not in self._passes:
            keys = torch.empty_like(self.keys, dtype=dtype)
            squares = self.keys.new_empty(len(keys))
            residual = largest = 0.0
            for rows in torch.split(torch.arange(len(keys), device=keys.device), PREPARED):
                exact = self.keys[rows] - self._centre
                keys[rows] = exact.to(dtype)
                norms = torch.linalg.vector_norm(exact, dim=1, dtype=torch.float64)
                squares[rows] = norms.square().float()
                largest = max(largest, float(norms.max()))
                residual = max(residual, float(_norm(exact - keys[rows].float()).max()))
            self._passes[dtype] = (keys, squares, largest, residual + 2**-23 * largest)
        return self._passes[dtype]

    @cached_property
    def _faiss(self) -> Any:
        index = import_module("faiss").IndexFlatL2(self.keys.shape[1])
        index.add(self._centred(torch.float32)[0].numpy())
        return index

    def _rough_then_exact(self, queries: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        keys, squares, largest, residual = self._centred(dtype)
        count = min(k + SPARE, len(self))
        centred = queries - self._centre
        rounded = centred.to(dtype)
        norm = _norm(centred)
        if self.uses_faiss:
            found, candidates = map(torch.from_numpy, self._faiss.search(centred.numpy(), count))
            last = found[:, -1]
        else:
            scores, candidates = self._candidates(rounded, keys, squares, count)
            last = scores[:, -1] + norm.square()
        squared = self._exact(queries, candidates)
        # By row first, so that the stable sort by distance leaves the lower row first in a tie.
        candidates, order = candidates.sort(1)
        squared, order = squared.gather(1, order).sort(dim=1, stable=True)
        candidates = candidates.gather(1, order)

        # |q.k - rough q.k| <= |q - q'| |k| + |q'| |k - k'| + the product's own rounding, accumulated over D terms.
        product = norm * largest
        unit = 2**-8 if dtype == torch.bfloat16 else _unit(queries.device)
        slip = (_norm(centred - rounded.float()) + 2**-23 * norm) * largest + norm * residual
        slip = slip + product * (unit + keys.shape[1] * 2**-24)
        error = 2 * slip + 2**-21 * (largest**2 + product + norm.square())
        proven = squared[:, k - 1] < last - error if count < len(self) else torch.ones_like(norm, dtype=torch.bool)
        return candidates[:, :k], squared[:, :k].float(), proven

    def _candidates(self, queries: Tensor, keys: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
        best: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(keys), KEY_BLOCK):
            block = slice(start, start + KEY_BLOCK)
            scores = torch.add(squares[block], queries @ keys[block].T, alpha=-2)
            values, index = scores.topk(min(count, scores.shape[1]), largest=False)
            best.append((values, index + start))
        if len(best) == 1:
            return best[0]
        values = torch.cat([v for v, _ in best], 1)
        index = torch.cat([i for _, i in best], 1)
        values, order = values.topk(count, largest=False)
        return values, index.gather(1, order)

    def _exact(self, queries: Tensor, index: Tensor) -> Tensor:
        difference = self.keys[index].double().sub_(queries[:, None].double())
        return difference.square_().sum(-1)

    def _among_packed(self, query: Tensor, k: int, max_bytes: int) -> tuple[Tensor, Tensor]:
        below = None if self._packed is None else self._packed.below(query)
        if below is None:
            return self._brute(query, k, max_bytes)
        count = min(k + SPARE, len(self))
        least, rows = below.topk(count, largest=False)
        index, squared = self._measured(query, rows.sort().values, k, max_bytes)
        if count < len(self) and squared[-1] >= least[-1]:
            index, squared = self._measured(query, (below <= squared[-1]).nonzero()[:, 0], k, max_bytes)
        return index, squared.float()

    def _brute(self, query: Tensor, k: int, max_bytes: int) -> tuple[Tensor, Tensor]:
        index, squared = self._measured(query, torch.arange(len(self), device=query.device), k, max_bytes)
        return index, squared.float()

    def _measured(self, query: Tensor, rows: Tensor, k: int, max_bytes: int) -> tuple[Tensor, Tensor]:
        """The k nearest of the keys in ``rows``, which ascend, and their distances in float64."""
        blocks = torch.split(rows, max(1, max_bytes // (query.numel() * 12)))
        squared = torch.cat([self._exact(query[None], block[None])[0] for block in blocks])
        squared, order = squared.sort(stable=True)
        return rows[order[:k]], squared[:k]


def nearest(
    queries: Tensor, keys: Tensor, k: int, *, max_bytes: int = 64 << 20, backend: Backend = "torch"
) -> Neighbours:
    """The k nearest keys of every query by Euclidean distance, exactly; see :class:`KeyTable`.

    :param queries: ``(Q, *shape)``.
    :param keys: ``(N, *shape)``; searched more than once, make one :class:`KeyTable` of them.
    :param k: how many, >= 1; fewer come back if there are fewer keys.
    :param max_bytes: working memory.
    :param backend: "torch" or "faiss".

    >>> nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0], [5.0]]), k=2).indices
    tensor([[1, 0]])
    """
    return KeyTable(keys, backend=backend).search(queries, k, max_bytes=max_bytes)


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm


def _unit(device: torch.device) -> float:
    """Rounding of a float32 product's inputs: TensorFloat-32 keeps 11 bits of them."""
    rough = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return 2**-9 if rough else 2**-22
