"""What plugins have in common that read a memory's nearest rows in evaluation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.functional.neighbours import Backend, check_backend
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.episodic_index import EpisodicIndex
from avalanche_memplugins.plugins._answering import AnsweringPlugin, Forward, forward_of
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._wrapped import unwrapped


class ReadingPlugin(AnsweringPlugin):
    """Answers with what it makes of a memory's nearest rows; see :class:`AnsweringPlugin`.

    :param memory: that holds the model's input rows.
    :param neighbours: rows read for a query, >= 1.
    :param key: name of a module of the model whose output is the key, made anew at each evaluation. None: the memory's
        own key: its embedding, or x.
    :param writes: write the stream to the memory, too, in the first epoch.
    :param write_every: iterations between writes, >= 1.
    :param max_bytes: working memory.
    :param backend: of the search.
    :raises ImportError: backend "faiss" without faiss installed.
    """

    def __init__(
        self,
        memory: RandomMemory,
        *,
        neighbours: int,
        key: str | None,
        writes: bool,
        write_every: int,
        max_bytes: int,
        backend: Backend,
    ) -> None:
        check.layer("key", key)
        check.choice("backend", backend, ("torch", "faiss"))
        if not isinstance(check.made("memory", memory), RandomMemory):
            raise TypeError(
                f"memory: expected a RandomMemory or EpisodicMemory, whose rows can be searched, got {memory!r}"
            )
        super().__init__(memory, writes=writes, write_every=write_every)
        self.neighbours = check.positive_integer("neighbours", neighbours)
        self.key = key
        self.max_bytes = check.positive_integer("max_bytes", max_bytes)
        self.backend: Backend = check_backend(backend)
        self._tap = None if key is None else LatentTap(key, argument="key", appends=False)

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Note that the model may have been adapted to the experience."""
        self._is_fresh = False

    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the model's predictions by the new ones.

        :raises ValueError: if batch, memory and model do not fit together.
        """
        if len(self.memory):
            self._look_again(unwrapped(strategy.model))
        super().after_eval_forward(strategy, **kwargs)

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Let go of the working memory."""
        self._forget()

    def _check_rows(self, x: Tensor) -> None:
        if self.memory.targets is not None:
            raise ValueError(
                f"memory: {type(self).__name__} needs rows with integer classes (B,), got {self.memory.targets}"
            )
        if self.memory.keep != "key" and x.shape[1:] != self.memory.shape:
            raise ValueError(
                f"memory: expected rows as the model's inputs are, {tuple(x.shape[1:])}, "
                f"got a memory of {tuple(self.memory.shape)}"
            )

    def _forget(self) -> None:
        super()._forget()
        self._index: dict[int | None, EpisodicIndex] = {}
        self._is_fresh = False  # whether the model was looked at in this experience
        self._made_with: list[tuple[Tensor, int]] = []  # parameters and buffers with their versions

    def _nearest(self, model: nn.Module, x: Tensor, task: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Slots, squared distances and classes of the nearest rows, each ``(B, K)``."""
        forward = forward_of(model, task, x.dtype)
        if task not in self._index:
            key = None if self.key is None else (lambda rows: self._query_keys(model, forward, rows))
            self._index[task] = EpisodicIndex(self.memory, key=key, backend=self.backend, max_bytes=self.max_bytes)
        found = self._index[task].search(self._query_keys(model, forward, x), self.neighbours, task=task)
        labels = self.memory.labels_of(found.indices.flatten().cpu())[0]
        return found.indices, found.distances, labels.reshape(found.indices.shape).to(found.indices.device)

    def _query_keys(self, model: nn.Module, forward: Forward, x: Tensor) -> Tensor:
        if self._tap is None:
            embedding = self.memory.embedding
            if embedding is None:
                return x if x.is_floating_point() else x.float()  # integers are compared as numbers
            with eval_mode(embedding):
                result: Tensor = embedding(x)
            return result
        self._tap.open(model, None)
        try:
            forward(x)
        finally:
            seen = self._tap.close()
        return seen[0].flatten(1).float()

    def _look_again(self, model: nn.Module) -> None:
        """Forget what was made with the model if it has changed since: heads may grow between two experiences."""
        if self._is_fresh:
            return
        now = [(tensor, tensor._version) for tensor in (*model.parameters(), *model.buffers())]
        before = self._made_with
        same = len(now) == len(before) and all(a[0] is b[0] and a[1] == b[1] for a, b in zip(now, before, strict=True))
        if not same:
            self._forget()
        self._made_with, self._is_fresh = now, True
