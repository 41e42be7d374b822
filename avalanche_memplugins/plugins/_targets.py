"""What replayed rows are trained towards, and the loss that says how far they are from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from avalanche.models import avalanche_forward
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, pad

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories import Recall
from avalanche_memplugins.plugins._experience import parts_of
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._outputs import main_output
from avalanche_memplugins.plugins._strategy import is_plain_cross_entropy, sums_rows
from avalanche_memplugins.plugins._wrapped import copied

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
            raise ValueError(f"state: expected that of a plugin with labels={self.labels!r}, got one of other labels")
        if self.teacher is not None and state is not None:
            self.teacher.load_state_dict(state)


class Teacher:
    """A frozen copy of the strategy's model, and the classes of the stream that it has seen.

    :param at: name of the module whose outputs are replayed; None: inputs are.
    """

    def __init__(self, at: str | None) -> None:
        self.model: nn.Module | None = None
        self._tap = None if at is None else LatentTap(at, tells=False)
        self._classes: dict[int, set[int]] = {}  # by task label
        self._seen: Tensor | None = None  # (tasks, classes) bool
        self._loaded: dict[str, Tensor] | None = None  # parameters of a copy that is yet to be made

    def __bool__(self) -> bool:
        return self.model is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the copy."""
        if self.model is None:
            return sum(value.nbytes for value in (self._loaded or {}).values())
        return sum(value.nbytes for value in (*self.model.parameters(), *self.model.buffers()))

    def join(self, model: nn.Module, device: torch.device) -> None:
        """Come to ``device``; after a state was loaded, take the form of ``model``.

        :raises ValueError: if the loaded parameters are not those of such a model.
        """
        if self._loaded is not None:
            self._copy(model)
            try:
                self._frozen.load_state_dict(self._loaded)
            except RuntimeError as error:
                self.model = None
                raise ValueError(f"state: the old model's parameters do not fit strategy.model: {error}") from error
            self._loaded = None
        if self.model is not None:
            self.model.to(device)
            self._seen = None if self._seen is None else self._seen.to(device)

    def learn(self, model: nn.Module, datasets: Iterable[Any]) -> None:
        """Copy the model at the end of an experience, and note the experience's classes.

        As long as there are no classes, there is nothing to copy.

        :raises ValueError: if a data set does not tell its targets, or they are no classes.
        """
        for dataset in datasets:
            self._note(dataset)
        if self._classes:
            self._copy(model)
            self._tabulate(next(iter(model.parameters())).device)

    def check(self, datasets: Iterable[Any]) -> None:
        """See that data sets tell their classes.

        :raises ValueError: if one does not.
        """
        for dataset in datasets:
            if not hasattr(dataset, "targets"):
                raise ValueError(
                    "labels: 'old_model' and 'soft' expected data sets with targets, to know the classes seen so far, "
                    f"got a {type(dataset).__name__} without"
                )

    def _note(self, dataset: Any) -> None:
        self.check([dataset])
        targets, tasks = dataset.targets, getattr(dataset, "targets_task_labels", None)
        if tasks is None or len(tasks.uniques) == 1:
            task = 0 if tasks is None else int(next(iter(tasks.uniques)))
            self._classes.setdefault(task, set()).update(int(y) for y in targets.uniques)
        else:
            for y, task in zip(targets, tasks, strict=True):
                self._classes.setdefault(int(task), set()).add(int(y))

    def logits(self, x: Tensor, t: Tensor, known: Tensor, filler: Tensor) -> Tensor:
        """The old outputs ``(R, K)``, minus infinity for classes not seen; K is one more than the largest seen.

        :param x: replayed rows or codes ``(R, *shape)``.
        :param t: their task labels ``(R,)``.
        :param known: ``(R,)`` bool: rows of the experience that runs are not; their outputs mean nothing.
        :param filler: any rows of input.
        """
        if self._seen is None:
            raise RuntimeError("an old model without classes")
        model = self._frozen
        t = torch.where(known, t, min(self._classes))
        with torch.no_grad():
            if self._tap is None:
                output = main_output(avalanche_forward(model, x, t))
            else:
                output = main_output(self._tap.forward_codes(model, x, t, filler))
        seen = self._seen[t] if is_multi_task_module(model) else self._seen.any(0, keepdim=True)
        width = seen.shape[1]
        output = pad(output[:, :width].float(), (0, max(0, width - output.shape[1])))
        return output.masked_fill(~seen, -torch.inf)

    @property
    def _frozen(self) -> nn.Module:
        if self.model is None:
            raise RuntimeError("no old model yet")
        return self.model

    def _copy(self, model: nn.Module) -> None:
        self.model = copied(model).requires_grad_(False).eval()
        self.model.zero_grad(set_to_none=True)

    def _tabulate(self, device: torch.device) -> None:
        largest = max(max(classes) for classes in self._classes.values())
        table = torch.zeros(max(self._classes) + 1, largest + 1, dtype=torch.bool)
        for task, classes in self._classes.items():
            table[task, sorted(classes)] = True
        self._seen = table.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Parameters and buffers of the copy, and the classes."""
        parameters = self._loaded if self.model is None else dict(self.model.state_dict())
        return {"model": parameters, "classes": {str(task): sorted(seen) for task, seen in self._classes.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; the copy is made when a model joins."""
        self.model, self._seen = None, None
        self._loaded = None if state["model"] is None else {k: v.clone() for k, v in state["model"].items()}
        self._classes = {int(task): set(seen) for task, seen in state["classes"].items()}
        if self._classes:
            self._tabulate(torch.device("cpu"))


def distillation(output: Tensor, target: Tensor, temperature: float) -> Tensor:
    r""":math:`T^2 \, \mathrm{KL}(p \,\|\, \mathrm{softmax}(o / T))` of every row, ``(R,)``.

    :param output: the student's outputs :math:`o` ``(R, classes)``.
    :param target: the teacher's softened probabilities :math:`p` ``(R, K)``; classes beyond K have none.
    :param temperature: T.
    """
    width = output.shape[1]
    target = pad(target, (0, max(0, width - target.shape[1])))[:, :width]
    student = log_softmax(output.float() / temperature, dim=1)
    return temperature**2 * kl_div(student, target, reduction="none").sum(1)
