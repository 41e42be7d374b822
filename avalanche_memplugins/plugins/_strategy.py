"""What plugins ask a strategy before it trains: how often they are listed, whether rows can be replayed, its loss."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from avalanche.training import AR1, DER, ER_ACE, ER_AML, LearningToPrompt
from avalanche.training.templates.problem_type.supervised_problem import SupervisedProblem
from torch import Tensor, nn

from avalanche_memplugins._structure import first_leaf, row_count
from avalanche_memplugins.plugins._around import Around

_FILLED_BY: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()
_STATELESS = frozenset(
    {
        *(nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.MultiLabelSoftMarginLoss, nn.BCELoss),
        *(nn.BCEWithLogitsLoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.KLDivLoss),
    }
)

# ---------------------------------------------------------------- plugins and memories


def listed_once(plugin: object, strategy: Any) -> None:
    """Raise if the strategy lists the very same plugin more than once: it would do everything as often.

    :raises ValueError: naming the plugin.
    """
    times = sum(one is plugin for one in strategy.plugins)
    if times > 1:
        raise ValueError(
            f"plugins: expected each plugin once, got the same {type(plugin).__name__} {times} times, which would "
            "run every callback as often"
        )


def told_of_another_run(memory: Any, strategy: Any) -> None:
    """Warn if a memory that another strategy has filled joins this one."""
    if type(memory).__hash__ is None:
        return
    before = _FILLED_BY.get(memory)
    if before is not None and before() is not strategy and len(memory):
        warnings.warn(
            f"memory: this {type(memory).__name__} joins a second strategy with {len(memory)} rows from the first; if "
            "that is not meant, make a new memory and a new plugin for each run",
            stacklevel=3,
        )
    _FILLED_BY[memory] = weakref.ref(strategy)


# ---------------------------------------------------------------- what rows can be replayed with


def check_strategy(strategy: Any, labels: str) -> None:
    """Raise if a strategy is known not to train on replayed rows.

    :param labels: what they are trained towards.
    :raises ValueError: naming ``strategy``, or ``labels``.
    """
    name = type(strategy).__name__
    if isinstance(strategy, DER | ER_ACE | ER_AML | AR1):
        raise ValueError(
            f"strategy: expected one whose loss is strategy.criterion(), got {name}, which replays and works out its "
            "loss in a loop of its own; use Naive with the plugin, or the strategy without it"
        )
    if isinstance(strategy, LearningToPrompt) and strategy.use_mask:
        raise ValueError(
            f"strategy: {name} masks all classes but the experience's, so replayed rows of others would have an "
            "infinite loss; make it with use_mask=False"
        )
    if strategy.optimizer is None:
        raise ValueError(
            f"strategy: expected one that trains by an optimiser, got {name} without, where replayed rows would change "
            "nothing"
        )
    criterion = strategy._criterion
    if isinstance(criterion, BasePlugin) and any(
        getattr(type(criterion), event, None) is not getattr(SupervisedPlugin, event)
        for event in ("before_forward", "after_forward")
    ):
        raise ValueError(
            f"strategy: the criterion of {name}, {type(criterion).__name__}, is a plugin that looks at each batch "
            "before the loss, and would miss the replayed rows"
        )
    if labels in ("old_model", "soft") and hasattr(strategy.model, "eval_classifier"):
        raise ValueError(
            f"labels: {labels!r} expected a model that gives logits in evaluation, got "
            f"{type(strategy.model).__name__}, which has another classifier there"
        )


def check_batch(batch: object, *, labelled: bool) -> None:
    """Raise unless a batch is ``[x, y]`` or ``[x, y, t]`` with task labels t.

    x and y may be dicts or tuples of tensors.

    :param labelled: a third column holds task labels.
    :raises ValueError: naming ``mbatch``.
    """
    if isinstance(batch, list | tuple) and len(batch) in (2, 3):
        x, y, t = batch if len(batch) == 3 else (*batch, None)
        if _is_column(x) and _is_column(y):
            if len(first_leaf(x)) != len(first_leaf(y)):
                raise ValueError(f"mbatch: expected a label for each row of x, got {_kind(batch)}")
            if len(batch) == 2:
                return
            if isinstance(t, Tensor) and t.ndim == 1 and not t.is_floating_point():
                if labelled:
                    return
                raise ValueError(
                    "mbatch: expected [x, y], or [x, y, t] with task labels t, got a third column that holds none, "
                    "since neither the experience has task_labels nor its data set targets_task_labels; leave the "
                    "column out, or name it so"
                )
    raise ValueError(f"mbatch: expected a list [x, y] or [x, y, t] with integer task labels t (B,), got {_kind(batch)}")


def _is_column(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 0
    try:
        row_count("mbatch", value)
    except (TypeError, ValueError):
        return False
    return True


def _kind(batch: object) -> str:
    if isinstance(batch, dict):
        return f"a dict with the keys {list(batch)}"
    if isinstance(batch, list | tuple):
        columns = [
            f"{column.dtype} {tuple(column.shape)}" if isinstance(column, Tensor) else type(column).__name__
            for column in batch
        ]
        return f"[{', '.join(columns)}]"
    return f"a {type(batch).__name__}"


def fault_of_more_rows(error: Exception, at: str | None, rows: int, replayed: int) -> RuntimeError | None:
    """What is the matter if a criterion has failed because of replayed rows; None: it is something else.

    Outputs of a layer have no inputs; and a criterion may hold something with one entry for each row of the stream,
    such as weights.

    :param error: what it raised.
    :param at: name of the layer; None: inputs are replayed.
    :param rows: in front of the replayed ones.
    :param replayed: rows replayed.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return None
    if at is not None:
        return RuntimeError(
            f"criterion: it failed on a batch with rows of latent replay at {at!r}, which have labels and outputs, but "
            f"no inputs x: {error}"
        )
    numbers = set(re.findall(r"\d+", str(error)))
    if str(rows) not in numbers or not {str(rows + replayed), str(replayed)} & numbers:
        return None
    return RuntimeError(
        f"criterion: expected a loss of as many rows as batch and output have, but it failed when {replayed} replayed "
        f"rows joined the {rows} of the stream: {error}"
    )


# ---------------------------------------------------------------- the loss


def sums_rows(strategy: Any) -> bool:
    """Whether the strategy's loss is known to be a sum over rows instead of a mean."""
    return has_avalanches_criterion(strategy) and getattr(strategy._criterion, "reduction", None) == "sum"


def has_avalanches_criterion(strategy: Any) -> bool:
    """Whether a strategy's ``criterion`` is Avalanche's own: not overridden, and not set on the instance."""
    criterion = strategy.criterion
    method = criterion.innermost if isinstance(criterion, Around) else criterion
    return getattr(method, "__func__", None) is SupervisedProblem.criterion


def has_mean_cross_entropy(strategy: Any) -> bool:
    """Whether the strategy's loss is the mean cross-entropy of rows, without weights or ignored classes, unwatched."""
    criterion = strategy._criterion
    return (
        has_avalanches_criterion(strategy)
        and type(criterion) is nn.CrossEntropyLoss
        and criterion.weight is None
        and criterion.reduction == "mean"
        and criterion.ignore_index < 0
        and not (criterion._forward_hooks or criterion._forward_pre_hooks or criterion._backward_hooks)
        and "forward" not in vars(criterion)
    )


def is_plain_cross_entropy(strategy: Any) -> bool:
    """Whether it is that, without smoothing."""
    return has_mean_cross_entropy(strategy) and strategy._criterion.label_smoothing == 0


def stream_loss(strategy: Any, joint: Tensor, *, overridden: bool) -> Tensor:
    """The loss of the stream's rows, which the strategy's batch and outputs are.

    One of torch's losses keeps no state, so it is worked out once more. Others are not asked a second time, since that
    could change what they do next.

    :param joint: the loss of all rows, taken for them.
    :param overridden: whether ``strategy.criterion`` is another than Avalanche's.
    """
    criterion: Callable[[Tensor, Tensor], Tensor] = strategy._criterion
    if overridden or type(criterion) not in _STATELESS or not isinstance(strategy.mb_output, Tensor):
        return joint.detach()
    with torch.no_grad():
        return criterion(strategy.mb_output, strategy.mb_y)


def row_losses(strategy: Any, memory: object) -> Callable[[Any, Tensor], Tensor]:
    """A function that gives the loss of each row ``(B,)`` for a model's output and labels.

    :param memory: that needs it.
    :raises ValueError: if the strategy's loss cannot be had row by row.
    """
    criterion = strategy._criterion
    if has_avalanches_criterion(strategy):
        if isinstance(getattr(criterion, "reduction", None), str):
            each = copy.copy(criterion)
            each.reduction = "none"
            return functools.partial(_one_a_row, each)
        if not isinstance(criterion, nn.Module) and _takes(criterion, "reduction"):
            return functools.partial(_one_a_row, functools.partial(criterion, reduction="none"))
        got = getattr(criterion, "__name__", type(criterion).__name__)
    else:
        got = f"a criterion() of {type(strategy).__name__}'s own"
    raise ValueError(
        f"criterion: {type(memory).__name__} chooses rows by their loss, so a criterion is expected that gives one for "
        f"each row with reduction='none', such as torch.nn.CrossEntropyLoss, got {got}; give it a reduction, or take a "
        "write policy that needs no loss"
    )


def _one_a_row(criterion: Callable[[Any, Tensor], Any], output: Any, y: Tensor) -> Tensor:
    with torch.no_grad():
        losses = criterion(output, y)
    if not isinstance(losses, Tensor) or not losses.ndim or len(losses) != len(y):
        got = f"a tensor {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ValueError(f"criterion: expected one loss for each of the {len(y)} rows with reduction='none', got {got}")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
