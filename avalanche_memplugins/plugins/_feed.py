"""An experience's rows for a memory that is written when the experience has ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader
from avalanche.distributed import DistributedHelper
from avalanche.models import avalanche_forward
from torch import Tensor

from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._outputs import main_output
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin


class Rows(NamedTuple):
    """``x`` ``(B, *shape)``, ``y`` and ``t`` ``(B,)``, ``logits`` ``(B, classes)`` if wanted."""

    x: Tensor
    y: Tensor
    t: Tensor
    logits: Tensor | None = None


class Batches:
    """Batches ``(x, y, t)`` of a data set under its evaluation transforms, a fresh pass each time.

    Read from a :class:`~avalanche_memplugins.plugins.TensorLoaderPlugin`'s tensors, where the strategy has one. Each of
    several ranks gets its own rows, every row on one rank: Avalanche's sampler would repeat some.

    :param strategy: inside an experience.
    :param dataset: the experience's.
    :param batch_size: rows of a batch.
    :param shuffle: where the order of each pass comes from; None keeps the data set's.
    """

    def __init__(self, strategy: Any, dataset: Any, batch_size: int, shuffle: torch.Generator | None) -> None:
        self.device: torch.device = strategy.device
        # Every pass of a torch DataLoader draws a seed: from the global generator, unless it has its own.
        generator = torch.Generator() if shuffle is None else shuffle
        dataset = dataset.eval()
        if DistributedHelper.is_distributed:
            dataset = dataset.subset(range(DistributedHelper.rank, len(dataset), DistributedHelper.world_size))
        loader: Any = SingleDatasetDataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle is not None,
            generator=generator,
            distributed_sampling=False,
        )
        for plugin in strategy.plugins:
            if isinstance(plugin, TensorLoaderPlugin):
                loader = plugin.serve(loader, self.device, generator=generator)
        self._loader = loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in self._loader:
            x, y, *more = (column.to(self.device) for column in batch)
            yield x, y, more[-1] if more else y.new_zeros(len(y), dtype=torch.int64)


class HeldBatches:
    """Batches ``(x, y, t)`` of rows held in tensors, in another order each pass.

    :param rows: all of them.
    :param batch_size: rows of a batch.
    :param shuffle: where the order comes from.
    """

    def __init__(self, rows: list[Rows], batch_size: int, shuffle: torch.Generator) -> None:
        self._columns = [torch.cat([batch[i] for batch in rows]) for i in range(3)]  # type: ignore[misc]
        self._batch_size, self._shuffle = batch_size, shuffle

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        x, y, t = self._columns
        order = torch.randperm(len(y), generator=self._shuffle).to(x.device)
        for index in torch.split(order, self._batch_size):
            yield x[index], y[index], t[index]


def through_the_model(strategy: Any, batches: Batches, tap: LatentTap | None, *, logits: bool) -> Iterator[Rows]:
    """What the model makes of the batches, in eval mode and without gradient.

    :param tap: at the module whose outputs are to take the place of x; None leaves x.
    :param logits: whether the outputs are wanted, too.
    """
    model = strategy.model
    for x, y, t in batches:
        with eval_mode(model), torch.no_grad():
            if tap is None:
                output = avalanche_forward(model, x, t)
            else:
                x, output = tap.read(model, x, t)
        yield Rows(x.float() if tap is not None else x, y, t, main_output(output).float() if logits else None)
