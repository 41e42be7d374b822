"""What plugins have in common that read a memory's nearest rows in evaluation."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models import avalanche_forward
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.functional.neighbours import Backend, check_backend
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.episodic_index import EpisodicIndex
from avalanche_memplugins.plugins._experience import number_of
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._outputs import find_logits
from avalanche_memplugins.plugins._strategy import listed_once, told_of_another_run
from avalanche_memplugins.plugins._wrapped import uncompile, unwrapped

Forward = Callable[[Tensor], Tensor]


class ReadingPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Puts another prediction in the place of ``strategy.mb_output`` in ``after_eval_forward``.

    Training is untouched, the model is never written to, and while the memory is empty, and for a task of a multi-head
    model that it holds no rows of, the model's own prediction stays. A model may give its logits in a tuple or dict;
    only they are replaced there. While the plugin itself runs the model, its modules run without ``torch.compile``.

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
        check.flag("writes", writes)
        check.choice("backend", backend, ("torch", "faiss"))
        super().__init__()
        if not isinstance(check.made("memory", memory), RandomMemory):
            raise TypeError(
                f"memory: expected a RandomMemory or EpisodicMemory, whose rows can be searched, got {memory!r}"
            )
        self.memory = memory
        self.neighbours = check.positive_integer("neighbours", neighbours)
        self.key = key
        self.writes = writes
        self.write_every = check.positive_integer("write_every", write_every)
        self.max_bytes = check.positive_integer("max_bytes", max_bytes)
        self.backend: Backend = check_backend(backend)
        self._tap = None if key is None else LatentTap(key, argument="key", appends=False)
        self._iterations = 0
        self._forget()

    # ---------------------------------------------------------------- callbacks

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """See that the plugin is listed once.

        :raises ValueError: if not.
        """
        listed_once(self, strategy)
        if self.writes:
            told_of_another_run(self.memory, strategy)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Write the stream's rows, if that is this plugin's business.

        :raises ValueError: for a batch that is not ``[x, y]`` or ``[x, y, t]``.
        """
        if not self.writes or strategy.clock.train_exp_epochs:
            return
        if self._iterations % self.write_every == 0:
            x = _inputs(strategy)
            y, *t = strategy.mbatch[1:]
            self.memory.to(strategy.device)
            self.memory.write(x, y, t[0] if t else 0, origin=number_of(strategy))
        self._iterations += 1

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Forget what was made with the model as it was.

        :raises ValueError: if the plugin is listed more than once.
        """
        listed_once(self, strategy)
        self._forget()
        self.memory.to(strategy.device)
        if not len(self.memory) and strategy.clock.train_exp_counter:
            warnings.warn(
                f"memory: nothing was written to it in training, so the model answers alone; let {type(self).__name__} "
                "write (writes=True), or list a MemoryReplayPlugin with the same memory",
                stacklevel=2,
            )

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Note that the model may have been adapted to the experience."""
        self._is_fresh = False

    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Put the new predictions in the place of the model's.

        :raises ValueError: if batch, memory and model do not fit together.
        """
        if not len(self.memory):
            return
        if self.memory.targets is not None:
            raise ValueError(
                f"memory: {type(self).__name__} needs rows with integer classes (B,), got {self.memory.targets}"
            )
        x = _inputs(strategy)
        if not len(x):
            return
        if self.memory.keep != "key" and x.shape[1:] != self.memory.shape:
            raise ValueError(
                f"memory: expected rows as the model's inputs are, {tuple(x.shape[1:])}, "
                f"got a memory of {tuple(self.memory.shape)}"
            )
        logits, replaced = find_logits(strategy.mb_output, len(x))
        model = unwrapped(strategy.model)
        # Tensors of inference mode could not be adapted to.
        with torch.inference_mode(False), torch.no_grad(), eval_mode(model):
            x, output = x.clone() if x.is_inference() else x, logits.clone()
            # What the model keeps of the batch belongs to the strategy's own forward pass.
            kept = {name: value for name, value in vars(model).items() if isinstance(value, Tensor)}
            restore = uncompile(model.modules())
            try:
                self._look_again(model)
                for task, rows in _groups(strategy):
                    if task is None or task in self._tasks():
                        output[rows] = self._predict(model, x[rows], output[rows], task)
            finally:
                restore()
                vars(model).update(kept)
        strategy.mb_output = replaced(output)

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Let go of the working memory."""
        self._forget()

    # ---------------------------------------------------------------- for subclasses

    @abstractmethod
    def _predict(self, model: nn.Module, x: Tensor, output: Tensor, task: int | None) -> Tensor:
        """What takes the place of ``output`` ``(B, C)`` for rows x ``(B, *shape)`` of a task, None for all."""

    def _forget(self) -> None:
        """Let go of all that was made for one evaluation."""
        self._index: dict[int | None, EpisodicIndex] = {}
        self._held: set[int] | None = None
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

    def _check_classes(self, y: Tensor, outputs: int) -> None:
        if int(y.max()) >= outputs:
            raise ValueError(f"memory: holds class {int(y.max())}, for which the model of {outputs} outputs has none")

    # ---------------------------------------------------------------- parts of the above

    def _tasks(self) -> set[int]:
        if self._held is None:
            self._held = set(self.memory.summary().per_task)
        return self._held

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

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """The count of iterations, and the memory if this plugin writes it."""
        memory = {"memory": dict(self.memory.state_dict())} if self.writes else {}
        return {"iterations": self._iterations, **memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of another kind of memory.
        """
        if self.writes:
            self.memory.load_state_dict(state["memory"])
        self._iterations = state["iterations"]
        self._forget()


def forward_of(model: nn.Module, task: int | None, dtype: torch.dtype) -> Forward:
    """The model's logits for rows of one task, or of any.

    :param dtype: that the model takes rows in.
    """

    def forward(rows: Tensor) -> Tensor:
        labels = None if task is None else rows.new_full((len(rows),), task, dtype=torch.int64)
        return find_logits(avalanche_forward(model, rows.to(dtype), labels), len(rows))[0]

    return forward


def _inputs(strategy: Any) -> Tensor:
    """x of the batch, if it is of a kind that can be read."""
    batch = strategy.mbatch
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3) or not isinstance(batch[0], Tensor):
        kinds = [type(column).__name__ for column in batch] if isinstance(batch, list | tuple) else type(batch).__name__
        raise ValueError(f"mbatch: expected [x, y] or [x, y, t] with x a tensor (B, *shape), got {kinds}")
    x: Tensor = batch[0]
    return x


def _groups(strategy: Any) -> Iterator[tuple[int | None, Tensor]]:
    """Rows of the batch by the head that answers for them."""
    batch = strategy.mbatch
    if not is_multi_task_module(strategy.model) or len(batch) < 3:
        yield None, torch.arange(len(batch[0]), device=batch[0].device)
        return
    for task in torch.unique(batch[-1]).tolist():
        yield task, (batch[-1] == task).nonzero().flatten()
