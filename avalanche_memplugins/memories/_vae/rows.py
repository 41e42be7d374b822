"""Rows of an experience as a generator learns them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._normalisation import Normalisation
from avalanche_memplugins.memories._generative import GenerativeMemory

Batches = Iterable[tuple[Tensor, Tensor, Tensor | int]]


class VAERows(GenerativeMemory):
    """Rows looked at, entered into the table of classes, and given out in batches, pass after pass."""

    network: nn.Module
    likelihood: str
    normalisation: Normalisation
    batch_size: int
    cache_bytes: int

    @property
    def conditional(self) -> bool:
        """Whether the network is told the class."""
        return getattr(self.network, "classes", None) is not None

    @property
    def device(self) -> torch.device:
        """Where samples come out."""
        return next(self.network.parameters()).device

    def _survey(self, batches: Batches, origin: int) -> tuple[Tensor, Tensor] | None:
        """Look at all rows and enter their classes; gives the rows if they fit into the cache."""
        kept: list[tuple[Tensor, Tensor]] | None = []
        held, seen = 0, 0
        for x, y, t in check.experience(batches):
            if not self._check(x, y, t, origin):
                continue
            codes, index = self._prepared(x, y, t, origin)
            seen += len(codes)
            held += codes.nbytes
            if held > self.cache_bytes:
                kept = None
            if kept is not None:
                kept.append((codes, index))
        if not seen:
            raise ValueError("batches: wants the rows of an experience, got none")
        return None if kept is None else (torch.cat([x for x, _ in kept]), torch.cat([i for _, i in kept]))

    def _prepared(self, x: Tensor, y: Tensor, t: Tensor | int, origin: int) -> tuple[Tensor, Tensor]:
        x = x.to(self.device)
        codes = self._to_codes(x)
        present, places, _ = self._enrol(y, t, origin)
        self.shape, self.dtype = x.shape[1:], x.dtype
        return codes, present[places].to(self.device)

    def _rows(self, batches: Batches, cache: tuple[Tensor, Tensor] | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ``batch_size`` rows (an experience of fewer: all of them), pass after pass."""
        while True:
            if cache is not None:
                order = torch.randperm(len(cache[0]), generator=self._generator).to(self.device)
                whole = max(1, len(order) // self.batch_size) * self.batch_size
                for part in order[:whole].split(self.batch_size):  # type: ignore[no-untyped-call]
                    yield cache[0][part], cache[1][part]
                continue
            known = {label: index for index, label in enumerate(self.classes)}
            rest: tuple[Tensor, Tensor] | None = None
            for x, y, _ in batches:
                index = torch.tensor([known[label] for label in y.tolist()], device=self.device)
                codes = self._to_codes(x.to(self.device))
                if rest is not None:
                    codes, index = torch.cat([rest[0], codes]), torch.cat([rest[1], index])
                whole = len(codes) // self.batch_size * self.batch_size
                for first in range(0, whole, self.batch_size):
                    part = slice(first, first + self.batch_size)
                    yield codes[part], index[part]
                rest = codes[whole:], index[whole:]
            if rest is not None and len(rest[0]):
                yield rest

    def _check(self, x: Tensor, y: Tensor, t: Tensor | int, origin: Tensor | int) -> int:
        rows = super()._check(x, y, t, origin)
        limit = getattr(self.network, "classes", None)
        known = {*self.classes, *y.tolist()}
        if limit is not None and len(known) > limit:
            raise ValueError(f"y: the network has {limit} classes, got {len(known)} of them by now")
        return rows

    def _check_rows(self, x: Tensor) -> None:
        super()._check_rows(x)
        wanted = _row_shape(self.network)
        if self.codec is None and wanted is not None and tuple(x.shape[1:]) != wanted:
            raise ValueError(f"x: the network expected rows of shape {wanted}, got {tuple(x.shape[1:])}")
        if self.codec is None and self.likelihood == "bernoulli":
            self.normalisation.check(x, f"the memory {type(self).__name__}")

    def _to_codes(self, x: Tensor) -> Tensor:
        if self.codec is not None:
            return super()._to_codes(x)
        return self.normalisation.undo(x).clamp_(0, 1) if self.likelihood == "bernoulli" else x.float()

    def _from_codes(self, codes: Tensor) -> Tensor:
        if self.codec is None and self.likelihood == "bernoulli":
            return self.normalisation.redo(codes, self.dtype)
        return super()._from_codes(codes)


def _row_shape(network: nn.Module) -> tuple[int, ...] | None:
    if hasattr(network, "shape"):
        return tuple(network.shape)  # type: ignore[arg-type]
    if hasattr(network, "channels") and hasattr(network, "size"):
        return int(network.channels), int(network.size), int(network.size)  # type: ignore[arg-type]
    return None
