"""Receipts of writes, each item of which a memory gives up once."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor


class Life:
    """What a memory is from its making, copying or loading to the next loading; compared by identity."""


class Items:
    """Which items of one write a receipt is for, and who gave them up already.

    The record is kept here and not in the memory, where it would grow with the stream. It is shared by receipts cut
    from each other; a copied or pickled receipt begins a new one.

    :param number: of the items in their batch ``(B,)``, or how many there are.
    """

    def __init__(self, number: Tensor | int) -> None:
        self.number = torch.arange(number) if isinstance(number, int) else number
        self._given_up: WeakKeyDictionary[Life, set[int]] = WeakKeyDictionary()

    def __getitem__(self, index: Tensor) -> Items:
        part = Items(self.number[index.cpu()])
        part._given_up = self._given_up
        return part

    def check(self, life: Life) -> None:
        """Raise if the memory gave up one of these before, or is asked to give one up twice.

        :raises ValueError: saying how many.
        """
        numbers = self.number.tolist()
        again = len(numbers) - len(set(numbers) - self._given_up.get(life, set()))
        if again:
            raise ValueError(
                f"written: expected items not taken out before, each once; got {again} of {len(numbers)} again"
            )

    def give_up(self, life: Life) -> None:
        """Note that the memory gave up these items."""
        self._given_up.setdefault(life, set()).update(self.number.tolist())

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.number = state["number"]
        self._given_up = WeakKeyDictionary()


class Written(NamedTuple):
    """Receipt of a write, with which ``unwrite`` of the memory takes the items out again.

    ``slot`` ``(B,)``: posterior that each item went to; ``address`` ``(B, K)`` and ``code`` ``(B, C)``, float64;
    ``residual`` ``(B, C)``: what the memory missed of each code; ``place`` ``(B,)``: that of its class in the table;
    ``items``: which have been taken out.
    """

    slot: Tensor
    address: Tensor
    code: Tensor
    residual: Tensor
    place: Tensor
    items: Items

    def rows(self, index: Tensor) -> Written:
        """The receipt of some of the items.

        :param index: their places in the batch ``(n,)``, or a mask ``(B,)``.
        """
        slot, address, code, residual, place, items = self
        return Written(slot[index], address[index], code[index], residual[index], place[index], items[index])
