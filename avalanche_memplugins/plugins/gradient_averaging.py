"""Makes ranks started by torchrun train one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, distributed


class GradientAveragingPlugin(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg, misc]
    r"""Averages gradients over ranks, so that N ranks with batches of B train as one with batches of N B.

    .. math:: g = \frac{1}{N} \sum_{r=1}^{N} g_r

    Avalanche 0.6 gives each rank its shard of the data, but never brings the ranks' models together: without this they
    drift apart. Every rank begins an experience with the first rank's weights, new heads included, and ends each epoch
    with the first rank's buffers. A memory on a rank holds rows of that rank's shard only.

    Avalanche's sampler repeats rows so that all shards have as many. Here the last rows of an experience,
    ``len % N`` of them, are left out instead: no row is seen, or stored, twice. (Where one experience holds
    several tasks, the sampler still repeats rows of each.)

    Put it before plugins that change gradients (GEM, A-GEM). In a single process it does nothing.

    :raises ValueError: in training, if an experience has fewer rows than there are ranks.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[GradientAveragingPlugin()], train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> strategy.clock.train_exp_counter  # in a single process it changes nothing
    1

    Source: as ``torch.nn.parallel.DistributedDataParallel``, which cannot follow heads that grow.
    """

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Leave out what does not fill all shards."""
        rows, ranks = len(strategy.adapted_dataset), _ranks()
        if rows < ranks and ranks > 1:
            raise ValueError(f"experience: expected a row for each of {ranks} ranks at least, got {rows} rows")
        if rows % ranks:
            strategy.adapted_dataset = strategy.adapted_dataset.subset(range(rows - rows % ranks))

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begin with the first rank's weights."""
        if _ranks() > 1:
            with torch.no_grad():
                _together([*strategy.model.parameters(), *strategy.model.buffers()], _broadcast)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Average."""
        if _ranks() == 1:
            return
        parameters = [p for p in strategy.model.parameters() if p.requires_grad]
        # A head may have rows on one rank only; the others then have no gradient for it.
        some = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=strategy.device)
        distributed.all_reduce(some)
        taught = [p for p, ranks in zip(parameters, some.tolist(), strict=True) if ranks]
        for p in taught:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        _together([p.grad for p in taught if p.grad is not None], _mean)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """End with the first rank's buffers, such as running means of batch norm."""
        # Not when the experience ends: plugins listed before this one copy or use the model then.
        if _ranks() > 1:
            _together(strategy.model.buffers(), _broadcast)


def _ranks() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _together(tensors: Iterable[Tensor], communicate: Callable[[Tensor], object]) -> None:
    """Communicate all tensors of a type at once, since each message has its price, and set them to the outcome."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        communicate(flat)
        for tensor, value in zip(group, torch.split(flat, [tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(value.view_as(tensor))


def _broadcast(flat: Tensor) -> None:
    distributed.broadcast(flat, src=0)


def _mean(flat: Tensor) -> None:
    distributed.all_reduce(flat)
    flat /= _ranks()
