"""Avalanche's accuracy and loss metrics without a wait in each iteration."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.evaluation import Metric
from avalanche.evaluation.metrics.accuracy import Accuracy, AccuracyPluginMetric
from avalanche.evaluation.metrics.loss import LossMetric, LossPluginMetric
from torch import Tensor


def on_device(*metrics: Any) -> list[Any]:
    """Have Avalanche's accuracy and loss metrics keep their sums on the device.

    On a GPU each of them waits for every iteration, to fetch a number that is shown once an epoch or experience. These
    are changed to fetch it when it is emitted. Names stay the same; so do losses, and accuracies up to rounding.
    Other metrics, and those by task, are left as they are.

    :param metrics: what ``accuracy_metrics(...)``, ``loss_metrics(...)`` and the like gave, or single metrics, new.
    :returns: the same metrics, in one list.

    >>> from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> metrics = on_device(accuracy_metrics(epoch=True, stream=True), loss_metrics(epoch=True))
    >>> evaluator = EvaluationPlugin(*metrics, loggers=[])
    >>> [str(metric) for metric in metrics]
    ['Top1_Acc_Epoch', 'Top1_Acc_Stream', 'Loss_Epoch']
    """
    found = [metric for given in metrics for metric in (given if isinstance(given, list | tuple) else [given])]
    for metric in found:
        if isinstance(metric, AccuracyPluginMetric) and type(metric._metric) is Accuracy:
            metric._metric = metric._accuracy = _Accuracy()
        elif isinstance(metric, LossPluginMetric) and type(metric._metric) is LossMetric:
            metric._metric = metric._loss = _Loss()
    return found


class _Mean(Metric):  # type: ignore[misc]
    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.rows = 0

    def add(self, total: Tensor, rows: int) -> None:
        self.total = total if self.total is None else self.total.to(total.device) + total
        self.rows += rows

    def result(self) -> float:
        return 0.0 if self.total is None or not self.rows else self.total.item() / self.rows

    def reset(self) -> None:
        self.total, self.rows = None, 0


class _Accuracy(_Mean):
    @torch.no_grad()
    def update(self, predicted_y: Tensor, true_y: Tensor) -> None:
        if len(true_y) != len(predicted_y):
            raise ValueError(f"true_y: expected one for each of {len(predicted_y)} predictions, got {len(true_y)}")
        predicted, true = (values.max(1)[1] if values.ndim > 1 else values for values in (predicted_y, true_y))
        self.add((predicted == true).sum(), len(true_y))


class _Loss(_Mean):
    @torch.no_grad()
    def update(self, loss: Tensor, patterns: int) -> None:
        self.add(loss.mean().double() * patterns, patterns)
