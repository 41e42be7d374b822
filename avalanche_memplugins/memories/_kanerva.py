"""What the Kanerva memories share: posteriors by class or for all classes, their reads, and replay from them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.functional.gaussian import pack_triangle, symmetric_factors, unpack_triangle
from avalanche_memplugins.functional.kanerva import address_second_moment, kanerva_posterior, kanerva_unwrite
from avalanche_memplugins.memories import _checks as check
from avalanche_memplugins.memories._generative import GenerativeMemory, slots
from avalanche_memplugins.memories.recall import Recall

CHUNK = 32
"""Items of a class that are written at once: addresses within a chunk do not see each other's writes."""
Self = TypeVar("Self", bound="KanervaBase")


class Written(NamedTuple):
    """Receipt of a write, with which :meth:`KanervaBase.unwrite` takes the items out again.

    ``slot`` ``(B,)``: posterior that each item went to; ``address`` ``(B, K)`` and ``code`` ``(B, C)``, float64;
    ``residual`` ``(B, C)``: what the memory missed of each code; ``place`` ``(B,)``: that of its class in the table.
    """

    slot: Tensor
    address: Tensor
    code: Tensor
    residual: Tensor
    place: Tensor


class KanervaBase(GenerativeMemory):
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
        seed: int,
    ) -> None:
        super().__init__(codec=codec, seed=seed)
        self.rows = check.positive_integer("rows", rows)
        self.share = check.choice("share", share, ("class", "all"))
        for name, value in (("noise_var", noise_var), ("prior_var", prior_var), ("label_scale", label_scale)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: wants a number above 0, got {value}")
        self.noise_var, self.prior_var, self.label_scale = float(noise_var), float(prior_var), float(label_scale)
        self.address = check.choice("address", address, ("fitted", "prior"))
        if isinstance(read_steps, bool) or not isinstance(read_steps, int) or read_steps < 0:
            raise ValueError(f"read_steps: wants an integer >= 0, got {read_steps!r}")
        self.read_steps = read_steps
        self.balance = check.choice("balance", balance, ("class", "count"))
        self.prior_seed = seed
        for name in ("mean", "row_cov", "address_sum", "residual", "by_class"):
            self.register_buffer(name, torch.zeros(0))
        self._drawn: tuple[Tensor, Tensor] | None = None  # means and factors of addresses; made when wanted

    # ---------------------------------------------------------------- to be given by the classes derived from it

    def _prior_mean(self, width: int) -> Tensor:
        """Mean of an empty memory's image part, ``(K, width)``, on the CPU."""
        raise NotImplementedError

    def _addresses(self, mean: Tensor, code: Tensor, x: Tensor) -> Tensor:
        """Addresses ``(S, T, K)`` of items of codes ``(S, T, C)``, rows ``(S, T, ...)`` under means ``(S, K, C)``."""
        raise NotImplementedError

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
        self.shape, self.dtype = x.shape[1:], x.dtype
        index, places, rows = self._enrol(y, t, origin)
        self._allocate(codes)
        item_class = index[places]
        if self.share == "all":
            labels = torch.zeros(len(codes), len(self._table), dtype=codes.dtype, device=codes.device)
            labels[torch.arange(len(codes)), item_class.to(codes.device)] = self.label_scale
            codes = torch.cat([codes, labels], 1)
            index, places, rows = torch.zeros(1, dtype=torch.int64), torch.zeros_like(places), rows.sum()[None]
        written = self._write_slots(codes, x, index, places, rows, item_class)
        self._drawn = None
        return written

    def _write_slots(
        self, codes: Tensor, x: Tensor, index: Tensor, places: Tensor, rows: Tensor, item_class: Tensor
    ) -> Written:
        number, device = slots(places, rows), codes.device
        here = index.to(device)
        mean, row_cov = self.mean[here].double(), unpack_triangle(self.row_cov[here].double(), self.rows)
        address = codes.new_zeros(len(codes), self.rows)
        residual = torch.empty_like(codes)
        for start in range(0, int(rows.max()), CHUNK):
            chosen = ((number >= start) & (number < start + CHUNK)).nonzero().flatten()
            slot, row = places[chosen].to(device), (number[chosen] - start).to(device)
            chosen = chosen.to(device)
            # Items that a class lacks have address and code zero, which changes nothing.
            batch = codes.new_zeros(len(index), min(CHUNK, int(rows.max()) - start), codes.shape[1])
            batch[slot, row] = codes[chosen]
            images = x.new_zeros(*batch.shape[:2], *x.shape[1:])
            images[slot, row] = x[chosen]
            weights = self._addresses(mean, batch, images)
            present = torch.zeros(batch.shape[:2], dtype=codes.dtype, device=device)
            present[slot, row] = 1
            weights = weights * present.unsqueeze(-1)
            mean, row_cov = kanerva_posterior(mean, row_cov, weights, batch, noise_var=self.noise_var)
            address[chosen] = weights[slot, row]
            residual[chosen] = (batch - weights @ mean)[slot, row]
        self.mean[here], self.row_cov[here] = mean.float(), pack_triangle(row_cov).float()
        slot = here[places.to(device)]
        self.address_sum.index_add_(0, slot, address.float())
        self.residual.index_add_(0, slot, residual.square().float())
        self._add_by_class(item_class, address)
        return Written(slot, address, codes, residual, item_class)

    @torch.no_grad()
    def unwrite(self, written: Written) -> None:
        """Take items out again, exactly: the posterior as if they had never been written.

        Whatever was written since stays, at the addresses it got. The state is float32, so the posterior comes back
        to about that precision.

        :param written: receipt of :meth:`write_items`, or some of its rows.
        :raises ValueError: if the memory does not hold these items.
        """
        slot, address, code, residual, place = written
        removed = torch.bincount(place, minlength=len(self._table))
        if bool((removed > self._table[:, 1]).any()):
            label, held = self._table[(removed - self._table[:, 1]).argmax(), :2].tolist()
            raise ValueError(
                f"written: wants items that this memory holds; of class {label} it holds {held}, "
                f"got {int(removed[self.classes.index(label)])} to take out"
            )
        if self.share == "all" and code.shape[1] < self.mean.shape[-1]:
            code = torch.nn.functional.pad(code, (0, self.mean.shape[-1] - code.shape[1]))
            residual = torch.nn.functional.pad(residual, (0, self.mean.shape[-1] - residual.shape[1]))
        left = self._slot_counts(self._table[:, 1] - removed)
        found = {}
        for s in torch.unique(slot).tolist():
            if not left[s]:
                # The prior itself: what is surest is the least exact to take out.
                found[s] = self._prior(self.mean.shape[-1] - self._labels()), self.prior_var * torch.eye(self.rows)
                continue
            its = slot == s
            found[s] = kanerva_unwrite(
                self.mean[s].double(),
                unpack_triangle(self.row_cov[s].double(), self.rows),
                address[its],
                code[its],
                noise_var=self.noise_var,
            )
        for s, (mean, row_cov) in found.items():
            self.mean[s], self.row_cov[s] = mean.float(), pack_triangle(row_cov).float()
        self.address_sum.index_add_(0, slot, -address.float())
        self.residual.index_add_(0, slot, -residual.square().float())
        self.residual.clamp_min_(0)
        self._add_by_class(place, address, sign=-1)
        self._table[:, 1] -= removed
        for sums in (self.address_sum, self.residual):
            sums[(left == 0).to(self.device)] = 0
        if self.share == "all":
            self.by_class[(self._table[:, 1] == 0).to(self.device)] = 0
        self._drawn = None

    def _add_by_class(self, place: Tensor, address: Tensor, *, sign: int = 1) -> None:
        if self.share == "all":
            moments = torch.stack([address, address.square()], 1).float()
            self.by_class.index_add_(0, place.to(self.device), sign * moments)

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
        generator = torch.Generator().manual_seed(self.prior_seed * 100_003 + salt)
        return torch.randn(shape, generator=generator)

    # ---------------------------------------------------------------- replay

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        """``n`` rows that the memory generates, each with its class and that class's latest t and origin.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or nothing has been written.
        """
        drawn = self._draw_classes(n, by_count=self.balance == "count")
        index, places, rows = torch.unique(drawn, return_inverse=True, return_counts=True)
        means, factors = self._address_statistics()
        noise = torch.randn(len(index), int(rows.max()), factors.shape[-2], generator=self._generator)
        spread = torch.randn(len(index), int(rows.max()), self.mean.shape[-1], generator=self._generator)
        noise, spread, here = noise.to(self.device), spread.to(self.device), index.to(self.device)
        slot = torch.zeros_like(here) if self.share == "all" else here
        with torch.autocast(self.device.type, enabled=False):
            weights = means[here].unsqueeze(1) + noise @ factors[here if len(factors) > 1 else torch.zeros_like(here)]
            counts = self._slot_counts(self._table[:, 1]).to(self.device, torch.float32)[slot]
            z = weights @ self.mean[slot]
            if self.address == "fitted":
                z = z + spread * (self.residual[slot] / counts[:, None]).sqrt().unsqueeze(1)
            place, number = places.to(self.device), slots(places, rows).to(self.device)
            x = self._from_codes(z[place, number][:, : self.mean.shape[-1] - self._labels()])
            for _ in range(self.read_steps):
                x = self._read(x, slot[place], 1)
            return self._recall(x, drawn)

    def _slot_counts(self, by_class: Tensor) -> Tensor:
        """Rows of each posterior from those of each class."""
        return by_class.sum()[None] if self.share == "all" else by_class

    def _address_statistics(self) -> tuple[Tensor, Tensor]:
        """Means ``(N, K)`` and factors ``(N or 1, K, K)`` of the addresses to draw from, by class."""
        if self._drawn is None or self._drawn[0].device != self.device:
            self._drawn = self._fit_addresses()
        return self._drawn

    def _fit_addresses(self) -> tuple[Tensor, Tensor]:
        classes, device = len(self._table), self.device
        if self.address == "prior":
            return torch.zeros(classes, self.rows, device=device), torch.eye(self.rows, device=device)[None]
        counts = self._slot_counts(self._table[:, 1]).clamp_min(1).to(device, torch.float64)
        prior = self.prior_var * torch.eye(self.rows, dtype=torch.float64, device=device)
        row_cov = unpack_triangle(self.row_cov.double(), self.rows)
        moment = address_second_moment(row_cov, prior, noise_var=self.noise_var) / counts[:, None, None]
        mean = self.address_sum.double() / counts[:, None]
        cov = moment - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        if self.share == "all":
            mean, cov = self._given_label(mean[0], cov[0], counts[0])
        return mean.float(), symmetric_factors(cov).float()

    def _given_label(self, mean: Tensor, cov: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(N, K)`` of the addresses by class and their covariances ``(N, K, K)``.

        Correlations are those of all addresses read by label, the same for all classes; variances are each class's.
        """
        labels = self._labels()
        columns = self.mean[0, :, -labels:].double()
        noise = self.residual[0, -labels:].double() / count + 1e-4 * self.label_scale**2
        gain = torch.linalg.solve(columns.mT @ cov @ columns + torch.diag(noise), columns.mT @ cov).mT
        within = cov - gain @ columns.mT @ cov
        counts = self._table[:, 1].clamp_min(1).to(mean.device, mean.dtype)
        own, squares = (self.by_class.double() / counts[:, None, None]).unbind(1)
        scale = (squares - own.square()).clamp_min(0).sqrt() / within.diagonal().clamp_min(1e-12).sqrt()
        return own, scale.unsqueeze(-1) * within * scale.unsqueeze(-2)

    # ---------------------------------------------------------------- association

    @torch.no_grad()
    def read(self, cue: Tensor, *, steps: int = 1, y: Tensor | None = None) -> Tensor:
        """What the memory makes of distorted rows, read again and again.

        :param cue: rows ``(B, *shape)``.
        :param steps: reads, >= 1; each starts from what the one before gave.
        :param y: classes ``(B,)`` whose posteriors to read, in a memory by class; None: for each row the posterior
            under which its code has the smallest energy :math:`|z - w^\\top R|^2 / \\sigma^2 + |w|^2`.
        :returns: rows ``(B, *shape)``.
        :raises ValueError: if nothing has been written, or for classes never seen.
        """
        check.positive_integer("steps", steps)
        if not len(self):
            raise ValueError("cue: nothing has been written to this memory yet, so there is nothing to read")
        if check.rows_of(cue) and cue.shape[1:] != self.shape:
            raise ValueError(f"cue: wants rows of shape {tuple(self.shape)}, got {tuple(cue.shape[1:])}")
        if y is None or self.share == "all":
            slot = self._nearest_slot(cue)
        else:
            known = {label: i for i, label in enumerate(self.classes)}
            missing = sorted(set(y.tolist()) - set(known))
            if missing:
                raise ValueError(f"y: wants classes that were written, got {missing}")
            slot = torch.tensor([known[label] for label in y.tolist()], device=self.device)
        return self._read(cue, slot, steps)

    def _read(self, x: Tensor, slot: Tensor, steps: int) -> Tensor:
        mean = self._image_part()[slot]
        for _ in range(steps):
            weights = self._addresses(mean, self._to_codes(x).double().unsqueeze(1), x.unsqueeze(1))
            x = self._from_codes((weights @ mean).squeeze(1).float())
        return x

    def _image_part(self) -> Tensor:
        return self.mean[..., : self.mean.shape[-1] - self._labels()].double()

    def _nearest_slot(self, x: Tensor) -> Tensor:
        means, codes = self._image_part(), self._to_codes(x).double()
        energies = []
        for mean in means:
            weights = self._addresses(mean[None], codes[None], x[None])[0]
            error = (codes - weights @ mean).square().sum(-1) / self.noise_var
            energies.append(error + weights.square().sum(-1))
        return torch.stack(energies).argmin(0)

    @torch.no_grad()
    def weights(self, x: Tensor, *, y: Tensor | None = None) -> Tensor:
        """Addresses ``(B, K)`` of rows ``(B, *shape)``: how much of each memory row they are made of."""
        known = {label: i for i, label in enumerate(self.classes)}
        by_class = y is not None and self.share == "class"
        slot = torch.tensor([known[c] for c in y.tolist()]) if by_class and y is not None else self._nearest_slot(x)
        mean = self._image_part()[slot.to(self.device)]
        return self._addresses(mean, self._to_codes(x).double().unsqueeze(1), x.unsqueeze(1)).squeeze(1).float()

    @torch.no_grad()
    def generate(self, weights: Tensor, *, slot: int = 0) -> Tensor:
        """Rows ``(B, *shape)`` at addresses ``(B, K)`` of one posterior: one-shot generation, interpolation.

        :param weights: addresses, such as points on the line between two of :meth:`weights`.
        :param slot: which posterior: the place of its class in :attr:`classes`; 0 in a shared memory.
        """
        if weights.ndim != 2 or weights.shape[1] != self.rows:
            raise ValueError(f"weights: wants (B, {self.rows}), got {tuple(weights.shape)}")
        if not 0 <= slot < len(self.mean):
            raise ValueError(f"slot: wants 0 to {len(self.mean) - 1}, got {slot}")
        return self._from_codes((weights.double() @ self._image_part()[slot]).float())

    # ---------------------------------------------------------------- state

    def _parts(self) -> list[str]:
        return [
            f"{type(self).__name__} of {self.rows} rows, share={self.share!r}, noise_var={self.noise_var}, "
            f"prior_var={self.prior_var}, label_scale={self.label_scale}, seed={self.prior_seed}",
            f"codec {self.codec!r}",
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rows={self.rows}, share={self.share!r}, codec={self.codec!r})"

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with other arguments.
        """
        super().set_extra_state(state)
        self._drawn = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_drawn": None}


def budget_rows(nbytes: int, *, each: int, width: int, posteriors: int, each_row: int = 0) -> int:
    """The most rows K with which ``posteriors`` of codes of ``width`` stay within a budget.

    :param nbytes: the budget.
    :param each: bytes besides, whatever K.
    :param each_row: bytes besides for each of the K rows.
    :raises ValueError: if not a single row fits.
    """

    def taken(rows: int) -> int:
        return each + each_row * rows + 4 * posteriors * (rows * width + rows * (rows + 1) // 2 + rows + width)

    if taken(1) > nbytes:
        raise ValueError(f"nbytes: one memory row takes {taken(1)} bytes, got a budget of {nbytes}")
    rows = 1
    while taken(rows + 1) <= nbytes:
        rows += 1
    return rows
