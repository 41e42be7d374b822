"""What is looked at before a model is trained, so that what does not fit is told by name and in time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Number
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from avalanche.training import AR1, DER, ER_ACE, ER_AML, LearningToPrompt
from torch import Tensor

from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.plugins._augment import isolated
from avalanche_memplugins.plugins._experience import parts_of
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._materialise.read import frozen_generators


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


def check_batch(strategy: Any, *, labelled: bool) -> None:
    """Raise unless the strategy's batch is ``[x, y]`` or ``[x, y, t]`` with task labels t.

    :param labelled: a third column holds task labels.
    :raises ValueError: naming ``mbatch``.
    """
    batch = strategy.mbatch
    if isinstance(batch, list | tuple) and all(map(_is_tensor, batch)):
        if len(batch) in (2, 3) and batch[0].shape[:1] != batch[1].shape[:1]:
            raise ValueError(f"mbatch: expected a label for each row of x, got {_kind(batch)}")
        if len(batch) == 2:
            return
        if len(batch) == 3 and batch[2].ndim == 1 and not batch[2].is_floating_point():
            if labelled:
                return
            raise ValueError(
                "mbatch: expected [x, y], or [x, y, t] with task labels t, got a third column that holds none, since "
                "neither the experience has task_labels nor its data set targets_task_labels; leave the column out, or "
                "name it so"
            )
    raise ValueError(f"mbatch: expected a list [x, y] or [x, y, t] with integer task labels t (B,), got {_kind(batch)}")


def _is_tensor(column: Any) -> bool:
    return isinstance(column, Tensor)


def _kind(batch: Any) -> str:
    if isinstance(batch, dict):
        return f"a dict with the keys {list(batch)}"
    if isinstance(batch, list | tuple):
        columns = [
            f"{column.dtype} {tuple(column.shape)}" if isinstance(column, Tensor) else type(column).__name__
            for column in batch
        ]
        return f"[{', '.join(columns)}]"
    return f"a {type(batch).__name__}"


def test_rows(strategy: Any, memory: Any, tap: LatentTap | None) -> Tensor | None:
    """Ask ``memory.check_rows`` about the first row of the experience, and about all its labels where they are known.

    :param tap: at the module whose outputs are to take the place of x; None leaves x.
    :returns: the row ``(1, *shape)`` as the memory will get it, if labels are still to be tested batch by batch.
    :raises ValueError: what the memory has against them.
    """
    probe = None
    for _, part in parts_of(strategy):
        dataset = part.eval()
        if not len(dataset):
            continue
        # Transforms may draw random numbers: the run goes on as if nobody had looked.
        with frozen_generators(), isolated(strategy.device, 0):
            row = dataset[0]
            # Rows of other kinds are refused with the first batch, by name.
            if not isinstance(row, tuple | list) or len(row) < 2 or not isinstance(row[0], Tensor):
                continue
            if not isinstance(row[1], Tensor | Number):
                continue
            x, y = row[0].unsqueeze(0).to(strategy.device), torch.as_tensor(row[1]).unsqueeze(0).to(strategy.device)
            t = torch.as_tensor(row[-1] if len(row) > 2 else 0).reshape(1).to(strategy.device)
            if tap is not None:
                with eval_mode(strategy.model), torch.no_grad():
                    x = tap.read(strategy.model, x, t)[0].float()
        _check(memory, x, y)
        targets = _known_targets(dataset)
        if targets is None:
            probe = x
        else:
            _check(memory, x.expand(len(targets), *x.shape[1:]), targets.to(strategy.device))
    return probe


def test_labels(memory: Any, probe: Tensor, y: Tensor) -> None:
    """Ask ``memory.check_rows`` about the labels of a batch.

    :param probe: a row that fits ``(1, *shape)``.
    :param y: the labels ``(B,)``; on a GPU, where looking means waiting, they are not looked at.
    """
    if not y.is_cuda and y.ndim == 1 and not y.is_floating_point():
        y = torch.unique(y)
        _check(memory, probe.expand(len(y), *probe.shape[1:]), y)


def _check(memory: Any, x: Tensor, y: Tensor) -> None:
    if len(inspect.signature(memory.check_rows).parameters) > 1:
        memory.check_rows(x, y)
    else:
        memory.check_rows(x)


def _known_targets(dataset: Any) -> Tensor | None:
    """The different labels of a data set that tells them without being read."""
    uniques = getattr(getattr(dataset, "targets", None), "uniques", None)
    if not uniques or not all(isinstance(label, int) for label in uniques):
        return None
    return torch.tensor(sorted(uniques))


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


@contextmanager
def diverged_if_not_finite(strategy: Any, at: str | None) -> Iterator[None]:
    """Tell of diverged training where a memory refuses what the model gave because it is not finite.

    :param at: name of the module whose outputs are written; empty or None: the model's logits at most are.
    """
    try:
        yield
    except ValueError as error:
        name, _, text = str(error).partition(":")
        if "finite" not in text or name not in ({"logits", "x"} if at else {"logits"}):
            raise
        what = "outputs" if name == "logits" else f"outputs of {at!r}"
        raise ValueError(
            f"model: expected finite {what}, got NaN or infinite ones at iteration {strategy.clock.train_iterations}: "
            "training has diverged; a smaller learning rate or clipped gradients may help"
        ) from error
