"""Posteriors of linear-Gaussian memories: what is kept of each, and new ones."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.functional.gaussian import pack_triangle, unpack_triangle
from avalanche_memplugins.memories._generative import GenerativeMemory
from avalanche_memplugins.memories._kanerva.receipts import Life

_SEED = re.compile(r"(?<=, seed=)-?\d+$")


class KanervaState(GenerativeMemory, ABC):
    """A memory of linear-Gaussian posteriors, see the classes derived from it.

    Posterior s has mean ``(K, C)``, row covariance (kept as its triangle), the sum of the addresses written and the
    sum of the squared residuals; :func:`~avalanche_memplugins.functional.kanerva.address_second_moment` gives the
    rest of the addresses' statistics. A shared memory also keeps, for each class, the sum of its addresses and of
    their squares ``(2, K)``. State is float32, updates are made in float64.
    """

    mean: Tensor
    row_cov: Tensor
    address_sum: Tensor
    residual: Tensor
    by_class: Tensor

    def __init__(
        self,
        *,
        rows: int,
        share: Literal["class", "all"],
        noise_var: float,
        prior_var: float,
        label_scale: float,
        address: Literal["fitted", "prior"],
        read_steps: int,
        balance: Literal["class", "count"],
        codec: LatentCodec | None,
        seed: int | None,
    ) -> None:
        number = check.seed(seed)
        super().__init__(codec=codec, seed=number)
        self.rows = check.positive_integer("rows", rows)
        self.share = check.choice("share", share, ("class", "all"))
        for name, value in (("noise_var", noise_var), ("prior_var", prior_var), ("label_scale", label_scale)):
            check.number(name, value, above=0)
        self.noise_var, self.prior_var, self.label_scale = float(noise_var), float(prior_var), float(label_scale)
        # Less than that is lost in the rounding of float64, and with it that covariances are semi-definite.
        self._noise = max(self.noise_var, 1e-12 * self.prior_var)
        self.address = check.choice("address", address, ("fitted", "prior"))
        self.read_steps = check.integer("read_steps", read_steps, least=0)
        self.balance = check.choice("balance", balance, ("class", "count"))
        self.prior_seed, self._seed_is_drawn = number, seed is None
        for name in ("mean", "row_cov", "address_sum", "residual", "by_class"):
            self.register_buffer(name, torch.zeros(0))
        self._life = Life()

    # ---------------------------------------------------------------- to be given by the classes derived from it

    @abstractmethod
    def _prior_mean(self, width: int) -> Tensor:
        """Mean of an empty memory's image part, ``(K, width)``, on the CPU."""

    @abstractmethod
    def _addresses(self, mean: Tensor, code: Tensor, x: Tensor) -> Tensor:
        """Addresses ``(S, T, K)`` of items of codes ``(S, T, C)``, rows ``(S, T, ...)`` under means ``(S, K, C)``."""

    @abstractmethod
    def _prior_addresses(self) -> tuple[Tensor, Tensor]:
        """Means ``(N, K)`` and factors ``(N, K, K)`` of the model's own prior of addresses, for each class the same."""

    # ---------------------------------------------------------------- what it holds

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return self.mean.device

    @property
    def code_size(self) -> int:
        """Numbers in the code of a row, its label not counted; 0 before the first write without a codec."""
        if self.codec is not None:
            return int(self.codec.code_size)
        return math.prod(self.shape) if self.shape else 0

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides: the codec's and those of the prior mean, which is the same for all."""
        width = self.mean.shape[-1] if self.mean.numel() else self.code_size
        return super().nbytes_fixed + 4 * self.rows * width

    def _labels(self) -> int:
        """Columns of the memory that hold the label."""
        return len(self._table) if self.share == "all" else 0

    def _places(self, y: Tensor) -> Tensor:
        """Places in the table of classes, on the CPU, of labels ``(B,)``."""
        known = {label: i for i, label in enumerate(self.classes)}
        missing = sorted(set(y.tolist()) - set(known))
        if missing:
            raise ValueError(f"y: expected classes that were written, got {missing}")
        return torch.tensor([known[label] for label in y.tolist()], dtype=torch.int64)

    def _slot_counts(self, by_class: Tensor) -> Tensor:
        """Rows of each posterior from those of each class."""
        return by_class.sum()[None] if self.share == "all" else by_class

    # ---------------------------------------------------------------- new posteriors

    def _allocate(self, codes: Tensor) -> None:
        width, device = codes.shape[1], codes.device
        if self.share == "all":
            self._widen(width, device)
            return
        new = len(self._table) - len(self.mean)
        if new:
            self._append(new, self._prior(width).to(device))

    def _append(self, new: int, prior_mean: Tensor) -> None:
        eye = pack_triangle(self.prior_var * torch.eye(self.rows, device=prior_mean.device))
        added = {
            "mean": prior_mean.float().expand(new, -1, -1),
            "row_cov": eye.expand(new, -1),
            "address_sum": prior_mean.new_zeros(new, self.rows),
            "residual": prior_mean.new_zeros(new, prior_mean.shape[-1]),
        }
        for name, rows in added.items():
            held = getattr(self, name)
            self.register_buffer(name, torch.cat([held, rows]) if len(held) else rows.clone())

    def _widen(self, width: int, device: torch.device) -> None:
        """Columns for labels that are new: as if they had been there, at zero, since the first write."""
        total = width + len(self._table)
        if not self.mean.numel():
            prior = self._prior(width)
            self._append(1, prior.to(device))
            self.register_buffer("by_class", prior.new_zeros(len(self._table), 2, self.rows).to(device))
            return
        new = total - self.mean.shape[-1]
        if new:
            self.register_buffer("by_class", torch.cat([self.by_class, self.by_class.new_zeros(new, 2, self.rows)]))
            prior = self._label_prior(len(self._table))[:, -new:].to(device, torch.float64)
            row_cov = unpack_triangle(self.row_cov[0].double(), self.rows)
            columns = (row_cov @ prior / self.prior_var).float()
            self.register_buffer("mean", torch.cat([self.mean, columns[None]], -1))
            self.register_buffer("residual", torch.nn.functional.pad(self.residual, (0, new)))

    def _prior(self, width: int) -> Tensor:
        """Mean of an empty posterior, on the CPU: ``width`` columns and those of the labels."""
        image = self._prior_mean(width)
        return torch.cat([image, self._label_prior(self._labels())], 1) if self._labels() else image

    def _label_prior(self, labels: int) -> Tensor:
        columns = [self._random(self.rows, 1, salt=1 + label) for label in range(labels)]
        return torch.cat(columns, 1)

    def _random(self, *shape: int, salt: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.prior_seed * 100_003 + salt) % 2**64)
        return torch.randn(shape, generator=generator)

    # ---------------------------------------------------------------- state

    def _parts(self) -> list[str]:
        return [
            f"{type(self).__name__} of {self.rows} rows, share={self.share!r}, noise_var={self.noise_var}, "
            f"prior_var={self.prior_var}, label_scale={self.label_scale}, seed={self.prior_seed}",
            f"codec {self.codec!r}",
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rows={self.rows}, share={self.share!r}, codec={self.codec!r})"

    def _check_state(self, state: dict[str, Any]) -> None:
        if self._seed_is_drawn:
            state = {**state, "parts": [_SEED.sub(str(self.prior_seed), part) for part in state["parts"]]}
        super()._check_state(state)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; a memory whose seed was drawn takes up that of the state.

        :raises ValueError: if it is of a memory made with other arguments.
        """
        super().set_extra_state(state)
        if self._seed_is_drawn and (found := _SEED.search(state["parts"][0])):
            self.prior_seed = int(found[0])
        self._life = Life()

    def _check_sound(self) -> None:
        super()._check_sound()
        classes = len(self._table)
        posteriors = 1 if self.share == "all" else classes
        width = self._row_width() + self._labels()
        self._check_buffer("mean", (posteriors, self.rows, width))
        self._check_buffer("row_cov", (posteriors, self.rows * (self.rows + 1) // 2))
        self._check_buffer("address_sum", (posteriors, self.rows))
        self._check_buffer("residual", (posteriors, width))
        self._check_buffer("by_class", (classes, 2, self.rows) if self.share == "all" else (0,))
        if self.residual.numel() and float(self.residual.min()) < 0:
            raise ValueError("state: expected squared residuals >= 0")
        if self.row_cov.numel():
            values = torch.linalg.eigvalsh(unpack_triangle(self.row_cov.double(), self.rows))
            # A posterior is no wider than its prior.
            if float(values.min()) < -1e-4 * self.prior_var or float(values.max()) > 1.001 * self.prior_var:
                raise ValueError(f"state: expected covariances with eigenvalues from 0 to {self.prior_var:g}")
