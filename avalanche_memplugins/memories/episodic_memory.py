"""A random memory that can be asked for the rows most like a query."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.neighbours import Backend
from avalanche_memplugins.memories._rows import columns_of
from avalanche_memplugins.memories.episodic_index import EpisodicIndex
from avalanche_memplugins.memories.random_memory import RandomMemory
from avalanche_memplugins.memories.recall import Recall


class Nearest(NamedTuple):
    """What :meth:`EpisodicMemory.nearest` finds.

    ``rows``: a :class:`Recall` of Q·k rows, query by query; ``distance`` ``(Q, k)``, squared.

    >>> import torch
    >>> memory = EpisodicMemory(10)
    >>> memory.write(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([7, 8, 9]))
    >>> memory.nearest(torch.tensor([[4.0]]), k=2).distance
    tensor([[1., 9.]])
    """

    rows: Recall
    distance: Tensor


class EpisodicMemory(RandomMemory):
    r"""MbPA's memory :math:`M = \{(h_i, v_i)\}`, :math:`h_i = f(x_i)`, read by nearest key.

    It is a :class:`RandomMemory` - same write policies, codecs, storage and replay - and answers
    :meth:`nearest` besides: exact, see :class:`~avalanche_memplugins.functional.neighbours.KeyTable`.

    While f learns, keys written earlier grow stale: :meth:`reembed` makes them anew from x (``keep="both"``).
    With no embedding the key is x, which never does.

    :param capacity: rows held at most, >= 1.
    :param backend: of the search: "torch" or "faiss".
    :param max_bytes: working memory of a search.
    :param kwargs: the other arguments of :class:`RandomMemory`.
    :raises ImportError: backend "faiss" without faiss installed.

    Source: Sprechmann et al., "Memory-based parameter adaptation", ICLR 2018.

    >>> import torch
    >>> memory = EpisodicMemory(100, write_policy="ring")
    >>> memory.write(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([7, 8, 9]))
    >>> memory.nearest(torch.tensor([[4.0]]), k=1).rows.y
    tensor([9])
    """

    def __init__(self, capacity: int, *, backend: Backend = "torch", max_bytes: int = 64 << 20, **kwargs: Any) -> None:
        check.choice("backend", backend, ("torch", "faiss"))
        check.positive_integer("max_bytes", max_bytes)
        super().__init__(capacity, **kwargs)
        self._index = EpisodicIndex(self, backend=backend, max_bytes=max_bytes)

    @torch.no_grad()
    def nearest(self, x: Tensor, k: int, *, task: int | None = None) -> Nearest:
        """The k rows whose keys are nearest to f(x), nearest first; of equal ones the lower slot.

        :param x: queries ``(Q, *shape)`` on the memory's device.
        :param k: >= 1; fewer come back if fewer rows are held.
        :param task: search rows of this task label only.
        :raises ValueError: if the memory is empty, or for queries of another shape.
        """
        check.rows_of(x)
        check.finite("x", x)
        check.positive_integer("k", k)
        if task is not None:
            check.integer("task", task, least=0)
        if len(self) and self.keep == "both" and x.shape[1:] != self.shape:
            raise ValueError(f"x: expected rows of shape {tuple(self.shape)}, got {tuple(x.shape[1:])}")
        if self.embedding is None:
            check.floats(x=x)
        queries = self._embed(x)
        found = self._index.search(queries, k, task=task)
        return Nearest(self.rows(found.indices.flatten().cpu()), found.distances)

    @torch.no_grad()
    def reembed(self, *, batch_size: int = 256) -> None:
        """Make the stored keys anew with the embedding as it is now.

        :raises ValueError: if x is not kept beside the key.
        """
        check.positive_integer("batch_size", batch_size)
        if self.embedding is None or "keys" not in self.store:
            raise ValueError("reembed: expected an embedding and keep='both', so that keys can be made from x again")
        self._ahead = None
        for slots in torch.split(self.slots(), batch_size):
            self.store.put("keys", slots, self._embed(self.rows(slots).x))
        self._index.refresh()

    def forget(self, **chosen: Any) -> int:
        """As :meth:`RandomMemory.forget`; the search starts afresh."""
        count = super().forget(**chosen)
        self._index.refresh()
        return count

    @torch.no_grad()
    def predict(
        self,
        x: Tensor,
        *,
        classes: int | None = None,
        task: int | None = None,
        k: int = 1,
        temperature: float | None = None,
        without_itself: bool = False,
    ) -> Tensor:
        r"""Log shares of the classes in the votes of a query's k nearest rows.

        .. math:: p(c \mid x) = \sum_{i \in N_k(x)} w_i [y_i = c], \qquad w_i \propto \exp(-\|f(x) - h_i\|^2 / T)

        :param x: queries ``(Q, *shape)`` on the memory's device.
        :param classes: columns N; None: as many as the largest class held, and one. A class without a vote has minus
            infinity.
        :param task: search rows of this task label only.
        :param k: rows that vote, >= 1.
        :param temperature: T > 0; None: all votes count alike.
        :param without_itself: leave out the nearest row: for queries that are rows of this memory.
        :returns: ``(Q, N)``, float32.
        :raises ValueError: if the memory is empty, a class held has no column, or for queries of another shape.

        >>> memory = EpisodicMemory(4, seed=0)
        >>> memory.write(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([0, 0, 1]))
        >>> memory.predict(torch.tensor([[2.0], [8.0]])).exp()
        tensor([[1., 0.],
                [0., 1.]])
        """
        check.flag("without_itself", without_itself)
        if temperature is not None:
            check.number("temperature", temperature, above=0)
        found = self.nearest(x, check.positive_integer("k", k) + without_itself, task=task)
        votes = found.distance.shape[1]
        drop = int(without_itself and votes > 1)
        distance, y = found.distance[:, drop:].float(), found.rows.y.view(-1, votes)[:, drop:].to(x.device)
        if y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"memory: expected rows with integer classes (B,), got {self.targets}")
        classes = columns_of(classes, int(self.labels_of(self.slots())[0].max()))
        weights = torch.zeros_like(distance) if temperature is None else -distance / temperature
        shares = torch.zeros(len(x), classes, device=x.device).scatter_add_(1, y, weights.softmax(1))
        return shares.log()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; rows come with it, so the search starts afresh."""
        super().set_extra_state(state)
        self._index.refresh()
