"""What the two Kanerva memories share: everything but where an item is addressed, and the prior."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.functional.gaussian import unpack_triangle
from avalanche_memplugins.memories._generative import GenerativeMemory, slots
from avalanche_memplugins.memories._kanerva_posteriors import Items, Life, Posteriors, Written
from avalanche_memplugins.memories.recall import Recall

_SEED = re.compile(r"(?<=, seed=)-?\d+$")


class KanervaBase(GenerativeMemory):
    """A memory that has :class:`Posteriors`, writes items to addresses in them, and draws addresses to replay.

    A subclass owes, besides what :class:`GenerativeMemory` asks, ``_prior_mean``, ``_addresses`` and
    ``_prior_addresses``.
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
        self.address = check.choice("address", address, ("fitted", "prior"))
        self.read_steps = check.integer("read_steps", read_steps, least=0)
        self.balance = check.choice("balance", balance, ("class", "count"))
        self.prior_seed, self._seed_is_drawn = number, seed is None
        self._posteriors = Posteriors(
            self._buffers, rows, shared=share == "all", noise_var=self.noise_var, prior_var=self.prior_var
        )
        self._life = Life()

    # ---------------------------------------------------------------- what a subclass owes

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rows={self.rows}, share={self.share!r}, codec={self.codec!r})"

    def _labels(self) -> int:
        """Columns of the memory that hold the label."""
        return len(self._table) if self.share == "all" else 0

    def _image_part(self) -> Tensor:
        return self.mean[..., : self.mean.shape[-1] - self._labels()].double()

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

    # ---------------------------------------------------------------- write

    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Write a batch by Bayes' rule. Nothing changes if an error is raised.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0.
        :param t: task labels ``(B,)`` or one for all, integers >= 0; replay brings back a class's latest.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t`` if not given.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument.
        """
        self.write_items(x, y, t, origin=origin)

    @torch.no_grad()
    def write_items(
        self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None
    ) -> Written | None:
        """:meth:`write` with a receipt for :meth:`unwrite`; None for an empty batch."""
        origin = t if origin is None else origin
        if not self._check(x, y, t, origin):
            return None
        codes = self._to_codes(x).to(self.device if self.mean.numel() else x.device).double()
        self._check_size(codes)
        if not self.mean.numel():
            self._prior_mean(codes.shape[1])  # raises before anything changes if the prior does not fit these codes
        self.shape, self.dtype = x.shape[1:], x.dtype
        index, places, rows = self._enrol(y, t, origin)
        self._allocate(codes.shape[1], codes.device)
        item_class = index[places]
        if self.share == "all":
            codes = self._labelled(codes, item_class)
            index, places, rows = torch.zeros(1, dtype=torch.int64), torch.zeros_like(places), rows.sum()[None]
        slot, address, residual = self._posteriors.write(index, places, rows, codes, x, self._addresses)
        self._posteriors.count_by_class(item_class, address)
        return Written(slot, address, codes, residual, self._table[item_class, 0], Items(len(codes)))

    def _allocate(self, width: int, device: torch.device) -> None:
        classes = len(self._table)
        new = (1 if self.share == "all" else classes) - len(self._posteriors)
        if new:
            self._posteriors.append(new, self._prior(width).to(device), classes)
        elif more := self._labels() and width + classes - self.mean.shape[-1]:
            self._posteriors.widen(self._label_prior(classes)[:, -more:])

    def _labelled(self, codes: Tensor, index: Tensor) -> Tensor:
        """Codes ``(B, C)`` with the columns of their labels."""
        labels = torch.zeros(len(codes), len(self._table), dtype=codes.dtype, device=codes.device)
        labels[torch.arange(len(codes)), index.to(codes.device)] = self.label_scale
        return torch.cat([codes, labels], 1)

    @torch.no_grad()
    def unwrite(self, written: Written) -> None:
        """Take items out again, exactly: the posterior as if they had never been written.

        Whatever was written since stays, at the addresses it got. The state is float32, so the posterior comes back
        to about that precision.

        Each item of a receipt goes once. Removing an item twice corrupts the posterior. The receipt detects this, for
        this memory since it was made, copied or loaded. It is not detected for a copy of the receipt or of the memory,
        after loading a state, or for a receipt of another memory; unless more of a class would go than there are, or
        an address was never written to.

        :param written: receipt of :meth:`write_items`, or :meth:`Written.rows` of it.
        :raises TypeError: if it is none.
        :raises ValueError: if the memory does not hold these items, or gave them up before.
        """
        if not isinstance(written, Written):
            raise TypeError(f"written: expected a receipt of write_items or its rows(index), got {check.show(written)}")
        _, address, code, residual, y, items = written
        items.check(self._life)
        if missing := sorted(set(y.tolist()) - set(self.classes)):
            raise ValueError(f"written: expected items of classes that this memory holds, got some of {missing}")
        # By their classes, as posteriors move up when a class is forgotten.
        index = self._index(y)
        slot = self._posteriors.slot(index).to(self.device)
        removed = torch.bincount(index, minlength=len(self._table))
        rows = self._table[:, 1] - removed
        if bool((rows < 0).any()):
            label, held = self._table[rows.argmin(), :2].tolist()
            raise ValueError(
                f"written: expected items that this memory holds; of class {label} it holds {held}, "
                f"got {int(removed[self.classes.index(label)])} to take out"
            )
        self._posteriors.take_out(
            slot,
            address,
            code,
            residual,
            left=self._posteriors.counts(rows),
            prior=lambda: self._prior(self.mean.shape[-1] - self._labels()),
        )
        self._posteriors.count_by_class(index, address, sign=-1)
        self._table[:, 1] = rows
        if self.share == "all":
            self.by_class[(rows == 0).to(self.device)] = 0
        items.give_up(self._life)

    @property
    def _mixes(self) -> str:
        return "" if self.share == "class" else "one posterior for all classes (share='all'); or unwrite each item"

    def _keep_classes(self, index: Tensor) -> None:
        self._posteriors.keep(index)

    # ---------------------------------------------------------------- read

    @torch.no_grad()
    def read(self, cue: Tensor, *, steps: int = 1, y: Tensor | None = None) -> Tensor:
        r"""What the memory makes of distorted rows, read again and again.

        :param cue: rows ``(B, *shape)``.
        :param steps: reads, >= 1; each starts from what the one before gave.
        :param y: classes ``(B,)`` whose posteriors to read, in a memory by class; None: for each row the posterior
            under which its code has the smallest energy :math:`|z - w^\top R|^2 / \sigma^2 + |w|^2`.
        :returns: rows ``(B, *shape)``.
        :raises ValueError: if nothing has been written, or for classes never seen.
        """
        check.positive_integer("steps", steps)
        if not len(self):
            raise ValueError("cue: nothing has been written to this memory yet, so there is nothing to read")
        self._check_cue("cue", cue)
        return self._read(cue, self._slots(cue, y), steps)

    def _read(self, x: Tensor, slot: Tensor, steps: int) -> Tensor:
        mean = self._image_part()[slot]
        for _ in range(steps):
            weights = self._addresses(mean, self._to_codes(x).double().unsqueeze(1), x.unsqueeze(1))
            x = self._from_codes((weights @ mean).squeeze(1).float())
        return x

    def _slots(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Posterior to read for each row: its class's, if there are such and it is known."""
        if y is not None:
            check.labels("y", y, len(x))
        return self._nearest_slot(x) if y is None or self.share == "all" else self._index(y).to(self.device)

    def _nearest_slot(self, x: Tensor) -> Tensor:
        means, codes = self._image_part(), self._to_codes(x).double()
        energies = []
        for mean in means:
            weights = self._addresses(mean[None], codes[None], x[None])[0]
            error = (codes - weights @ mean).square().sum(-1) / self._posteriors.noise_var
            energies.append(error + weights.square().sum(-1))
        return torch.stack(energies).argmin(0)

    @torch.no_grad()
    def weights(self, x: Tensor, *, y: Tensor | None = None) -> Tensor:
        """Addresses ``(B, K)`` of rows ``(B, *shape)``: how much of each memory row they are made of."""
        self._check_cue("x", x)
        mean = self._image_part()[self._slots(x, y)]
        return self._addresses(mean, self._to_codes(x).double().unsqueeze(1), x.unsqueeze(1)).squeeze(1).float()

    @torch.no_grad()
    def generate(self, weights: Tensor, *, slot: int = 0) -> Tensor:
        """Rows ``(B, *shape)`` at addresses ``(B, K)`` of one posterior: one-shot generation, interpolation.

        :param weights: addresses, such as points on the line between two of :meth:`weights`.
        :param slot: which posterior: the place of its class in :attr:`classes`; 0 in a shared memory.
        """
        check.floats(weights=weights)
        check.finite("weights", weights)
        if weights.ndim != 2 or weights.shape[1] != self.rows:
            raise ValueError(f"weights: expected (B, {self.rows}), got {tuple(weights.shape)}")
        if check.integer("slot", slot, least=0) >= len(self.mean):
            raise ValueError(f"slot: expected 0 to {len(self.mean) - 1}, got {slot}")
        return self._from_codes((weights.double() @ self._image_part()[slot]).float())

    # ---------------------------------------------------------------- rehearse

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        """``n`` rows that the memory generates, each with its class and that class's latest t and origin.

        :param n: rows to draw, >= 1.
        :raises ValueError: if ``n`` is not positive or nothing has been written.
        """
        drawn = self._draw_classes(n, by_count=self.balance == "count")
        index, places, rows = torch.unique(drawn, return_inverse=True, return_counts=True)
        means, factors = self._address_statistics()
        noise = torch.randn(len(index), int(rows.max()), factors.shape[-2], generator=self._generator)
        spread = torch.randn(len(index), int(rows.max()), self.mean.shape[-1], generator=self._generator)
        noise, spread, here = noise.to(self.device), spread.to(self.device), index.to(self.device)
        slot = self._posteriors.slot(here)
        with torch.autocast(self.device.type, enabled=False):
            weights = means[here].unsqueeze(1) + noise @ factors[here]
            counts = self._posteriors.counts(self._table[:, 1]).to(self.device, torch.float32)[slot]
            z = weights @ self.mean[slot]
            if self.address == "fitted":
                z = z + spread * (self.residual[slot] / counts[:, None]).sqrt().unsqueeze(1)
            place, number = places.to(self.device), slots(places, rows).to(self.device)
            x = self._from_codes(z[place, number][:, : self.mean.shape[-1] - self._labels()])
            for _ in range(self.read_steps):
                x = self._read(x, slot[place], 1)
            return self._recall(x, drawn)

    def _address_statistics(self) -> tuple[Tensor, Tensor]:
        """Means ``(N, K)`` and factors ``(N, K, K)`` of the addresses to draw from, by class."""
        # Made anew for every draw: kept, they would take more bytes than a small memory itself.
        if self.address == "prior":
            return self._prior_addresses()
        return self._posteriors.fitted_addresses(self._table[:, 1], label_scale=self.label_scale)

    # ---------------------------------------------------------------- state

    def _parts(self) -> list[str]:
        return [
            f"{type(self).__name__} of {self.rows} rows, share={self.share!r}, noise_var={self.noise_var}, "
            f"prior_var={self.prior_var}, label_scale={self.label_scale}, seed={self.prior_seed}",
            f"codec {self.codec!r}",
        ]

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
