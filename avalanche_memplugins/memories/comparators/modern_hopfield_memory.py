"""The modern Hopfield network: the patterns themselves, read by softmax."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Size, Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.codecs import Codec, Raw
from avalanche_memplugins.functional.modern_hopfield import modern_hopfield_read
from avalanche_memplugins.memories._rows import most_within
from avalanche_memplugins.memories.comparators._associative import AssociativeMemory


class ModernHopfieldMemory(AssociativeMemory):
    r"""The first patterns of each episode, as they are or through a codec; a read mixes those most like the cue.

    .. math:: \xi \leftarrow X^\top \mathrm{softmax}(\beta\, s(X, \xi))

    as :func:`~avalanche_memplugins.functional.modern_hopfield.modern_hopfield_read` has it. With a codec of a few bits
    it is "quantised storage", the plain control of every associative memory: keep the patterns in fewer bytes, find
    the nearest.

    :param size: n, numbers a pattern has, >= 1.
    :param beta: :math:`\beta` > 0.
    :param similarity: ``"distance"``, less the squared distance, or ``"dot"``.
    :param steps: updates a read takes, >= 1.
    :param threshold: squared distance over the known entries above which a cue comes back as it is; None: never.
    :param clamp: give known entries back as they are in the cue.
    :param centre: taken off patterns and cues before products, put on again afterwards: 0.5 makes bits symmetric, and
        erased ones (0.5) count nothing.
    :param capacity: patterns kept an episode, the first ones; None: all.
    :param codec: how a pattern is stored; None: as it is.
    :param shape: of a pattern as the codec takes it, n numbers, such as ``(1, 28, 28)``; None: ``(n,)``.
    :raises ValueError: for arguments out of range, naming the argument.

    Source: Ramsauer et al., "Hopfield networks is all you need", 2020.

    >>> memory = ModernHopfieldMemory(3, beta=50.0)
    >>> memory.write(torch.tensor([[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]]))
    >>> memory.read(torch.tensor([[[0.0, 1.0, 0.5]]])).round()
    tensor([[[0., 1., 1.]]])
    """

    def __init__(
        self,
        size: int,
        *,
        beta: float,
        similarity: Literal["distance", "dot"] = "distance",
        steps: int = 1,
        threshold: float | None = None,
        clamp: bool = False,
        centre: float = 0.0,
        capacity: int | None = None,
        codec: Codec | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(size)
        self.beta = check.number("beta", beta, above=0)
        self.threshold = None if threshold is None else check.number("threshold", threshold, least=0)
        self.clamp, self.centre = check.flag("clamp", clamp), check.number("centre", centre)
        self.similarity: Literal["distance", "dot"] = check.choice("similarity", similarity, ("distance", "dot"))
        self.steps = check.positive_integer("steps", steps)
        self.capacity = None if capacity is None else check.positive_integer("capacity", capacity)
        self.codec = _codec(codec)
        self.shape = _row(size, shape)

    @classmethod
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        size: int,
        codec: Codec | None = None,
        shape: tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> ModernHopfieldMemory:
        """The memory that keeps as many patterns as fit.

        :param nbytes: bytes of one episode, a number or as in ``"2MB"``.
        :param size: as for :class:`ModernHopfieldMemory`, like ``codec``, ``shape`` and ``kwargs``.
        :raises ValueError: if no pattern fits.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        check.positive_integer("size", size)
        code, dtype = _codec(codec).spec(_row(size, shape), torch.float32)
        each = code.numel() * dtype.itemsize
        capacity = most_within(nbytes, lambda patterns: patterns * each, "one pattern takes")
        return cls(size, capacity=capacity, codec=codec, shape=shape, **kwargs)

    @property
    def nbytes_fixed(self) -> int:
        """The codec's."""
        return self.codec.nbytes_fixed

    def __len__(self) -> int:
        """Patterns held an episode."""
        return self.held.shape[1] if self.held.ndim > 1 else 0

    @torch.no_grad()
    def write(self, patterns: Tensor) -> None:
        """Add patterns; those beyond the capacity are not kept.

        :param patterns: ``(E, N, n)``.
        :raises ValueError: for another shape, or if the codec cannot store them; nothing changes.
        """
        x = self._patterns("patterns", patterns, writing=True).to(self.device, torch.float32)
        if self.capacity is not None:
            x = x[:, : self.capacity - len(self)]
        if not x.shape[1]:
            return
        rows = x.reshape(-1, *self.shape)
        self.codec.check(rows)
        code = self.codec.encode(rows)
        code = code.reshape(*x.shape[:2], *code.shape[1:])
        self.held = torch.cat([self.held, code], 1) if len(self) else code.clone()

    @torch.no_grad()
    def read(self, cue: Tensor, known: Tensor | None = None, *, steps: int | None = None) -> Tensor:
        """Complete cues.

        :param cue: ``(E, N, n)``.
        :param known: bool like ``cue``: entries that are right; only they are compared. None: all are compared.
        :param steps: other than the memory's, >= 1.
        :returns: like ``cue``, float32.
        :raises ValueError: for other shapes, or if nothing has been written.
        """
        x = self._patterns("cue", cue, known).to(self.device, torch.float32)
        if known is not None:
            known = known.to(self.device)
        read = self.centre + modern_hopfield_read(
            self.patterns() - self.centre,
            x - self.centre,
            beta=self.beta,
            similarity=self.similarity,
            known=known,
            steps=self._steps(steps, self.steps),
            threshold=self.threshold,
        )
        return torch.where(known, x, read) if self.clamp and known is not None else read

    def patterns(self) -> Tensor:
        """What is held, decoded: ``(E, M, n)``, float32."""
        rows = self.codec.decode(self.held.flatten(0, 1), self.shape, torch.float32)
        return rows.reshape(*self.held.shape[:2], self.size)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.size}, beta={self.beta}, similarity={self.similarity!r}, capacity={self.capacity}, {self.codec}"


def _codec(codec: Codec | None) -> Codec:
    if codec is None:
        return Raw()
    check.having("codec", codec, ("check", "encode", "decode", "spec", "nbytes_fixed"), "a codec or None")
    return codec


def _row(size: int, shape: tuple[int, ...] | None) -> Size:
    row = Size((size,) if shape is None else check.integers("shape", shape))
    if row.numel() != size:
        raise ValueError(f"shape: expected {size} numbers, got {tuple(row)}")
    return row
