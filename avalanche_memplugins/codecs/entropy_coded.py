"""Images of a few bits a pixel, as short as their regularities allow."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._learned import Learned
from avalanche_memplugins.codecs.bits import Bits
from avalanche_memplugins.codecs.downsampled import Downsampled
from avalanche_memplugins.functional.context_model import (
    code_length,
    context_count,
    count_contexts,
    decode_images,
    encode_images,
    fit_probabilities,
    from_rounded_probabilities,
    round_probabilities,
)
from avalanche_memplugins.functional.quantise import pack_bits, packed_size, unpack_bits
from avalanche_memplugins.pretrained.context_tables import TABLES, context_table

_OWN_BITS = 5  # of an entry of an own table; more make rows by 0.05 bytes shorter at most


class EntropyCoded(nn.Module):
    r"""Stores images of a few bits a pixel by a range coder, which gives likely pixels less than a bit each.

    .. math:: L(x) = \Big\lceil \tfrac{1}{8} \sum_i -\log_2 p(v_i \mid c_i) \Big\rceil \text{ bytes at most}

    :math:`v_i` are the bits of the pixels, :math:`c_i` the pixels before and above each, see
    :func:`~avalanche_memplugins.functional.pixel_contexts`. What ``inner`` stores comes back exactly. A 1-bit digit
    of 28 x 28 takes 15 bytes instead of 98, a 2-bit one of 14 x 14 14 in the place of 49.

    The probabilities come from a table. Some are shipped: they know Omniglot's strokes and photographs, nothing of a
    stream. From some hundred rows on a table of the stream's own (:meth:`fit`) is better. It takes 5 bits an entry,
    480 to 640 bytes, which count in :attr:`nbytes`. A :class:`~avalanche_memplugins.memories.CodedMemory` refits by
    itself as it fills.

    :param inner: ``Bits(b)``, or ``Downsampled(size, Bits(b))``.
    :param table: ``"own"``: :meth:`fit` chooses among the shipped tables and one of the stream's own, whichever makes
        rows and table shortest together, and before that ``"mixed"``; ``"omniglot"``, ``"grey"`` (photographs in grey)
        or ``"mixed"`` (the counts of both): that one, always; or probabilities of a 1, integers ``(contexts,)`` from 1
        to 65535.
    :raises TypeError: for another codec.
    :raises ValueError: for an unknown table, or one of another size; when rows are written, if they are no images
        ``(B, C, H, W)`` with pixels from 0 to 1.

    Source: the contexts are JBIG's, ITU-T T.82, 1993.

    >>> x = torch.zeros(4, 1, 28, 28)
    >>> x[:, :, 8:20, 13:15] = 1
    >>> codec = EntropyCoded(Bits(1))
    >>> buffer, lengths = codec.encode_rows(x)
    >>> bool((lengths < 12).all())  # Bits(1) takes 98
    True
    >>> starts = lengths.cumsum(0) - lengths
    >>> torch.equal(codec.decode_rows(buffer, starts, lengths, x.shape[1:], x.dtype), x)
    True
    """

    variable: Literal[True] = True
    own: Tensor  # packed levels of the own table
    chosen: Tensor  # number of the shipped table that fit chose

    def __init__(self, inner: Bits | Downsampled, table: str | Tensor = "own") -> None:
        super().__init__()
        found = inner.codec if isinstance(inner, Downsampled) else inner
        if not isinstance(found, Bits):
            raise TypeError(f"inner: expected Bits(...) or Downsampled(size, Bits(...)), got {check.show(inner)}")
        self.inner = inner
        self.codec = found  # that of pixels: a plugin looks for its mean and std
        self._learned = Learned(self, "own", "chosen")
        contexts = context_count(self.bits)
        if isinstance(table, Tensor):
            check.like("table", check.tensor("table", table), (contexts,), "one probability a context")
            if table.is_floating_point() or not 1 <= int(table.min()) <= int(table.max()) < 1 << 16:
                raise ValueError(f"table: expected integers from 1 to 65535, got {check.show(table)}")
            self._given: Tensor | None = table.to("cpu", torch.int32, copy=True)
            self.table = "given"
        else:
            self._given = None
            self.table = check.choice("table", table, ("own", *TABLES))
        self._ones: Tensor | None = None

    @property
    def bits(self) -> int:
        """Bits of a pixel."""
        return self.codec.bits

    @property
    def learns(self) -> bool:
        """Whether :meth:`fit` has an effect."""
        return self.table == "own"

    @property
    def nbytes(self) -> int:
        """Bytes of the own table, if there is one, and of the choice among the shipped ones."""
        return self._learned.nbytes(self)

    @property
    def nbytes_fixed(self) -> int:
        """Bytes of the table in use, 2 an entry, and of the inner codec."""
        return 2 * context_count(self.bits) + self.inner.nbytes_fixed

    def check(self, x: Tensor) -> None:
        """Raise unless the rows are images that the inner codec can store."""
        self._check_images(x)
        self.inner.check(x)

    def encode_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes of all rows, uint8 ``(N,)`` on the CPU; how many each takes, int64 ``(B,)``."""
        self._check_images(x)
        code = self.inner.encode(x).cpu()
        return self._encode_levels(self._to_levels(code, x.shape[1:]))

    def decode_rows(self, buffer: Tensor, starts: Tensor, lengths: Tensor, shape: Size, dtype: torch.dtype) -> Tensor:
        """Rows ``(B, *shape)``, as the inner codec gives them back."""
        check.coding(shape, dtype)
        levels = self._decode_levels(buffer, starts, lengths, shape)
        pixels = self.codec.from_levels(levels, dtype)
        return self.inner.enlarge(pixels, shape, dtype) if isinstance(self.inner, Downsampled) else pixels

    def fit(self, x: Tensor) -> None:
        """Choose the table that suits these rows; rows coded before are then to be coded anew, see :meth:`refitted`.

        :param x: rows ``(B, C, H, W)`` of the stream. The cost of an own table is shared among as many.
        """
        self._check_images(x)
        self._fit_levels(self._to_levels(self.inner.encode(x).cpu(), x.shape[1:]))

    def refitted(
        self, buffer: Tensor, starts: Tensor, lengths: Tensor, shape: Size
    ) -> tuple[EntropyCoded, Tensor, Tensor]:
        """A codec fitted to stored rows, and these rows coded by it, without loss.

        :param buffer: as for :meth:`decode_rows`, like ``starts``, ``lengths`` and ``shape``.
        """
        levels = self._decode_levels(buffer, starts, lengths, shape)
        codec = copy.deepcopy(self)
        codec._fit_levels(levels)
        return codec, *codec._encode_levels(levels)

    def _fit_levels(self, levels: Tensor) -> None:
        if not self.learns:
            return
        counts = count_contexts(levels, self.bits)
        costs = [code_length(counts, context_table(name, self.bits)) for name in TABLES]
        best = min(range(len(TABLES)), key=costs.__getitem__)
        prior = context_table(list(TABLES)[best], self.bits)
        own = round_probabilities(fit_probabilities(counts, prior), _OWN_BITS)
        cost = code_length(counts, from_rounded_probabilities(own, _OWN_BITS)) + len(own) * _OWN_BITS
        self.chosen = torch.tensor([best], dtype=torch.uint8)
        self.own = pack_bits(own, _OWN_BITS) if cost < costs[best] else torch.zeros(0, dtype=torch.uint8)
        self._ones = None

    def _probabilities(self) -> Tensor:
        if self._ones is None:
            if self._given is not None:
                self._ones = self._given
            elif len(self.own):
                levels = unpack_bits(self.own.cpu(), _OWN_BITS, context_count(self.bits))
                self._ones = from_rounded_probabilities(levels, _OWN_BITS)
            elif len(self.chosen):
                self._ones = context_table(list(TABLES)[int(self.chosen)], self.bits)
            else:
                self._ones = context_table("mixed" if self.learns else self.table, self.bits)
        return self._ones

    def _encode_levels(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        return encode_images(levels, self.bits, self._probabilities())

    def _decode_levels(self, buffer: Tensor, starts: Tensor, lengths: Tensor, shape: Size) -> Tensor:
        return decode_images(buffer, starts, lengths, self.bits, self._small(shape), self._probabilities())

    def _to_levels(self, code: Tensor, shape: Size) -> Tensor:
        small = self._small(shape)
        return unpack_bits(code, self.bits, small.numel()).view(len(code), *small)

    def _small(self, shape: Size) -> Size:
        """Shape of the image that is stored."""
        if len(check.integers("shape", shape)) != 3:
            raise ValueError(f"shape: the codec EntropyCoded expected that of images (C, H, W), got {tuple(shape)}")
        side = self.inner.size if isinstance(self.inner, Downsampled) else None
        return Size(shape) if side is None else Size((shape[0], side, side))

    def _check_images(self, x: Tensor) -> None:
        if check.tensor("x", x).ndim != 4:
            raise ValueError(f"x: the codec EntropyCoded expected images (B, C, H, W), got {tuple(x.shape)}")

    def _check_sound(self) -> None:
        """Raise unless what was loaded is what :meth:`fit` might have made."""
        width = packed_size(context_count(self.bits), _OWN_BITS)
        if len(self.own) not in (0, width) or len(self.chosen) > 1 or bool((self.chosen >= len(TABLES)).any()):
            raise ValueError(f"state: expected a table of 0 or {width} bytes, got {len(self.own)}")
        self._ones = None

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ones = None

    def __repr__(self) -> str:
        table = repr(self.table) if self._given is None else f"given, checksum {int(self._given.long().sum())}"
        return f"EntropyCoded({self.inner!r}, table={table})"
