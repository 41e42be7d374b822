"""Which slots of one class each a full memory lets go, so that no class goes with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch


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
