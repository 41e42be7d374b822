"""A variational auto-encoder of fully connected layers, and how to train it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.divergences import bernoulli_nll, kl_standard_normal
from avalanche_memplugins.networks.vae import VAEBound, drawn_code


class MLPVAE(nn.Module):
    r"""A Bernoulli VAE, :math:`q(z|x) = N(\mu(x), \mathrm{diag}\, \sigma^2(x))`, :math:`p(x|z) = B(g(z))`.

    Encoder: two hidden layers with LeakyReLU(0.2), then one linear layer each for :math:`\mu` and
    :math:`\log \sigma^2`. The decoder is its mirror image. Prior N(0, I).

    :param code_size: C, numbers a code has, >= 1.
    :param hidden: width of the hidden layers, >= 1.
    :param channels: of the images.
    :param size: height and width of the images.
    :raises ValueError: for sizes below 1.

    Source: Gananath, "Probabilistic memory retrieval", 2022: 784-400-400-2, after J. Kang's VAE.

    >>> vae = MLPVAE(2, hidden=8, size=4)
    >>> vae.encode(torch.rand(3, 1, 4, 4)).shape
    torch.Size([3, 2])
    >>> vae.decode(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 4, 4])
    """

    def __init__(self, code_size: int = 2, *, hidden: int = 400, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        check.positive_integers(code_size=code_size, hidden=hidden, channels=channels, size=size)
        self.code_size = code_size
        self.shape = (channels, size, size)
        pixels = channels * size * size
        self.trunk = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)
        )
        self.mean = nn.Linear(hidden, code_size)
        self.log_variance = nn.Linear(hidden, code_size)
        self.decoder = nn.Sequential(
            nn.Linear(code_size, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, pixels),
        )

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code, ``(B, C)`` each, of images ``(B, ch, H, W)`` in [0, 1]."""
        check.rows("x", x, self.shape)
        h = self.trunk(x)
        return self.mean(h), self.log_variance(h)

    def encode(self, x: Tensor) -> Tensor:
        """The mean code ``(B, C)``."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images ``(B, ch, H, W)`` in [0, 1] from codes ``(B, C)``."""
        check.rows("z", z, (self.code_size,))
        return torch.sigmoid(self.decoder(z)).view(-1, *self.shape)

    def bound(self, x: Tensor, *, generator: torch.Generator | None = None) -> VAEBound:
        """Negative evidence lower bound of images ``(B, ch, H, W)`` in [0, 1], with one code drawn for each.

        :param generator: of the codes, on the device of ``x``.
        """
        mean, log_variance = self.posterior(x)
        logits = self.decoder(drawn_code(mean, log_variance, generator))
        return VAEBound(bernoulli_nll(logits.view_as(x), x), kl_standard_normal(mean, log_variance))


def train_vae(
    vae: MLPVAE,
    x: Tensor,
    *,
    epochs: int = 30,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Fit a VAE to images by Adam on its bound; returns the mean bound of each epoch, nats an image.

    Order of the rows and the codes drawn come from a generator of their own.

    :param vae: changed in place; comes back in eval mode.
    :param x: ``(N, ch, H, W)`` in [0, 1], on the VAE's device; uint8 counts as 255ths.
    :param epochs: passes over ``x``, >= 1.
    :param batch_size: rows a step, >= 1.
    :param lr: of Adam.
    :param seed: of the generator; None: drawn from torch's global generator.
    :param after_epoch: called with the number of epochs done and the last one's bound.
    :raises ValueError: if there is nothing to train on, or values lie outside [0, 1].

    >>> bounds = train_vae(MLPVAE(2, hidden=8, size=4), torch.rand(20, 1, 4, 4), epochs=3, seed=0)
    >>> len(bounds)
    3
    """
    check.having("vae", vae, ("bound", "parameters", "shape"), "a VAE")
    check.tensor("x", x)
    if tuple(x.shape[1:]) != tuple(vae.shape) or len(x) == 0:
        wanted = ", ".join(map(str, vae.shape))
        raise ValueError(f"x: expected (N, {wanted}) with N at least 1, got {tuple(x.shape)}")
    is_bytes = x.dtype == torch.uint8
    if not is_bytes and not x.is_floating_point():
        raise ValueError(f"x: expected floating-point or uint8 images, got {x.dtype}")
    if not is_bytes and not (float(x.min()) >= 0 and float(x.max()) <= 1):
        raise ValueError(f"x: expected values in [0, 1], got {float(x.min()):g} to {float(x.max()):g}")
    check.positive_integers(epochs=epochs, batch_size=batch_size)
    check.number("lr", lr, above=0)
    seed = check.seed(seed)
    if after_epoch is not None:
        check.function("after_epoch", after_epoch)
    order = torch.Generator().manual_seed(seed)
    noise = torch.Generator(x.device).manual_seed(seed)
    optimizer = torch.optim.Adam(vae.parameters(), lr, fused=True)
    vae.train()
    bounds = []
    for epoch in range(1, epochs + 1):
        total = torch.zeros((), device=x.device)
        for rows in torch.split(torch.randperm(len(x), generator=order).to(x.device), batch_size):
            batch = x[rows].float() / 255 if is_bytes else x[rows]
            loss = vae.bound(batch, generator=noise).total.mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach() * len(rows)
        bounds.append(float(total) / len(x))
        if after_epoch is not None:
            after_epoch(epoch, bounds[-1])
    vae.eval()
    return bounds
