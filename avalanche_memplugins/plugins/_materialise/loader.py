"""Feed batches out of tensors by index, in the order and the grouping that Avalanche's loaders use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from avalanche_memplugins._augment import Augment, augmented

from .cache import Rows


@dataclass(frozen=True)
class Group:
    """A data set and how many of its samples go into each batch."""

    rows: Rows
    batch_size: int

    def batches(self, drop_last: bool) -> int:
        """Count the batches that one pass over the group gives."""
        size = len(self.rows.order)
        return size // self.batch_size if drop_last else -(-size // self.batch_size)


class OwnOrder:
    """Draws the order of each pass from a generator; None keeps the samples in order."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def begin(self) -> None:
        """A loader starts: nothing is drawn."""

    def draw(self, size: int) -> Tensor | None:
        """The order of a pass ``(size,)``, on the CPU."""
        return None if self.generator is None else torch.randperm(size, generator=self.generator)

    def end(self, size: int) -> None:
        """A pass has ended: nothing is drawn."""


class TorchOrder(OwnOrder):
    """Draws what torch's ``DataLoader`` and ``RandomSampler`` draw, at the same time and from the same generators.

    :param generator: that the ``DataLoader`` has; None: torch's global one.
    :param shuffle: whether the samples are shuffled.
    """

    def __init__(self, generator: torch.Generator | None, shuffle: bool) -> None:
        super().__init__(generator)
        self.shuffle = shuffle

    def begin(self) -> None:
        """The seed for worker processes, which a ``DataLoader`` draws even without them."""
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)

    def draw(self, size: int) -> Tensor | None:
        """As ``RandomSampler``: from a generator seeded by the global one, or from the one that was given."""
        if not self.shuffle:
            return None
        generator = self.generator
        if generator is None:
            seed = int(torch.empty((), dtype=torch.int64).random_().item())
            generator = torch.Generator().manual_seed(seed)
        return torch.randperm(size, generator=generator)

    def end(self, size: int) -> None:
        """``RandomSampler`` draws a further order for samples beyond the first pass, of which there are none."""
        if self.shuffle and self.generator is not None:
            torch.randperm(size, generator=self.generator)


class Given:
    """A batch that a loader has given, to know it again, and room behind its x for rows that follow.

    :param batch: ``[x, y, ...]``.
    :param whole: x, and behind it as many rows without content; None: there are none.
    :param sound: x is finite, and all else integers from 0 to 2**31 - 1.
    :param first: of its epoch.
    """

    def __init__(self, batch: list[Tensor], whole: Tensor | None, sound: bool, first: bool) -> None:
        self._batch, self._sound = tuple(batch), sound  # the list may be changed
        self._versions = [column._version for column in batch] if sound else []
        self.whole, self.first = whole, first

    def is_x(self, x: object) -> bool:
        """Whether x is this batch's."""
        return x is self._batch[0]

    def is_batch(self, batch: object) -> bool:
        """Whether another holds the very same tensors."""
        return isinstance(batch, list) and [*map(id, batch)] == [*map(id, self._batch)]

    @property
    def is_sound(self) -> bool:
        """Whether nobody has changed what was known of it."""
        return self._sound and [column._version for column in self._batch] == self._versions


class TensorLoader:
    """Iterates over batches ``[x, y, ...]`` of materialised groups.

    With one group this is a plain loader. With several, each batch holds rows of all: an epoch ends with
    the group ``main``, the others start again when they run out (``oversample``) or drop out of the
    batches.

    :param groups: at least one.
    :param order: of each pass over a group.
    :param drop_last: leave out an incomplete last batch.
    :param main: the group whose end is the epoch's end.
    :param oversample: start groups that run out again.
    :param room: leave room behind the x of each batch, if there is one group, and tell of the batch in :attr:`given`.
    :param augment: applied to ``x`` of each batch.
    :param augment_generator: where torch's random numbers in ``augment`` come from; needed with
        ``augment``.
    """

    def __init__(
        self,
        groups: list[Group],
        order: OwnOrder,
        *,
        drop_last: bool = False,
        main: int = 0,
        oversample: bool = False,
        room: bool = False,
        augment: Augment | None = None,
        augment_generator: torch.Generator | None = None,
    ) -> None:
        self.groups = groups
        self.order = order
        self.drop_last = drop_last
        self.main = main
        self.oversample = oversample
        self.room = room and len(groups) == 1 and augment is None
        self.given: Given | None = None
        self.augment = augment
        self.augment_generator = augment_generator
        self.batch_size = sum(group.batch_size for group in groups)
        self.device = groups[0].rows.columns[0].device

    def __len__(self) -> int:
        return self.groups[self.main].batches(self.drop_last)

    def __iter__(self) -> Iterator[list[Tensor]]:
        self.order.begin()
        batches = self._pass(self.groups[0]) if len(self.groups) == 1 else self._side_by_side()
        if self.augment is None or self.augment_generator is None:
            yield from batches
        else:
            for x, *rest in batches:
                yield [augmented(self.augment, x, self.augment_generator), *rest]

    def _pass(self, group: Group) -> Iterator[list[Tensor]]:
        """Go through one group once."""
        (x, *others), index, attributes = group.rows.columns, group.rows.order, group.rows.attributes
        order = self.order.draw(len(index))
        if order is not None:
            index = index[order]
            attributes = [values[order] for values in attributes]
        length = group.batches(self.drop_last)
        index = _to(index, x.device)
        # All but x are small: one gather an epoch, and batches are cut from it.
        columns = [other.index_select(0, index) for other in others]
        columns += [_to(values, x.device) for values in attributes]
        cuts = [torch.split(column, group.batch_size) for column in (index, *columns)]
        sound = self.room and group.rows.finite and all(map(_are_labels, columns))
        for number, (picked, *rest) in enumerate(zip(*cuts, strict=True)):
            if number == length:
                break
            if not self.room:
                yield [x.index_select(0, picked), *rest]
                continue
            rows = picked.shape[0]
            whole = x.new_empty((2 * rows, *x.shape[1:]))
            batch = [torch.index_select(x, 0, picked, out=whole[:rows]), *rest]
            self.given = Given(batch, whole, sound, first=not number)
            yield batch
        self.given = None
        self.order.end(len(index))

    def stored(self) -> tuple[Tensor, Tensor, list[Tensor], bool] | None:
        """All rows of a loader of one group that keeps their order, without making them.

        :returns: a tensor, the rows ``(n,)`` of it that are x, on its device, the other columns ``(n, ...)``, and
            whether all is sound as in :class:`Given`; None where rows cannot be had so.
        """
        if len(self.groups) > 1 or self.augment is not None or self.drop_last:
            return None
        rows = self.groups[0].rows
        index = _to(rows.order, rows.columns[0].device)
        columns = [other.index_select(0, index) for other in rows.columns[1:]]
        columns += [_to(values, index.device) for values in rows.attributes]
        return rows.columns[0], index, columns, rows.finite and all(map(_are_labels, columns))

    def _side_by_side(self) -> Iterator[list[Tensor]]:
        passes: list[Iterator[list[Tensor]] | None] = [self._pass(group) for group in self.groups]
        order = [self.main, *(n for n in range(len(passes)) if n != self.main)]
        while True:
            parts: dict[int, list[Tensor]] = {}
            for number in order:
                current = passes[number]
                if current is None or not self.groups[number].batches(self.drop_last):
                    if number == self.main:
                        return
                    continue
                part = next(current, None)
                if part is None and number == self.main:
                    return
                if part is None and self.oversample:
                    current = passes[number] = self._pass(self.groups[number])
                    part = next(current)
                if part is None:
                    passes[number] = None
                else:
                    parts[number] = part
            yield [torch.cat(column) for column in zip(*(parts[n] for n in sorted(parts)), strict=True)]


def _are_labels(column: Tensor) -> bool:
    if column.is_floating_point() or column.dtype == torch.bool or not column.numel() or column.device.type != "cpu":
        return False
    low, high = (int(end) for end in column.long().aminmax())
    return low >= 0 and high < 2**31


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return tensor
    # Pinned, so that the copy does not wait for the device; torch frees it only once the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)
