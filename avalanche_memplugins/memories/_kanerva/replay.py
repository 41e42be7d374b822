"""Replay: addresses drawn from what the posteriors know of those written, and the rows that lie there."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins.functional.gaussian import symmetric_factors, unpack_triangle
from avalanche_memplugins.functional.kanerva import address_second_moment
from avalanche_memplugins.memories._generative import slots
from avalanche_memplugins.memories._kanerva.reads import KanervaReads
from avalanche_memplugins.memories.recall import Recall


class KanervaBase(KanervaReads):
    """A Kanerva memory but for its addresses and its prior."""

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
            weights = means[here].unsqueeze(1) + noise @ factors[here]
            counts = self._slot_counts(self._table[:, 1]).to(self.device, torch.float32)[slot]
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
        return self._prior_addresses() if self.address == "prior" else self._fit_addresses()

    def _fit_addresses(self) -> tuple[Tensor, Tensor]:
        counts = self._slot_counts(self._table[:, 1]).clamp_min(1).to(self.device, torch.float64)
        prior = self.prior_var * torch.eye(self.rows, device=self.device)
        # As it is kept, float32: so it is known how much of it is rounding.
        row_cov = unpack_triangle(self.row_cov, self.rows)
        moment = address_second_moment(row_cov, prior, noise_var=self._noise) / counts[:, None, None]
        mean = self.address_sum.double() / counts[:, None]
        factors = symmetric_factors(moment - mean.unsqueeze(-1) * mean.unsqueeze(-2))
        cov = factors.mT @ factors  # semi-definite, whatever rounding has left of it
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
