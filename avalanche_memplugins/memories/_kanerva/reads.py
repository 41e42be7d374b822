"""Reads: what a memory makes of a cue, the addresses of rows, and what lies at an address."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories._kanerva.posteriors import KanervaPosteriors


class KanervaReads(KanervaPosteriors):
    """Posteriors as an associative memory."""

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
        self._check_cue("cue", cue)
        return self._read(cue, self._slots(cue, y), steps)

    def _read(self, x: Tensor, slot: Tensor, steps: int) -> Tensor:
        mean = self._image_part()[slot]
        for _ in range(steps):
            weights = self._addresses(mean, self._to_codes(x).double().unsqueeze(1), x.unsqueeze(1))
            x = self._from_codes((weights @ mean).squeeze(1).float())
        return x

    def _check_cue(self, name: str, rows: Tensor) -> None:
        if check.tensor(name, rows).shape[1:] != self.shape or rows.ndim < 2:
            raise ValueError(f"{name}: expected rows of shape {tuple(self.shape)}, got {tuple(rows.shape)}")
        if rows.dtype != self.dtype:
            raise ValueError(f"{name}: expected {self.dtype}, as first written, got {rows.dtype}")
        check.finite(name, rows)

    def _image_part(self) -> Tensor:
        return self.mean[..., : self.mean.shape[-1] - self._labels()].double()

    def _slots(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Posterior to read for each row: its class's, if there are such and it is known."""
        if y is not None:
            check.labels("y", y, len(x))
        return self._nearest_slot(x) if y is None or self.share == "all" else self._places(y).to(self.device)

    def _nearest_slot(self, x: Tensor) -> Tensor:
        means, codes = self._image_part(), self._to_codes(x).double()
        energies = []
        for mean in means:
            weights = self._addresses(mean[None], codes[None], x[None])[0]
            error = (codes - weights @ mean).square().sum(-1) / self._noise
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
