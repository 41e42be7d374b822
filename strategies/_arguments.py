"""Checks of what every strategy hands on to Avalanche's template."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from torch import nn
from torch.optim import Optimizer

from avalanche_memplugins import _checks as check


def check_template(
    *,
    model: Any,
    optimizer: Any,
    criterion: Any,
    train_mb_size: Any,
    train_epochs: Any,
    eval_mb_size: Any,
    device: Any,
    plugins: Any,
    evaluator: Any,
    eval_every: Any,
) -> None:
    """Raise for arguments of ``SupervisedTemplate`` that it would take, or fail on later, without naming them.

    :raises TypeError: for an argument of a wrong kind.
    :raises ValueError: for one out of range.
    """
    check.instance("model", model, nn.Module, "a module")
    check.instance("optimizer", optimizer, Optimizer, "an optimizer of torch.optim")
    check.function("criterion", criterion, "a loss function")
    check.positive_integer("train_mb_size", train_mb_size)
    check.positive_integer("train_epochs", train_epochs)
    if eval_mb_size is not None:
        check.positive_integer("eval_mb_size", eval_mb_size)
    check.integer("eval_every", eval_every, least=-1)
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: expected a device such as 'cpu' or 'cuda:0', got {check.show(device)}") from error
    if plugins is not None and (isinstance(plugins, str) or not hasattr(plugins, "__iter__")):
        raise TypeError(f"plugins: expected a sequence of plugins, or None, got {check.show(plugins)}")
    for plugin in plugins or ():
        check.instance("plugins", plugin, BasePlugin, "plugins of Avalanche")
    if evaluator is not None and not isinstance(evaluator, EvaluationPlugin):
        check.function("evaluator", evaluator, "an EvaluationPlugin, a function that makes one, or None")
