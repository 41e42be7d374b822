"""One Gaussian a class."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.functional import (
    draw_low_rank,
    merge_low_rank,
    merge_moments,
    pack_triangle,
    symmetric_factors,
    unpack_triangle,
)
from avalanche_memplugins.memories._generative import TABLE_BYTES, GenerativeMemory, slots
from avalanche_memplugins.memories.recall import Recall


class GaussianMemory(GenerativeMemory):
    r"""Every class c as one Gaussian over its codes, fitted in one pass and drawn from for replay.

    .. math:: z \sim \mathcal N\left(\mu_c, \tfrac{1}{n_c} (F_c^T F_c + \mathrm{diag}(d_c)) \right), \qquad
        x = \mathrm{decode}(z)

    Each batch is merged into mean and scatter as it comes: any number of classes a batch, from one row on,
    new ones at any time. Mean and variances are exact; covariances too, as long as the rows of a class span
    no more than ``rank`` directions, or with ``rank=None``. What a write and a draw cost does not depend on
    what was written before. It is the plain control for every memory that models codes.

    State is float32, sums are made in float64. Labels are looked at on the CPU: if they are on a GPU, each
    write waits for them.

    :param rank: r, rows of F, >= 0; 0: variances only. None: the full covariance, kept as its triangle of
        C (C + 1) / 2 numbers; each draw factors it anew, which takes time that grows with C cubed.
    :param balance: what ``sample`` draws: every ``"class"`` as often as the others, or in proportion to the
        ``"count"`` of its rows.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec`, whose codes are modelled; None: the
        rows themselves, flattened.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    :raises ValueError: for arguments out of range, naming the argument.
    :raises TypeError: for a codec without a latent space.
    """

    mean: Tensor
    spread: Tensor
    residual: Tensor

    def __init__(
        self,
        *,
        rank: int | None = 16,
        balance: Literal["class", "count"] = "class",
        codec: Any | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(codec=codec, seed=seed)
        self.rank = None if rank is None else check.integer("rank", rank, least=0)
        self.balance = check.choice("balance", balance, ("class", "count"))
        # spread: (K, r, C) factors F, or (K, C (C + 1) / 2) triangles of the scatter.
        for name in ("mean", "spread", "residual"):
            self.register_buffer(name, torch.zeros(0))

    @classmethod
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        classes: int,
        shape: tuple[int, ...] | None = None,
        codec: Any | None = None,
        **kwargs: Any,
    ) -> GaussianMemory:
        """The memory of the largest rank whose :attr:`nbytes` stay within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``, everything that grows with the classes counted.
        :param classes: how many are expected; more of them take more bytes.
        :param shape: of one row of x; wanted without a codec.
        :param codec: as for :class:`GaussianMemory`.
        :param kwargs: its other arguments.
        :raises ValueError: if not even the variances fit.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        check.positive_integer("classes", classes)
        check.latent_codec(codec)
        width = int(codec.code_size) if codec is not None else check.row_shape(shape).numel()
        each = nbytes // classes - TABLE_BYTES
        if each >= 4 * (width + width * (width + 1) // 2):
            return cls(rank=None, codec=codec, **kwargs)
        rank = each // (4 * width) - 2
        if rank < 0:
            raise ValueError(
                f"nbytes: expected at least the {classes * (TABLE_BYTES + 8 * width)} bytes that mean and variances of "
                f"{classes} classes take, got {nbytes}"
            )
        return cls(rank=rank, codec=codec, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return self.mean.device

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, balance={self.balance!r}, codec={self.codec!r})"

    def _parts(self) -> list[str]:
        return [f"{type(self).__name__} of rank {self.rank}", f"codec {self.codec!r}"]

    @torch.no_grad()
    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Merge a batch into the Gaussians of its classes.

        Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0.
        :param t: task labels ``(B,)`` or one for all, integers >= 0; replay brings back a class's latest.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t`` if
            not given; replay brings back a class's latest.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument.
        """
        origin = t if origin is None else origin
        if not self._check(x, y, t, origin):
            return
        with torch.autocast(x.device.type, enabled=False):
            codes = self._to_codes(x)
        self._check_size(codes)
        self.shape, self.dtype = x.shape[1:], x.dtype
        index, places, rows = self._enrol(y, t, origin)
        self._allocate(codes)
        count = self._table[index, 1] - rows
        batch = codes.new_zeros(len(index), int(rows.max()), codes.shape[1], dtype=torch.float64)
        batch[places, slots(places, rows)] = codes.double()
        count, rows, index = (v.to(self.device) for v in (count, rows, index))
        _, mean, growth = merge_moments(count, self.mean[index].double(), batch, rows)
        self.mean[index] = mean.float()
        if self.rank is None:
            self.spread[index] += pack_triangle(growth.mT @ growth).float()
        else:
            factors, residual = merge_low_rank(self.spread[index].double(), self.residual[index].double(), growth)
            self.spread[index], self.residual[index] = factors.float(), residual.float()

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        """``n`` rows that the Gaussians generate, each with its class and that class's latest t and origin.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or nothing has been written.
        """
        drawn = self._draw_classes(n, by_count=self.balance == "count")
        index, places, rows = torch.unique(drawn, return_inverse=True, return_counts=True)
        width, most = self.mean.shape[1], int(rows.max())
        factors, residual, eps = self._factors(index), None, None
        noise = self._noise(len(index), most, factors.shape[1])
        scale = self._table[index, 1].to(self.device, torch.float32)
        if self.rank is not None:
            residual = self.residual[index.to(self.device)] / scale[:, None]
            eps = self._noise(len(index), most, width)
        factors = factors / scale.sqrt()[:, None, None]
        with torch.autocast(self.device.type, enabled=False):
            z = draw_low_rank(self.mean[index.to(self.device)], factors, residual, noise, eps)
            place, slot = places.to(self.device), slots(places, rows).to(self.device)
            return self._recall(self._from_codes(z[place, slot]), drawn)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self.device)

    def _factors(self, index: Tensor) -> Tensor:
        if self.rank is not None:
            return self.spread[index.to(self.device)]
        # Kept, the factors would take twice the bytes of all else.
        drawn, place = torch.unique(index, return_inverse=True)
        scatter = unpack_triangle(self.spread[drawn.to(self.device)].double(), self.mean.shape[1])
        return symmetric_factors(scatter).float()[place.to(self.device)]

    def _allocate(self, codes: Tensor) -> None:
        width, device = codes.shape[1], codes.device
        new = len(self._table) - len(self.mean)
        if not new:
            return
        tail = (width * (width + 1) // 2,) if self.rank is None else (min(self.rank, width), width)
        shapes = {"mean": (width,), "spread": tail, "residual": (0,) if self.rank is None else (width,)}
        for name, shape in shapes.items():
            held = getattr(self, name)
            rows = torch.zeros(new, *shape, device=device)
            self.register_buffer(name, torch.cat([held, rows]) if len(held) else rows)

    def _check_sound(self) -> None:
        super()._check_sound()
        classes, width = len(self._table), self._row_width()
        tail = (width * (width + 1) // 2,) if self.rank is None else (min(self.rank, width), width)
        self._check_buffer("mean", (classes, width))
        self._check_buffer("spread", (classes, *tail))
        self._check_buffer("residual", (classes, 0 if self.rank is None else width))
        variances = self.residual
        if self.rank is None and classes:
            variances = unpack_triangle(self.spread, width).diagonal(dim1=-2, dim2=-1)
        if variances.numel() and float(variances.min()) < 0:
            raise ValueError("state: expected variances >= 0")
