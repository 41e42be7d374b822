"""What plugins have in common that replace the model's prediction in evaluation."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models import avalanche_forward
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.plugins._experience import number_of
from avalanche_memplugins.plugins._outputs import find_logits
from avalanche_memplugins.plugins._strategy import listed_once, told_of_another_run
from avalanche_memplugins.plugins._wrapped import uncompile, unwrapped

Forward = Callable[[Tensor], Tensor]


class AnsweringPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Replaces ``strategy.mb_output`` by another prediction in ``after_eval_forward``.

    Training is untouched, the model is never written to, and while the memory is empty, and for a task of a multi-head
    model that it holds no rows of, the model's own prediction stays. A model may give its logits in a tuple or dict;
    only they are replaced there. While the plugin itself runs the model, its modules run without ``torch.compile``.

    :param memory: that is asked.
    :param writes: write the stream to the memory, too, in the first epoch.
    :param write_every: iterations between writes, >= 1.
    """

    def __init__(self, memory: Any, *, writes: bool, write_every: int) -> None:
        super().__init__()
        self.memory = memory
        self.writes = check.flag("writes", writes)
        self.write_every = check.positive_integer("write_every", write_every)
        self._iterations = 0
        self._forget()

    # ---------------------------------------------------------------- callbacks

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """See that the plugin is listed once.

        :raises ValueError: if not.
        """
        listed_once(self, strategy)
        self.memory.to(strategy.device)
        if self.writes:
            told_of_another_run(self.memory, strategy)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Write the stream's rows, if that is this plugin's business.

        :raises ValueError: for a batch that is not ``[x, y]`` or ``[x, y, t]``.
        """
        if not self.writes or strategy.clock.train_exp_epochs:
            return
        if self._iterations % self.write_every == 0:
            x, t = _rows(strategy)
            x = self._to_write(unwrapped(strategy.model), x, t)
            self.memory.write(x, strategy.mbatch[1], t, origin=number_of(strategy))
        self._iterations += 1

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Forget what was made with memory and model as they were.

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

    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the model's predictions by the new ones.

        :raises ValueError: if batch, memory and model do not fit together.
        """
        if not len(self.memory):
            return
        x, t = _rows(strategy)
        if not len(x):
            return
        self._check_rows(x)
        logits, replaced = find_logits(strategy.mb_output, len(x))
        model = unwrapped(strategy.model)
        # Tensors of inference mode could not be adapted to, and have no version that tells of changes.
        with torch.inference_mode(False), torch.no_grad(), eval_mode(model):
            x, t, output = (part.clone() if part.is_inference() else part for part in (x, t, logits.clone()))
            # What the model keeps of the batch belongs to the strategy's own forward pass.
            kept = {name: value for name, value in vars(model).items() if isinstance(value, Tensor)}
            restore = uncompile(model.modules())
            try:
                for task, rows in self._groups(strategy, t):
                    output[rows] = self._predict(strategy, model, x[rows], output[rows], task).to(output.dtype)
            finally:
                restore()
                vars(model).update(kept)
        strategy.mb_output = replaced(output)

    # ---------------------------------------------------------------- for subclasses

    def _to_write(self, model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        """Rows of the stream as the memory holds them."""
        return x

    def _check_rows(self, x: Tensor) -> None:
        """Raise if the memory cannot answer for rows ``(B, *shape)``."""

    @abstractmethod
    def _predict(self, strategy: Any, model: nn.Module, x: Tensor, output: Tensor, task: int | None) -> Tensor:
        """What takes the place of ``output`` ``(B, C)`` for rows x ``(B, *shape)`` of a task, None for all."""

    def _forget(self) -> None:
        """Let go of all that was made for one evaluation."""
        self._held: tuple[set[int], int] | None = None

    # ---------------------------------------------------------------- parts of the above

    def _groups(self, strategy: Any, t: Tensor) -> list[tuple[int | None, Tensor]]:
        """Rows of the batch by the head that answers for them, where the memory holds rows of its task."""
        if not is_multi_task_module(strategy.model) or len(strategy.mbatch) < 3:
            return [(None, torch.arange(len(t), device=t.device))]
        held = self._what_is_held()[0]
        return [(task, (t == task).nonzero().flatten()) for task in torch.unique(t).tolist() if task in held]

    def _what_is_held(self) -> tuple[set[int], int]:
        """Tasks of the memory's rows, and their largest class."""
        if self._held is None:
            summary = self.memory.summary()
            self._held = set(summary.per_task), max(summary.per_class, default=-1)
        return self._held

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


def check_classes(largest: int, outputs: int) -> None:
    """Raise if the memory holds a class that the model has no output for.

    :raises ValueError: naming it.
    """
    if largest >= outputs:
        raise ValueError(f"memory: holds class {largest}, for which the model of {outputs} outputs has none")


def forward_of(model: nn.Module, task: int | None, dtype: torch.dtype) -> Forward:
    """The model's logits for rows of one task, or of any.

    :param dtype: that the model takes rows in.
    """

    def forward(rows: Tensor) -> Tensor:
        labels = None if task is None else rows.new_full((len(rows),), task, dtype=torch.int64)
        return find_logits(avalanche_forward(model, rows.to(dtype), labels), len(rows))[0]

    return forward


def _rows(strategy: Any) -> tuple[Tensor, Tensor]:
    """x and t of the batch, if it is of a kind that can be read; t is 0 where there are no task labels."""
    batch = strategy.mbatch
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3) or not isinstance(batch[0], Tensor):
        kinds = [type(column).__name__ for column in batch] if isinstance(batch, list | tuple) else type(batch).__name__
        raise ValueError(f"mbatch: expected [x, y] or [x, y, t] with x a tensor (B, *shape), got {kinds}")
    x: Tensor = batch[0]
    return x, batch[2] if len(batch) == 3 else torch.zeros(len(x), dtype=torch.int64, device=x.device)
