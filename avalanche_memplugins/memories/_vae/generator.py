"""What a variational auto-encoder generates, and where its codes are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories._vae.rows import VAERows
from avalanche_memplugins.memories.gaussian_memory import GaussianMemory
from avalanche_memplugins.memories.recall import Recall

_ROWS_FITTED = 8_192


class VAEGenerator(VAERows):
    """A network with a place to draw codes from."""

    prior: str
    codes: GaussianMemory

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        """``n`` generated rows, as the stream's transforms make them, with their labels.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or nothing has been consolidated.
        """
        with torch.autocast(self.device.type, enabled=False):
            check.positive_integer("n", n)
            check.room("n", n, 4 * max(1, self.shape.numel()))
            codes, index = self._generate(n, len(self._table))
            return self._recall(self._from_codes(codes), index)

    def _generate(self, n: int, classes: int) -> tuple[Tensor, Tensor]:
        """Rows of the network and indices ``(n,)`` on the CPU of their classes, the first ``classes``."""
        if self.prior == "fitted":
            drawn = self.codes.sample(n)  # its labels are our indices
            z, index = drawn.x, drawn.y.cpu()
        else:
            index = self._draw_classes(n, by_count=False, of=classes)
            z = self._noise((n, int(self.network.code_size)))  # type: ignore[arg-type]
            if not self.conditional:
                index = torch.cdist(z, self.codes.mean).argmin(1).cpu()
                index = torch.tensor(self.codes.classes)[index]
        codes = self.network.decode(z, index.to(self.device)) if self.conditional else self.network.decode(z)  # type: ignore[operator]
        if self.likelihood == "gaussian":
            deviation = (0.5 * self.network.log_variance).exp()  # type: ignore[operator, union-attr]
            codes = codes + deviation * self._noise(codes.shape)
        return codes, index

    def _noise(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator).to(self.device)

    @torch.no_grad()
    def _fit_codes(
        self, network: nn.Module, rows: Iterator[tuple[Tensor, Tensor]], old: int, noise: torch.Generator, held: int
    ) -> GaussianMemory:
        """Gaussians of the codes that the new network gives the experience's classes and the generated ones."""
        fitted = GaussianMemory(rank=None, seed=0)
        held = min(held, _ROWS_FITTED)
        parts = [next(rows) for _ in range(-(-held // self.batch_size))]
        if old:
            # A class without a generated row here would never be generated again.
            again, which = self._generate(max(held, 32 * old), old)
            parts.append((again, which.to(self.device)))
        x, index = (torch.cat([part[i] for part in parts]) for i in range(2))
        for first in range(0, len(x), 1_024):
            which = index[first : first + 1_024]
            arguments = (x[first : first + 1_024], *([which] if self.conditional else []))
            mean, log_variance = network.posterior(*arguments)  # type: ignore[operator]
            eps = torch.randn(mean.shape, generator=noise, device=mean.device)
            fitted.write(mean + (0.5 * log_variance).exp() * eps, which)
        fitted._generator = self.codes._generator
        return fitted

    @torch.no_grad()
    def bound(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Negative evidence lower bound of rows, in nats ``(B,)``: how well the generator knows them.

        Noise is the same at every call. For a Gaussian network it is that of a density, and may be negative.

        :param x: rows ``(B, *shape)`` as the stream's transforms make them.
        :param y: their classes ``(B,)``, wanted by a conditional network.
        :raises ValueError: if classes are missing or were never seen, or rows do not fit.
        """
        check.rows_of(x)
        x = x.to(self.device)
        self._check_rows(x)
        index = torch.zeros(0, dtype=torch.int64)
        if self.conditional:
            if y is None:
                raise ValueError("y: expected the classes of the rows, as the network is conditional, got None")
            check.labels("y", y, len(x))
            known = {label: place for place, label in enumerate(self.classes)}
            strange = sorted(set(y.tolist()) - known.keys())
            if strange:
                raise ValueError(f"y: expected classes seen so far, {sorted(known)}, got {strange}")
            index = torch.tensor([known[label] for label in y.tolist()], dtype=torch.int64, device=self.device)
        noise = torch.Generator(self.device).manual_seed(0)
        with torch.autocast(self.device.type, enabled=False):
            return self._nelbo(self.network, self._to_codes(x), index, noise)

    def _nelbo(self, network: nn.Module, codes: Tensor, index: Tensor, noise: torch.Generator | None) -> Tensor:
        arguments = (codes, index) if self.conditional else (codes,)
        reconstruction, kl = network.bound(*arguments, generator=noise)  # type: ignore[operator]
        return reconstruction + kl  # type: ignore[no-any-return]
