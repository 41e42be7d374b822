"""What is looked at before a model is trained, so that what does not fit is told by name and in time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from avalanche.training import AR1, DER, ER_ACE, ER_AML, LearningToPrompt
from torch import Tensor

from avalanche_memplugins.memories._modes import eval_mode
from avalanche_memplugins.plugins._augment import isolated
from avalanche_memplugins.plugins._experience import has_task_labels, parts_of
from avalanche_memplugins.plugins._latent import LatentTap


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


def check_batch(strategy: Any) -> None:
    """Raise unless the strategy's batch is ``[x, y]`` or ``[x, y, t]`` with task labels t.

    :raises ValueError: naming ``mbatch``.
    """
    batch = strategy.mbatch
    if isinstance(batch, list | tuple) and all(isinstance(column, Tensor) for column in batch):
        if len(batch) in (2, 3) and len(batch[0]) != len(batch[1]):
            raise ValueError(f"mbatch: expected a label for each row of x, got {_kind(batch)}")
        if len(batch) == 2:
            return
        if len(batch) == 3 and batch[2].ndim == 1 and not batch[2].is_floating_point():
            if has_task_labels(strategy):
                return
            raise ValueError(
                "mbatch: expected [x, y], or [x, y, t] with task labels t, got a third column that holds none, since "
                "neither the experience has task_labels nor its data set targets_task_labels; leave the column out, or "
                "name it so"
            )
    raise ValueError(f"mbatch: expected a list [x, y] or [x, y, t] with integer task labels t (B,), got {_kind(batch)}")


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
        with isolated(strategy.device, 0):
            x, y, *more = dataset[0]
            if not isinstance(x, Tensor):
                continue
            x = x.unsqueeze(0).to(strategy.device)
            t = torch.as_tensor(more[-1] if more else 0).reshape(1).to(strategy.device)
            if tap is not None:
                with eval_mode(strategy.model), torch.no_grad():
                    x = tap.read(strategy.model, x, t)[0].float()
        _check(memory, x, torch.as_tensor(y).unsqueeze(0).to(strategy.device))
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


@contextmanager
def told_of_more_rows(at: str | None, rows: int, replayed: int) -> Iterator[None]:
    """Tell what is the matter if a criterion fails because of replayed rows.

    Outputs of a layer have no inputs; and a criterion may hold something with one entry for each row of the stream,
    such as weights.

    :param at: name of the layer; None: inputs are replayed.
    :param rows: in front of the replayed ones.
    :param replayed: rows replayed.
    """
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if at is None:
            numbers = set(re.findall(r"\d+", str(error)))
            if str(rows) in numbers and {str(rows + replayed), str(replayed)} & numbers:
                raise RuntimeError(
                    "criterion: expected a loss of as many rows as batch and output have, but it failed when "
                    f"{replayed} replayed rows joined the {rows} of the stream: {error}"
                ) from error
            raise
        raise RuntimeError(
            f"criterion: it failed on a batch with rows of latent replay at {at!r}, which have labels and outputs, but "
            f"no inputs x: {error}"
        ) from error


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
