"""The experience that a strategy trains on: its number, its data, how they are normalised, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import torch
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader
from avalanche.benchmarks.utils.transforms import TupleTransform
from avalanche.distributed import DistributedHelper
from avalanche.models import avalanche_forward
from avalanche.training import JointTraining
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import transforms as v1
from torchvision.transforms import v2

from avalanche_memplugins._batch import Keys, on_device
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins._random import frozen_generators, isolated
from avalanche_memplugins._structure import first_leaf
from avalanche_memplugins.plugins._fast import fast_path_of
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._materialise.known import flatten
from avalanche_memplugins.plugins._materialise.loader import TensorLoader
from avalanche_memplugins.plugins._materialise.resolve import Source, Unsupported, resolve, values_in
from avalanche_memplugins.plugins.tensor_loader import TensorLoaderPlugin

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def number_of(strategy: Any) -> int:
    """Number of the experience that the rows come from; of its origin for an online stream that tells it."""
    if getattr(strategy.experience, "access_task_boundaries", False):
        return int(strategy.experience.origin_experience.current_experience)
    return int(strategy.clock.train_exp_counter)


def parts_of(strategy: Any) -> list[tuple[int, Any]]:
    """Number and data set of each experience that is being trained on: one, or all at once under joint training."""
    if isinstance(strategy, JointTraining) and strategy._experiences:
        return [(number, experience.dataset) for number, experience in enumerate(strategy._experiences)]
    return [(number_of(strategy), strategy.experience.dataset)]


def comes_in_pieces(strategy: Any) -> bool:
    """Whether what is trained on is a piece of a stream rather than a whole: of an online stream, or one batch once."""
    # Pieces of an online stream have this attribute, whether or not they tell where it changes.
    if hasattr(strategy.experience, "access_task_boundaries"):
        return True
    rows = sum(len(dataset) for _, dataset in parts_of(strategy))
    return bool(rows <= strategy.train_mb_size and strategy.train_epochs == 1)


def has_task_labels(strategy: Any) -> bool:
    """Whether the last column of a batch ``[x, y, t]`` holds task labels."""
    experience = strategy.experience
    return hasattr(experience, "task_labels") or hasattr(getattr(experience, "dataset", None), "targets_task_labels")


def known_targets(dataset: Any) -> Tensor | None:
    """The different labels of a data set that tells them without being read."""
    targets = getattr(dataset, "targets", None)
    values = values_in(getattr(targets, "data", None))  # Avalanche asks for each value through all its subsets
    if values is not None:
        labels: Tensor = torch.unique(values)
        return labels
    uniques = getattr(targets, "uniques", None)
    if not uniques or not all(isinstance(label, Integral) for label in uniques):
        return None
    return torch.tensor(sorted(map(int, uniques)))


def classes_of(strategy: Any) -> set[int]:
    """Classes of what is being trained on; empty if its data and the experience do not tell them."""
    found: set[int] = set()
    for _, dataset in parts_of(strategy):
        targets = known_targets(dataset)
        classes = (
            getattr(strategy.experience, "classes_in_this_experience", None) if targets is None else targets.tolist()
        )
        if not classes:
            return set()
        found.update(map(int, classes))
    return found


def collate_dicts_as_told(strategy: Any) -> None:
    """Let the training loader put together rows that are dicts as their data set says.

    Avalanche's own loader, of an experience without task labels, takes torch's way instead, which fails for rows of
    different lengths; under Avalanche's ``ReplayPlugin`` it is the data set's.
    """
    loader = strategy.dataloader
    told = getattr(getattr(loader, "dataset", None), "collate_fn", None)
    if getattr(loader, "collate_fn", None) is not default_collate or told in (None, default_collate):
        return
    with frozen_generators(), isolated(strategy.device, 0):
        if len(loader.dataset) and isinstance(loader.dataset[0], Mapping):
            loader.collate_fn = told


class Rows(NamedTuple):
    """``x`` ``(B, *shape)``, ``y`` and ``t`` ``(B,)``, and the model's ``output`` for them if it has run."""

    x: Tensor
    y: Tensor
    t: Tensor
    output: Any = None


class Batches:
    """Batches of a data set under its evaluation transforms, a fresh pass each time.

    Read from tensors, where the strategy's fast path or a
    :class:`~avalanche_memplugins.plugins.TensorLoaderPlugin` has them. Each of
    several ranks gets its own rows, every row on one rank: Avalanche's sampler would repeat some.

    :param strategy: inside an experience.
    :param dataset: the experience's.
    :param batch_size: rows of a batch.
    :param shuffle: where the order of each pass comes from; None keeps the data set's.
    :param keys: where a batch that is a dict has y and t.
    """

    def __init__(
        self,
        strategy: Any,
        dataset: Any,
        batch_size: int,
        shuffle: torch.Generator | None,
        keys: Keys | None = None,
    ) -> None:
        self.keys = keys
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
        fast = fast_path_of(strategy)
        if fast is not None:
            loader = fast.serve(strategy, loader, "memory's")
        for plugin in strategy.plugins:
            if isinstance(plugin, TensorLoaderPlugin):
                loader = plugin.serve(loader, self.device, generator=generator)
        self._loader = loader

    def stored(self) -> tuple[Tensor, Tensor, list[Tensor], bool] | None:
        """All rows as they lie in a tensor, if they do; see :meth:`TensorLoader.stored`."""
        return self._loader.stored() if isinstance(self._loader, TensorLoader) else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in self._loader:
            columns = batch if self.keys is None else self.keys.columns(batch)
            x, y, *more = (on_device(column, self.device) for column in columns)
            some = first_leaf(y)
            yield x, y, more[-1] if more else some.new_zeros(len(some), dtype=torch.int64)


class HeldBatches:
    """Batches ``(x, y, t)`` of rows held in tensors, in another order each pass.

    :param rows: all of them.
    :param batch_size: rows of a batch.
    :param shuffle: where the order comes from.
    """

    def __init__(self, rows: list[Rows], batch_size: int, shuffle: torch.Generator) -> None:
        self._columns = [torch.cat([batch[i] for batch in rows]) for i in range(3)]
        self._batch_size, self._shuffle = batch_size, shuffle

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        x, y, t = self._columns
        order = torch.randperm(len(y), generator=self._shuffle).to(x.device)
        for index in torch.split(order, self._batch_size):
            yield x[index], y[index], t[index]


def through_the_model(strategy: Any, batches: Batches, tap: LatentTap | None) -> Iterator[Rows]:
    """The batches with what the model makes of them, in eval mode and without gradient.

    :param tap: at the module whose outputs are to take the place of x; None leaves x.
    """
    model = strategy.model
    if batches.keys is not None:
        # What of a dict the model takes is the strategy's business.
        found = strategy.mbatch
        try:
            for x, y, t in batches:
                strategy.mbatch = batches.keys.batch([x, y, t])
                with eval_mode(model), torch.no_grad():
                    output = strategy.forward()
                yield Rows(x, y, t, output)
        finally:
            strategy.mbatch = found
        return
    for x, y, t in batches:
        with eval_mode(model), torch.no_grad():
            if tap is None:
                output = avalanche_forward(model, x, t)
            else:
                x, output = tap.read(model, x, t)
                x = x.float()
        yield Rows(x, y, t, output)


def normalisation_of(dataset: Any) -> Statistics | None:
    """Mean and std of the ``Normalize`` that the rows of a data set go through, those of several in a row as one.

    :param dataset: an Avalanche data set, in the transform group that it is read in.
    :returns: None if there is none that can be seen, or rows go through different ones.
    """
    if not isinstance(dataset, AvalancheDataset) or not len(dataset):
        return None
    try:
        found = {_of_source(part.source) for part in resolve(dataset)}
    except Unsupported:
        return None
    return found.pop() if len(found) == 1 else None


def _of_source(source: Source) -> Statistics | None:
    steps = flatten(getattr(source.data, "transform", None))
    for step in source.chain:
        steps += flatten(step.transforms[0] if isinstance(step, TupleTransform) else step)
    found = _statistics(source.data)
    for step in steps:
        if isinstance(step, v1.Normalize | v2.Normalize):
            found = _joined(found, _statistics(step))
    return found


def _statistics(owner: object) -> Statistics | None:
    """Of a ``Normalize``, or of a data set that normalises by itself and says so."""
    mean, std = getattr(owner, "mean", None), getattr(owner, "std", None)
    if callable(mean) or callable(std) or mean is None or std is None:
        return None
    try:
        means, stds = (torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (mean, std))
    except (TypeError, ValueError, RuntimeError):
        return None
    return tuple(means.tolist()), tuple(stds.tolist())


def _joined(first: Statistics | None, second: Statistics | None) -> Statistics | None:
    """As one: ``((p - m) / s - m2) / s2`` is ``(p - (m + m2 s)) / (s s2)``."""
    if first is None or second is None:
        return first or second
    one = [torch.tensor(values, dtype=torch.float64) for values in first]
    two = [torch.tensor(values, dtype=torch.float64) for values in second]
    return tuple((one[0] + two[0] * one[1]).tolist()), tuple((one[1] * two[1]).tolist())
