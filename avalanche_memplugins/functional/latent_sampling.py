"""Latents drawn from the neighbourhood of a Gaussian code."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check


def sample_latents(
    mu: Tensor,
    log_variance: Tensor,
    n: int,
    *,
    alpha_std: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draws n latents from the neighbourhood of a Gaussian code, instead of looking n neighbours up.

    .. math::
        z_i = \mu \alpha_i + \sigma \epsilon_i, \qquad \alpha_i \sim N(1, a^2), \quad \epsilon_i \sim N(0, 1),

    drawn for each latent and each dimension. So :math:`E z = \mu` and :math:`\mathrm{Var}\, z = a^2 \mu^2 +
    \sigma^2`: alpha spreads a dimension in proportion to its mean, and not at all where that is zero.

    :param mu: ``(B, C)``, floating point.
    :param log_variance: :math:`\log \sigma^2`, ``(B, C)``; -inf for no noise.
    :param n: latents a row, >= 1.
    :param alpha_std: a, >= 0; 0 leaves the code's own distribution.
    :param generator: of the draws, on any device: noise is drawn there and brought to ``mu``'s.
        None: PyTorch's global one of ``mu``'s device.
    :returns: ``(B, n, C)`` of ``mu``'s type; gradients reach ``mu`` and ``log_variance``.
    :raises ValueError: for shapes that differ, or n or alpha_std out of range.

    Source: Gananath, "Probabilistic memory retrieval", 2022.

    >>> generator = torch.Generator().manual_seed(0)
    >>> sample_latents(torch.zeros(2, 3), torch.zeros(2, 3), 5, generator=generator).shape
    torch.Size([2, 5, 3])
    """
    check.shaped(mu=(mu, "B C"), log_variance=(log_variance, "B C"))
    check.positive_integer("n", n)
    check.room("n", n, mu.numel() * mu.element_size())
    check.number("alpha_std", alpha_std, least=0)
    check.generator("generator", generator)
    shape = (len(mu), n, mu.shape[1])
    device = mu.device if generator is None else generator.device

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=mu.dtype, device=device).to(mu.device)

    z = (0.5 * log_variance).exp()[:, None] * draw() + mu[:, None]
    if alpha_std > 0:
        z = z + alpha_std * mu[:, None] * draw()
    return z
