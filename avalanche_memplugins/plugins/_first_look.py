"""What is looked at before a model is trained, so that what does not fit is told by name and in time."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins.memories._modes import eval_mode
from avalanche_memplugins.plugins._augment import isolated
from avalanche_memplugins.plugins._experience import has_task_labels, parts_of
from avalanche_memplugins.plugins._latent import LatentTap


def check_batch(strategy: Any) -> None:
    """Raise unless the strategy's batch is ``[x, y]`` or ``[x, y, t]`` with task labels t.

    :raises ValueError: naming ``mbatch``.
    """
    batch = strategy.mbatch
    if isinstance(batch, list | tuple) and all(isinstance(column, Tensor) for column in batch):
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
