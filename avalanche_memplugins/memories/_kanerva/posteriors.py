"""Items written by Bayes' rule, and taken out again."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.gaussian import pack_triangle, symmetric_factors, unpack_triangle
from avalanche_memplugins.functional.kanerva import kanerva_posterior, kanerva_unwrite
from avalanche_memplugins.memories._generative import slots
from avalanche_memplugins.memories._kanerva.receipts import Items, Written
from avalanche_memplugins.memories._kanerva.state import KanervaState

CHUNK = 32
"""Items of a class that are written at once: addresses within a chunk do not see each other's writes."""


_ROUNDED = 1e-4
"""Noise, relative to the prior's variance, below which float32 may leave a covariance less than semi-definite."""


class KanervaPosteriors(KanervaState):
    """Posteriors that take items in and give them up."""

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
        self._allocate(codes)
        item_class = index[places]
        if self.share == "all":
            labels = torch.zeros(len(codes), len(self._table), dtype=codes.dtype, device=codes.device)
            labels[torch.arange(len(codes)), item_class.to(codes.device)] = self.label_scale
            codes = torch.cat([codes, labels], 1)
            index, places, rows = torch.zeros(1, dtype=torch.int64), torch.zeros_like(places), rows.sum()[None]
        written = self._write_slots(codes, x, index, places, rows, item_class)
        return written

    def _write_slots(
        self, codes: Tensor, x: Tensor, index: Tensor, places: Tensor, rows: Tensor, item_class: Tensor
    ) -> Written:
        number, device = slots(places, rows), codes.device
        here = index.to(device)
        mean, row_cov = self.mean[here].double(), unpack_triangle(self.row_cov[here].double(), self.rows)
        if self.noise_var < _ROUNDED * self.prior_var:
            factors = symmetric_factors(row_cov)
            row_cov = factors.mT @ factors
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
            mean, row_cov = kanerva_posterior(mean, row_cov, weights, batch, noise_var=self._noise)
            address[chosen] = weights[slot, row]
            residual[chosen] = (batch - weights @ mean)[slot, row]
        self.mean[here], self.row_cov[here] = mean.float(), pack_triangle(row_cov).float()
        slot = here[places.to(device)]
        self.address_sum.index_add_(0, slot, address.float())
        self.residual.index_add_(0, slot, residual.square().float())
        self._add_by_class(item_class, address)
        return Written(slot, address, codes, residual, item_class, Items(len(codes)))

    @torch.no_grad()
    def unwrite(self, written: Written) -> None:
        """Take items out again, exactly: the posterior as if they had never been written.

        Whatever was written since stays, at the addresses it got. The state is float32, so the posterior comes back
        to about that precision.

        Each item of a receipt goes once. The receipt itself keeps the record, for this memory since it was made, copied
        or loaded. So what is not noticed, and spoils the posterior: an item taken out a second time by a copy of the
        receipt, or of the memory, or after loading a state; and a receipt of another memory; unless more of a class
        would go than there are, or an address was never written to.

        :param written: receipt of :meth:`write_items`, or :meth:`Written.rows` of it.
        :raises TypeError: if it is none.
        :raises ValueError: if the memory does not hold these items, or gave them up before.
        """
        if not isinstance(written, Written):
            raise TypeError(f"written: expected a receipt of write_items or its rows(index), got {check.show(written)}")
        slot, address, code, residual, place, items = written
        items.check(self._life)
        removed = torch.bincount(place, minlength=len(self._table))
        if bool((removed > self._table[:, 1]).any()):
            label, held = self._table[(removed - self._table[:, 1]).argmax(), :2].tolist()
            raise ValueError(
                f"written: expected items that this memory holds; of class {label} it holds {held}, "
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
                noise_var=self._noise,
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
        items.give_up(self._life)

    def _add_by_class(self, place: Tensor, address: Tensor, *, sign: int = 1) -> None:
        if self.share == "all":
            moments = torch.stack([address, address.square()], 1).float()
            self.by_class.index_add_(0, place.to(self.device), sign * moments)
