"""What a full energy memory takes in and lets go: rows of all classes, equal shares, no class lost that can be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor, Tensor]
"""Rows, their classes and their task labels."""
Group = tuple[Tensor, int, int]
"""Indices ``(n,)`` of rows of a batch that go into one slot, and the task label and origin that they share."""


def slot_by_slot(y: Tensor, t: Tensor | int, origin: Tensor | int, slot_size: int, *, by_class: bool) -> list[Group]:
    """Rows of a batch, as they go into slots together.

    :param y: classes ``(B,)``.
    :param t: task labels ``(B,)``, or one for all.
    :param origin: experiences ``(B,)``, or one for all.
    :param slot_size: most rows of a slot.
    :param by_class: no two classes into one slot.
    """
    columns = [torch.as_tensor(value).cpu().expand(len(y)) for value in (t, origin)]
    if by_class:
        columns.append(y.cpu())
    keys, places = torch.unique(torch.stack(columns, 1), dim=0, return_inverse=True)
    # Rows in the order they came, so that a balanced batch gives balanced slots; groups in turn, so that of slots
    # of one class each the first few are of all classes.
    groups = list(dict.fromkeys(places.tolist()))
    parts = [(places == group).nonzero()[:, 0].split(slot_size) for group in groups]
    return [
        (rows.to(y.device), int(keys[group, 0]), int(keys[group, 1]))
        for turn in zip_longest(*parts)
        for group, rows in zip(groups, turn, strict=True)
        if rows is not None
    ]


def balanced_draw(batches: Iterable[Rows], wanted: int, generator: torch.Generator) -> Rows | None:
    """At most so many rows of an experience, the same number of each class if it has them; None if there are none.

    :param batches: ``(x, y, t)`` with one task label a row, gone through once.
    :param wanted: rows, >= 1.
    :param generator: draws; on the CPU.
    """
    kept: dict[int, tuple[Tensor, Rows]] = {}
    for x, y, t in batches:
        keys = torch.rand(len(y), generator=generator)
        for label in torch.unique(y).tolist():
            of = y == label
            part = (keys[of.cpu()], (x[of], y[of], t[of]))
            if label in kept:
                part = torch.cat([kept[label][0], part[0]]), _joined([kept[label][1], part[1]])
            # The rows with the smallest of uniform keys are a uniform draw, whatever is still to come.
            first = part[0].argsort()[:wanted]
            kept[label] = part[0][first], _chosen(part[1], first)
    if not kept:
        return None
    rounds = torch.cat([torch.arange(len(keys)) for keys, _ in kept.values()])
    order = rounds.argsort(stable=True)  # classes in turn
    return _chosen(_joined([rows for _, rows in kept.values()]), order[:wanted])


def equal_shares(origins: Tensor, origin: int, slots: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Slots to keep when every experience is cut to an equal share, and how many this one gets.

    :param origins: experience of each slot held, ``(filled,)`` on the CPU.
    :param origin: number of the experience that is to come in.
    :param slots: most slots held.
    :param generator: draws which slots of an experience stay; on the CPU.
    """
    known = [number for number in torch.unique(origins).tolist() if number != origin]
    share, left = divmod(slots, len(known) + 1)
    if not share:
        # More experiences than slots: this one gets a slot, and a draw of the others keep theirs.
        share, left = 1, 0
        drawn = torch.randperm(len(known), generator=generator)[: slots - 1]
        known = [known[i] for i in drawn.tolist()]
    kept = []
    for rank, number in enumerate(known):
        mine = (origins == number).nonzero()[:, 0]
        order = torch.randperm(len(mine), generator=generator)
        kept.append(mine[order[: share + (rank < left)]].sort().values)
    mine = (origins == origin).nonzero()[:, 0]
    staying = torch.cat([*kept, mine]).sort().values
    return staying, min(slots - len(staying), max(0, share + (len(known) < left) - len(mine)))


def spare_classes(victim: int, classes: Sequence[int], generator: torch.Generator) -> int:
    """The slot that goes: the one drawn, unless it is the last of its class while another class has two or more.

    Then one of the class with the most slots goes, any with the same chance. With nothing to spare, or no need to, the
    generator is left alone.

    :param victim: index of the slot drawn; from the end if negative.
    :param classes: of all slots, the one that is to come in among them.
    :param generator: draws in place of ``victim``.
    """
    counts = Counter(classes)
    most = max(counts.values())
    if counts[classes[victim]] > 1 or most == 1:
        return victim
    return _any([slot for slot, label in enumerate(classes) if counts[label] == most], generator)


def with_lost_classes(
    staying: Sequence[int], classes: Sequence[int], origins: Sequence[int], room: int, generator: torch.Generator
) -> list[int]:
    """The slots that stay, with one of every class that none of them has, as far as there is room.

    A slot that comes back takes free room, or else the place of one whose class has two or more: if it can be of the
    same experience, so that shares stay as they are, and of the class with the most among these. With more classes than
    room those that have none are drawn.

    :param staying: indices of slots, no more than ``room``.
    :param classes: of all slots, those that are to go and to come among them.
    :param origins: experiences of all slots.
    :param room: most slots held.
    :param generator: draws; left alone if no class is lost.
    :returns: indices, ascending.
    """
    kept = list(staying)
    counts = Counter(classes[slot] for slot in kept)
    lost = [label for label in dict.fromkeys(classes) if label not in counts]
    order = torch.randperm(len(lost), generator=generator).tolist() if lost else []
    for label in (lost[i] for i in order):
        back = [slot for slot, other in enumerate(classes) if other == label]
        if len(kept) < room:
            kept.append(_any(back, generator))
        else:
            spare = [slot for slot in kept if counts[classes[slot]] > 1]
            if not spare:
                break
            giving = {origins[slot] for slot in spare}
            kept.append(_any([slot for slot in back if origins[slot] in giving] or back, generator))
            spare = [slot for slot in spare if origins[slot] == origins[kept[-1]]] or spare
            most = max(counts[classes[slot]] for slot in spare)
            gone = _any([slot for slot in spare if counts[classes[slot]] == most], generator)
            kept.remove(gone)
            counts[classes[gone]] -= 1
        counts[label] += 1
    return sorted(kept)


def _any(slots: Sequence[int], generator: torch.Generator) -> int:
    return slots[int(torch.randint(len(slots), (), generator=generator))]


def _joined(parts: Sequence[Rows]) -> Rows:
    x, y, t = (torch.cat(column) for column in zip(*parts, strict=True))
    return x, y, t


def _chosen(rows: Rows, index: Tensor) -> Rows:
    x, y, t = (column[index.to(column.device)] for column in rows)
    return x, y, t
