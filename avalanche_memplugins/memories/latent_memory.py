"""Rows of the stream as codes of an auto-encoder that the stream trains."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs import StreamCodec
from avalanche_memplugins.memories._saved import check_tensor
from avalanche_memplugins.memories.random_memory import RandomMemory

_ROWS = 256
_LEARNED = "learned."  # before the names of weights in a folder
Batches = Iterable[tuple[Tensor, Tensor, Tensor | int]]


class LatentMemory(RandomMemory):
    r"""A :class:`RandomMemory` whose codec learns: no pretrained auto-encoder is needed.

    At the end of an experience :meth:`consolidate`

    1. trains the codec on its rows and as many rows of replay, decoded by the codec as it was;
    2. decodes all rows held with the old weights and encodes them with the new;
    3. offers the experience's rows to the write policy, as :meth:`write` does.

    Each re-encoding costs old rows a little of their detail. The codec's weights depend on the stream: they count
    in :attr:`nbytes` and are saved.

    :param capacity: rows held at most, >= 1.
    :param codec: a :class:`~avalanche_memplugins.codecs.StreamCodec`; copied.
    :param kwargs: the other arguments of :class:`RandomMemory`, without logits and embedding.
    :raises TypeError: for another kind of codec.
    :raises ValueError: for arguments out of range, or a write policy that needs losses or logits.

    >>> import torch
    >>> from avalanche_memplugins.networks import MLPVAE
    >>> memory = LatentMemory(50, codec=StreamCodec(MLPVAE(code_size=2, hidden=8, size=4), steps=3))
    >>> memory.consolidate([(torch.rand(20, 1, 4, 4), torch.arange(20) % 2, 0)], origin=0)
    >>> memory.sample(3).x.shape
    torch.Size([3, 1, 4, 4])
    """

    codec: StreamCodec

    def __init__(self, capacity: int, *, codec: StreamCodec, **kwargs: Any) -> None:
        if not isinstance(codec, StreamCodec):
            raise TypeError(f"codec: expected a StreamCodec, got {check.show(codec)}")
        for name in ("store_logits", "embedding"):
            if kwargs.get(name):
                raise ValueError(
                    f"{name}: expected none: a LatentMemory keeps codes and labels only, got {check.show(kwargs[name])}"
                )
        super().__init__(capacity, codec=copy.deepcopy(codec), **kwargs)
        if self.needs & {"loss", "logits"}:
            raise ValueError(
                f"write_policy: expected one that needs neither loss nor logits, got {self.write_policy!r}: a "
                "LatentMemory is given the rows of an experience alone"
            )

    @property
    def nbytes(self) -> int:
        """Bytes that hold the stream: those of all slots, of the policies, and of the codec's weights."""
        return super().nbytes + self.codec.nbytes

    def write(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """As :meth:`RandomMemory.write`, by the codec as it is.

        :raises ValueError: if nothing has been consolidated yet, so that the codec knows nothing.
        """
        if check.rows_of(x) and not self.codec.fits:
            raise ValueError(
                "x: expected a codec that has learned, got one that has not; call consolidate with the first experience"
            )
        super().write(x, *args, **kwargs)

    def consolidate(self, batches: Batches, *, origin: int) -> None:
        """Learn from an experience, make the codes anew, and offer its rows to the write policy.

        Nothing changes if an error is raised.

        :param batches: batches ``(x, y, t)``, a fresh pass each time it is iterated.
        :param origin: number of the experience.
        :raises ValueError: as :meth:`write`; or if there are no rows, or no second pass over them.
        """
        check.integer("origin", origin, least=0)
        if not sum(self._check_rows(x, y, t, looks=True) for x, y, t in check.experience(batches)):
            raise ValueError("batches: expected the rows of an experience, got none")
        before = self.get_extra_state()
        try:
            codec = self._fitted(batches)
            codes = [codec.encode(x) for x in self._held()]
        except BaseException:
            self.set_extra_state(before)
            raise
        self.codec.load_state_dict(codec.state_dict())
        for slots, code in zip(self._slots(), codes, strict=True):
            self.store.put("codes", slots, code)
        for x, y, t in batches:
            self.write(x.to(self.device), y, t, origin=origin)

    def _fitted(self, batches: Batches) -> StreamCodec:
        """A copy of the codec, trained."""
        codec = copy.deepcopy(self.codec)
        seed = int(torch.randint(2**31, (1,), generator=self._generator))
        codec.fit(self._mixed(batches), chain((x.to(self.device) for x, *_ in batches), self._held()), seed=seed)
        return codec

    def _mixed(self, batches: Batches) -> Iterator[Tensor]:
        while True:
            rows = 0
            for x, *_ in batches:
                rows += len(x)
                if len(x):
                    x = x.to(self.device)
                    yield torch.cat([x, self.sample(len(x)).x]) if len(self) else x
            if not rows:
                raise ValueError(
                    "batches: expected what can be iterated again and again, got what is used up after once"
                )

    def _slots(self) -> list[Tensor]:
        return list(torch.split(self.slots(), _ROWS)) if len(self) else []

    def _held(self) -> Iterator[Tensor]:
        """All rows held, some at a time, decoded by the codec as it is."""
        return (self.rows(slots).x for slots in self._slots())

    # ---------------------------------------------------------------- state

    def _weights(self) -> dict[str, Tensor]:
        state = self.codec.state_dict()
        return {_LEARNED + name: value for name, value in state.items() if isinstance(value, Tensor)}

    def _own_tensors(self) -> dict[str, Tensor]:
        return super()._own_tensors() | self._weights()

    @torch.no_grad()
    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        weights = self._weights()
        found = {name: value for name, value in tensors.items() if name.startswith(_LEARNED)}
        if found.keys() != weights.keys():
            raise ValueError(f"state: expected the weights {sorted(weights)}, got {sorted(found)}")
        for name, value in weights.items():
            check_tensor(name, found[name], value.shape, value.dtype)
        super()._take({name: value for name, value in tensors.items() if name not in found}, state)
        for name, value in weights.items():
            value.copy_(found[name])

    def _check_sound(self) -> None:
        self.codec._check_sound()
        if self.seen and not self.codec.fits:
            raise ValueError("state: expected a codec that was fitted, as there are rows")
        super()._check_sound()

    def get_extra_state(self) -> dict[str, Any]:
        """As :class:`RandomMemory`'s, and how often the codec was fitted."""
        return {**super().get_extra_state(), "fits": self.codec.fits}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory with another capacity, policy or codec.
        """
        super().set_extra_state(state)
        self.codec.fits = state["fits"]
