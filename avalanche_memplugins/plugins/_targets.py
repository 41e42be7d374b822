"""What replayed rows are trained towards, and the loss that says how far they are from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories import Recall
from avalanche_memplugins.plugins._experience import parts_of
from avalanche_memplugins.plugins._step import is_plain_cross_entropy, sums_rows
from avalanche_memplugins.plugins._teacher import Teacher, distillation

TEMPERATURE = 2.0
Labels = Literal["memory", "old_model", "soft", "logits"]


class Targets:
    """See ``labels`` of :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.

    :param labels: where targets come from.
    :param at: name of the module whose outputs are replayed; None: inputs are.
    """

    def __init__(self, labels: Labels, at: str | None) -> None:
        self.labels = check.choice("labels", labels, ("memory", "old_model", "soft", "logits"))
        self.teacher = Teacher(at) if labels in ("old_model", "soft") else None
        self.soft: tuple[Tensor, Tensor] | None = None  # the old model's probabilities, and which rows it knows
        self.all_known = False  # whether it knows all of them

    @property
    def have_own_loss(self) -> bool:
        """Whether the loss of replayed rows is another than the stream's."""
        return self.labels in ("soft", "logits")

    @property
    def nbytes(self) -> int:
        """Bytes of the old model."""
        return 0 if self.teacher is None else self.teacher.nbytes

    def join(self, model: nn.Module, device: torch.device) -> None:
        """Come to the strategy's device."""
        if self.teacher is not None:
            self.teacher.join(model, device)

    def check(self, strategy: Any) -> None:
        """See that the experience's data tells its classes, if the old model has to know them.

        :raises ValueError: if it does not.
        """
        if self.teacher is not None:
            self.teacher.check(dataset for _, dataset in parts_of(strategy))

    def learn(self, strategy: Any) -> None:
        """Copy the model at the end of an experience."""
        self.soft = None
        if self.teacher is not None:
            self.teacher.learn(strategy.model, (dataset for _, dataset in parts_of(strategy)))

    def set(self, recall: Recall, number: int | None, filler: Tensor) -> Recall:
        """Work out the targets; gives the rows with the classes that they are trained towards.

        :param recall: rows as the model gets them, with the memory's classes.
        :param number: of the running experience, whose rows the old model does not know; None if the memory holds
            none of them. Rows whose experience the memory does not tell, origin -1, may be of it.
        :param filler: any rows of input.
        """
        self.soft = None
        if not self.teacher:
            return recall
        self.all_known = number is None
        if number is None:
            known = torch.ones_like(recall.origin, dtype=torch.bool)
        else:
            known = (recall.origin != number) & (recall.origin >= 0)
        logits = self.teacher.logits(recall.x, recall.t, known, filler)
        if self.labels == "soft":
            self.soft = (logits / TEMPERATURE).softmax(1), known
            return recall
        return recall._replace(y=torch.where(known, logits.argmax(1), recall.y))

    def loss(
        self, output: Tensor, recall: Recall, criterion: Callable[[slice | Tensor], Tensor], strategy: Any
    ) -> Tensor:
        """Mean loss of replayed rows; their sum where the strategy's own loss is known to be a sum.

        :param output: the model's outputs ``(R, classes)``.
        :param recall: what :meth:`set` gave.
        :param criterion: the strategy's loss of the rows with an index, for targets that are the memory's.
        :param strategy: whose loss it is.
        """
        if self.labels == "logits" and recall.logits is not None:
            # Heads may have grown since the rows were written.
            width = min(output.shape[1], recall.logits.shape[1])
            return mse_loss(output[:, :width].float(), recall.logits[:, :width])
        if self.soft is None:
            return criterion(slice(None))
        target, known = self.soft
        soft = distillation(output, target, TEMPERATURE)
        if self.all_known:
            return soft.sum() if sums_rows(strategy) else soft.mean()
        if is_plain_cross_entropy(strategy):
            # Row by row, so that nobody has to wait for a GPU to tell which rows are known.
            hard = cross_entropy(output.float(), recall.y, reduction="none")
            return torch.where(known, soft, hard).mean()
        unknown = (~known).nonzero().flatten()
        if sums_rows(strategy):
            return soft[known].sum() + criterion(unknown) if len(unknown) else soft.sum()
        if not len(unknown):
            return soft.mean()
        return (soft[known].sum() + len(unknown) * criterion(unknown)) / len(soft)

    def state_dict(self) -> dict[str, Any] | None:
        """The old model's state, if there is one to have."""
        return None if self.teacher is None else self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of other labels.
        """
        if (state is None) != (self.teacher is None):
            raise ValueError(f"state: wants that of a plugin with labels={self.labels!r}, got one of other labels")
        if self.teacher is not None and state is not None:
            self.teacher.load_state_dict(state)
