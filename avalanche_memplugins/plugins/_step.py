"""One iteration of replay: the rows, and the batch while they are part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.training.templates.problem_type.supervised_problem import SupervisedProblem
from torch import Tensor, nn

from avalanche_memplugins.memories import Recall
from avalanche_memplugins.plugins._outputs import parted, rows_of


@dataclass
class Step:
    """What lives for one iteration.

    :param wanted: rows asked of the memory.
    :param recall: what is replayed, as the model gets it; None: nothing is.
    :param label: the memory's own labels of these rows.
    :param begun: the forward pass has begun.
    :param rows: of the stream.
    :param output: of the replayed rows, once batch and outputs are parted.
    :param loss: what ``strategy.criterion()`` gave for all rows, without gradient.
    :param stream_loss: the part of it that is the stream's, if known.
    """

    wanted: int = 0
    recall: Recall | None = None
    label: Tensor | None = None
    begun: bool = False
    rows: int = 0
    output: Any = None
    loss: Tensor | None = None
    stream_loss: Tensor | None = None
    _found: list[Tensor] | None = None  # the strategy's batch before anything was done to it
    _stream: list[Tensor] | None = None  # the stream's rows while the strategy's batch is the joint one

    @property
    def is_joint(self) -> bool:
        """Whether the strategy's batch holds replayed rows, too."""
        return self._stream is not None

    @property
    def replayed(self) -> int:
        """Rows replayed."""
        return 0 if self.recall is None else len(self.recall.y)

    def begin(self, strategy: Any, recall: Recall | None, *, replace: bool) -> None:
        """Take up ``recall``; with ``replace`` its rows take the place of the stream's last ones."""
        self.recall, self._found = recall, strategy.mbatch
        if replace and recall is not None:
            strategy.mbatch = [column[: len(column) - len(recall.y)] for column in strategy.mbatch]
        self.rows = len(strategy.mbatch[0])

    def join(self, strategy: Any, x: Tensor | None = None) -> None:
        """Put the replayed rows behind the stream's: labels and task labels, and inputs ``x`` if they are any."""
        recall, batch = self.recall, strategy.mbatch
        if recall is None:
            return
        columns = (x, recall.y, recall.t)[: len(batch)]
        both = [a if b is None else torch.cat([a, b]) for a, b in zip(batch, columns, strict=True)]
        self._stream, strategy.mbatch = batch, both

    def part(self, strategy: Any) -> None:
        """Give the strategy the stream's rows and their outputs; keep the outputs of the replayed rows.

        :raises ValueError: if the model's output has not one row for each row of the batch.
        """
        if self._stream is None:
            return
        strategy.mbatch, self._stream = self._stream, None
        strategy.mb_output, self.output = parted(strategy.mb_output, self.rows, self.replayed)

    def restore(self, strategy: Any) -> None:
        """Give the strategy back the batch that it had, after an exception."""
        if self._found is not None:
            strategy.mbatch = self._found
        self._found = self._stream = None

    def on_replayed(self, strategy: Any, index: slice | Tensor, criterion: Callable[[], Tensor]) -> Tensor:
        """What the strategy's criterion gives for replayed rows, whose outputs and labels it is shown.

        :param index: which rows.
        :param criterion: the strategy's.
        """
        recall = self.recall
        if recall is None:
            raise RuntimeError("a loss of replayed rows without rows")
        batch, output = strategy.mbatch, strategy.mb_output
        strategy.mbatch = [column[index] for column in (recall.x, recall.y, recall.t)[: len(batch)]]
        strategy.mb_output = rows_of(self.output, index)
        try:
            return criterion()
        finally:
            strategy.mbatch, strategy.mb_output = batch, output


_STATELESS = frozenset(
    {
        *(nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.MultiLabelSoftMarginLoss, nn.BCELoss),
        *(nn.BCEWithLogitsLoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.KLDivLoss),
    }
)


def plain_criterion(strategy: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The strategy's loss as a function of outputs and labels, if it is one of torch's, which keep no state.

    Calling such a loss once more changes nothing; of others that is not known.
    """
    criterion = strategy._criterion
    overridden = type(strategy).criterion is not SupervisedProblem.criterion
    if overridden or type(criterion) not in _STATELESS or not isinstance(strategy.mb_output, Tensor):
        return None
    forward: Callable[[Tensor, Tensor], Tensor] = criterion.forward
    return forward


def is_plain_cross_entropy(strategy: Any) -> bool:
    """Whether the strategy's loss is the mean cross-entropy of rows, without weights, smoothing or ignored classes."""
    criterion = strategy._criterion
    return (
        type(strategy).criterion is SupervisedProblem.criterion
        and type(criterion) is nn.CrossEntropyLoss
        and criterion.weight is None
        and criterion.reduction == "mean"
        and criterion.label_smoothing == 0
        and criterion.ignore_index < 0
    )


def stream_loss(strategy: Any, joint: Tensor) -> Tensor:
    """The loss of the stream's rows, after batch and outputs were parted.

    :param joint: the loss of all rows. It is taken where the criterion is not known to keep no state: asking it a
        second time could change what it does next.
    """
    criterion = plain_criterion(strategy)
    if criterion is None:
        return joint.detach()
    with torch.no_grad():
        return criterion(strategy.mb_output, strategy.mbatch[1])
