"""The posteriors of a Kanerva memory: writes and receipts of them, un-writes, and the addresses written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from avalanche_memplugins.functional.gaussian import pack_triangle, symmetric_factors, unpack_triangle
from avalanche_memplugins.functional.kanerva import address_second_moment, kanerva_posterior, kanerva_unwrite
from avalanche_memplugins.memories._generative import Held, slots

CHUNK = 32
"""Items of a posterior that are written at once: addresses within a chunk do not see each other's writes."""
_ROUNDED = 1e-4
"""Noise, relative to the prior's variance, below which float32 may leave a covariance less than semi-definite."""

Addresses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Addresses ``(S, T, K)`` of items of codes ``(S, T, C)``, rows ``(S, T, ...)`` under means ``(S, K, C)``."""


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
    ``residual`` ``(B, C)``: what the memory missed of each code; ``y`` ``(B,)``: its class; ``items``: which
    have been taken out.
    """

    slot: Tensor
    address: Tensor
    code: Tensor
    residual: Tensor
    y: Tensor
    items: Items

    def rows(self, index: Tensor) -> Written:
        """The receipt of some of the items.

        :param index: their places in the batch ``(n,)``, or a mask ``(B,)``.
        """
        slot, address, code, residual, y, items = self
        return Written(slot[index], address[index], code[index], residual[index], y[index], items[index])


class Posteriors:
    r"""S linear-Gaussian memories :math:`\mathcal{MN}(R, U, I)`, one a class or one for all classes.

    A shared one holds the label as the last columns of the code. For each class it also keeps the sum of its addresses
    and of their squares. :func:`~avalanche_memplugins.functional.kanerva.address_second_moment` gives the rest of what
    is known of addresses. State is float32, updates are made in float64.

    :param buffers: of the memory whose part this is.
    :param rows: K, of each.
    :param shared: one posterior for all classes.
    :param noise_var: :math:`\sigma^2`, > 0.
    :param prior_var: :math:`u_0`: the prior's row covariance is :math:`u_0 I`.
    """

    mean = Held()  # R: (S, K, C)
    row_cov = Held()  # U: (S, K (K + 1) / 2), its triangle
    address_sum = Held()  # (S, K)
    residual = Held()  # (S, C): sum of squares of what codes missed
    by_class = Held()  # (classes, 2, K) of a shared one

    def __init__(
        self, buffers: dict[str, Tensor | None], rows: int, *, shared: bool, noise_var: float, prior_var: float
    ) -> None:
        self.buffers = cast("dict[str, Tensor]", buffers)
        self.rows, self.shared, self.prior_var = rows, shared, prior_var
        self._rounds = noise_var < _ROUNDED * prior_var
        # Less than that is lost in the rounding of float64, and with it that covariances are semi-definite.
        self.noise_var = max(noise_var, 1e-12 * prior_var)
        for name in ("mean", "row_cov", "address_sum", "residual", "by_class"):
            buffers[name] = torch.zeros(0)

    def __len__(self) -> int:
        return len(self.mean)

    def counts(self, by_class: Tensor) -> Tensor:
        """Rows of each posterior from those of each class."""
        return by_class.sum()[None] if self.shared else by_class

    def slot(self, index: Tensor) -> Tensor:
        """Which posterior the classes of these indices are in."""
        return torch.zeros_like(index) if self.shared else index

    # ---------------------------------------------------------------- new ones

    def append(self, new: int, prior_mean: Tensor, classes: int) -> None:
        """Empty posteriors behind the last.

        :param prior_mean: ``(K, C)``, labels among the columns.
        :param classes: known by now.
        """
        eye = pack_triangle(self.prior_var * torch.eye(self.rows, device=prior_mean.device))
        added = {
            "mean": prior_mean.float().expand(new, -1, -1),
            "row_cov": eye.expand(new, -1),
            "address_sum": prior_mean.new_zeros(new, self.rows),
            "residual": prior_mean.new_zeros(new, prior_mean.shape[-1]),
        }
        if self.shared:
            added["by_class"] = prior_mean.new_zeros(classes, 2, self.rows)
        for name, rows in added.items():
            held = self.buffers[name]
            self.buffers[name] = torch.cat([held, rows]) if len(held) else rows.clone()

    def widen(self, prior: Tensor) -> None:
        """Columns of the shared posterior for new labels: as if they had been there, at zero, since the first write.

        :param prior: mean of the empty memory in these columns, ``(K, labels)``.
        """
        new = prior.shape[1]
        self.by_class = torch.cat([self.by_class, self.by_class.new_zeros(new, 2, self.rows)])
        row_cov = unpack_triangle(self.row_cov[0].double(), self.rows)
        columns = (row_cov @ prior.to(row_cov) / self.prior_var).float()
        self.mean = torch.cat([self.mean, columns[None]], -1)
        self.residual = torch.nn.functional.pad(self.residual, (0, new))

    def keep(self, index: Tensor) -> None:
        """Let go of all posteriors but these ``(n,)``, of those by class."""
        for name in ("mean", "row_cov", "address_sum", "residual"):
            held = self.buffers[name]
            self.buffers[name] = held[index.to(held.device)] if len(index) else held.new_zeros(0)

    # ---------------------------------------------------------------- items

    def write(
        self, index: Tensor, places: Tensor, rows: Tensor, codes: Tensor, x: Tensor, addresses: Addresses
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take items in, :data:`CHUNK` of a posterior at a time.

        :param index: posteriors that get some, ``(S,)``, on the CPU like ``places`` and ``rows``.
        :param places: which of these, ``(B,)``.
        :param rows: how many each gets, ``(S,)``.
        :param codes: ``(B, C)`` float64.
        :param x: rows ``(B, ...)`` for ``addresses``.
        :returns: of each item the posterior ``(B,)``, the address ``(B, K)`` and what was missed of it ``(B, C)``.
        """
        number, device = slots(places, rows), codes.device
        here = index.to(device)
        mean, row_cov = self.mean[here].double(), unpack_triangle(self.row_cov[here].double(), self.rows)
        if self._rounds:
            factors = symmetric_factors(row_cov)
            row_cov = factors.mT @ factors
        address = codes.new_zeros(len(codes), self.rows)
        residual = torch.empty_like(codes)
        for start in range(0, int(rows.max()), CHUNK):
            chosen = ((number >= start) & (number < start + CHUNK)).nonzero().flatten()
            slot, row = places[chosen].to(device), (number[chosen] - start).to(device)
            chosen = chosen.to(device)
            # Items that a posterior lacks have address and code zero, which changes nothing.
            batch = codes.new_zeros(len(index), min(CHUNK, int(rows.max()) - start), codes.shape[1])
            batch[slot, row] = codes[chosen]
            images = x.new_zeros(*batch.shape[:2], *x.shape[1:])
            images[slot, row] = x[chosen]
            weights = addresses(mean, batch, images)
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
        return slot, address, residual

    def take_out(
        self,
        slot: Tensor,
        address: Tensor,
        code: Tensor,
        residual: Tensor,
        *,
        left: Tensor,
        prior: Callable[[], Tensor],
    ) -> None:
        """Take items out again.

        :param slot: posterior of each ``(B,)``, with ``address``, ``code`` and ``residual`` as :meth:`write` gave them.
        :param left: items that each posterior holds afterwards, ``(S,)`` on the CPU.
        :param prior: makes the mean of an empty posterior.
        :raises ValueError: if a posterior cannot hold these; nothing has changed then.
        """
        if missing := self.mean.shape[-1] - code.shape[1]:
            code, residual = (torch.nn.functional.pad(part, (0, missing)) for part in (code, residual))
        found = {}
        for s in torch.unique(slot).tolist():
            if not left[s]:
                # The prior itself: what is surest is the least exact to take out.
                found[s] = prior(), self.prior_var * torch.eye(self.rows)
                continue
            its = slot == s
            row_cov = unpack_triangle(self.row_cov[s].double(), self.rows)
            found[s] = kanerva_unwrite(
                self.mean[s].double(), row_cov, address[its], code[its], noise_var=self.noise_var
            )
        for s, (mean, row_cov) in found.items():
            self.mean[s], self.row_cov[s] = mean.float(), pack_triangle(row_cov).float()
        self.address_sum.index_add_(0, slot, -address.float())
        self.residual.index_add_(0, slot, -residual.square().float())
        self.residual.clamp_min_(0)
        for sums in (self.address_sum, self.residual):
            sums[(left == 0).to(sums.device)] = 0

    def count_by_class(self, index: Tensor, address: Tensor, *, sign: int = 1) -> None:
        """Add (or take away) addresses of items to the sums of their classes, whose indices are ``(B,)``."""
        if self.shared:
            moments = torch.stack([address, address.square()], 1).float()
            self.by_class.index_add_(0, index.to(self.by_class.device), sign * moments)

    # ---------------------------------------------------------------- addresses to draw

    def fitted_addresses(self, by_class: Tensor, *, label_scale: float) -> tuple[Tensor, Tensor]:
        """Means ``(classes, K)`` and factors ``(classes, K, K)`` of Gaussians fitted to the addresses written.

        :param by_class: rows of each class, on the CPU.
        :param label_scale: of a shared posterior's labels.
        """
        device = self.mean.device
        counts = self.counts(by_class).clamp_min(1).to(device, torch.float64)
        prior = self.prior_var * torch.eye(self.rows, device=device)
        # As it is kept, float32: so it is known how much of it is rounding.
        row_cov = unpack_triangle(self.row_cov, self.rows)
        moment = address_second_moment(row_cov, prior, noise_var=self.noise_var) / counts[:, None, None]
        mean = self.address_sum.double() / counts[:, None]
        factors = symmetric_factors(moment - mean.unsqueeze(-1) * mean.unsqueeze(-2))
        cov = factors.mT @ factors  # semi-definite, whatever rounding has left of it
        if self.shared:
            mean, cov = self._given_label(cov[0], counts[0], by_class, label_scale)
        return mean.float(), symmetric_factors(cov).float()

    def _given_label(self, cov: Tensor, count: Tensor, by_class: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Means ``(classes, K)`` of the addresses by class and their covariances ``(classes, K, K)``.

        Correlations are those of all addresses read by label, the same for all classes; variances are each class's.
        """
        labels = len(by_class)
        columns = self.mean[0, :, -labels:].double()
        noise = self.residual[0, -labels:].double() / count + 1e-4 * scale**2
        gain = torch.linalg.solve(columns.mT @ cov @ columns + torch.diag(noise), columns.mT @ cov).mT
        within = cov - gain @ columns.mT @ cov
        counts = by_class.clamp_min(1).to(cov.device, cov.dtype)
        own, squares = (self.by_class.double() / counts[:, None, None]).unbind(1)
        spread = (squares - own.square()).clamp_min(0).sqrt() / within.diagonal().clamp_min(1e-12).sqrt()
        return own, spread.unsqueeze(-1) * within * spread.unsqueeze(-2)
