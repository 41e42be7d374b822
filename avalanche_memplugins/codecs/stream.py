"""Codes of an auto-encoder that learns from the stream itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs._latent_space import STEP, LatentCoding, LatentSpace, Precision
from avalanche_memplugins.codecs.latent import check_autoencoder
from avalanche_memplugins.networks import MLPVAE, VAE

Loss = Callable[[Any, Tensor], Tensor]


class StreamCodec(LatentCoding):
    r"""Stores images as codes of an auto-encoder for which there are no pretrained weights.

    As :class:`LatentCodec`, but the network learns from the stream: :meth:`fit` trains it, and codes made before are
    then to be made anew. :class:`~avalanche_memplugins.memories.LatentMemory` does both after each experience. As
    the weights depend on the stream, their bytes are :attr:`nbytes`, none of them fixed, and they are in the state.
    Between fits the network is frozen and in eval mode.

    :param autoencoder: as for :class:`LatentCodec`; copied.
    :param steps: of Adam, each time it is fitted, >= 1; the learning rate falls to 3 % along a half cosine.
    :param lr: first learning rate.
    :param loss: ``loss(autoencoder, pixels)`` -> scalar to minimise; None: its bound if it is one of this library's
        variational auto-encoders, else the cross-entropy of the pixels, taken as expected bits, summed over an image.
    :param precision: as for :class:`LatentCodec`, like ``step``, ``mean`` and ``std``.
    :raises TypeError: if ``autoencoder`` lacks a part.
    :raises ValueError: for arguments out of range.

    >>> from itertools import repeat
    >>> import torch
    >>> from avalanche_memplugins.networks import VAE
    >>> codec, x = StreamCodec(VAE(code_size=4, width=2), steps=2), torch.rand(16, 1, 28, 28)
    >>> codec.fit(repeat(x), [x], seed=0)
    >>> codec.encode(x).shape
    torch.Size([16, 4])
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        steps: int = 500,
        lr: float = 2e-3,
        loss: Loss | None = None,
        precision: Precision = "int8",
        step: float = STEP,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        check_autoencoder(autoencoder)
        super().__init__(precision, step, mean, std)
        if loss is not None:
            check.function("loss", loss, "a function of the auto-encoder and pixels, or None")
        self.steps, self.lr = check.positive_integer("steps", steps), check.number("lr", lr, above=0)
        self.loss: Loss = _bound_or_cross_entropy if loss is None else loss
        self.fits = 0
        network: Any = copy.deepcopy(autoencoder)
        self._space = LatentSpace(network, torch.zeros(network.code_size), torch.ones(network.code_size))
        self.eval()
        self._find_image_shape()

    @property
    def nbytes(self) -> int:
        """Bytes of the network and of the statistics of its codes, which the stream has made."""
        return self._space.nbytes

    def fit(self, batches: Iterator[Tensor], every_row: Iterable[Tensor], *, seed: int) -> None:
        """Train the network, then take the statistics of its codes.

        :param batches: images ``(B, C, H, W)`` as the user's transforms make them, without end, to learn from.
        :param every_row: batches likewise, of whose codes the statistics are taken.
        :param seed: of all that the network draws; the global generator is left alone.
        """
        if not isinstance(batches, Iterator):
            raise TypeError(f"batches: expected an iterator without end, got {check.show(batches)}")
        if not isinstance(every_row, Iterable):
            raise TypeError(f"every_row: expected batches to iterate over, got {check.show(every_row)}")
        check.integer("seed", seed, least=-(2**63), most=2**64 - 1)
        device = self._space.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.autocast(device.type, enabled=False):
            torch.manual_seed(seed)
            self._train(batches)
        self._measure(every_row)
        self.fits += 1

    @torch.enable_grad()
    def _train(self, batches: Iterator[Tensor]) -> None:
        network = self._space.autoencoder.train().requires_grad_(True)
        try:
            optimizer = torch.optim.Adam(network.parameters(), lr=self.lr)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps, eta_min=0.03 * self.lr)
            for _ in range(self.steps):
                optimizer.zero_grad()
                loss = self.loss(network, self.normalisation.undo(next(batches)))
                torch.autograd.backward(loss)
                # A sum over pixels has gradient norms of 30 to 100; this only stops the few far above.
                nn.utils.clip_grad_norm_(network.parameters(), 100.0)
                optimizer.step()
                schedule.step()
        finally:
            network.eval().requires_grad_(False)
            for parameter in network.parameters():
                parameter.grad = None

    @torch.no_grad()
    def _measure(self, every_row: Iterable[Tensor]) -> None:
        space = self._space
        space.code_mean.zero_()
        space.code_std.fill_(1)
        count = 0
        total, squares = (torch.zeros(self.code_size, dtype=torch.float64, device=space.device) for _ in range(2))
        for x in every_row:
            raw = self.to_latent(x).double()
            count += len(raw)
            total += raw.sum(0)
            squares += raw.square().sum(0)
        if not count:
            raise ValueError("every_row: expected batches of at least one row in all, got none")
        mean = total / count
        space.code_mean.copy_(mean)
        # A dimension that the network does not use has none to speak of.
        space.code_std.copy_((squares / count - mean.square()).clamp_min(1e-12).sqrt())

    def get_extra_state(self) -> dict[str, Any]:
        """How often it was fitted."""
        return {"fits": self.fits}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.fits = state["fits"]

    def _check_sound(self) -> None:
        if isinstance(self.fits, bool) or not isinstance(self.fits, int) or self.fits < 0:
            raise ValueError(f"state: expected an integer >= 0 as fits, got {self.fits!r}")
        for name, value in self._space.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"state: expected finite weights, got others in {name}")
        if not bool((self._space.code_std > 0).all()):
            raise ValueError("state: expected code_std above 0")

    def __repr__(self) -> str:
        return f"StreamCodec({self._facts()}, steps={self.steps}, lr={self.lr:.6g}, {self.nbytes} bytes)"


def _bound_or_cross_entropy(network: Any, pixels: Tensor) -> Tensor:
    if isinstance(network, VAE | MLPVAE):
        return network.bound(pixels).total.mean()
    decoded = network.decode(network.encode(pixels))
    loss = nn.functional.binary_cross_entropy(decoded, pixels.clamp(0, 1), reduction="sum")
    return loss / len(pixels)
