"""A classifier that sees latents drawn around an image's code, instead of neighbours looked up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._pickling import PicklesGenerator
from avalanche_memplugins.functional.latent_sampling import sample_latents
from avalanche_memplugins.networks.frozen_encoder import FrozenEncoder

_PUBLISHED_SEED = 2022


def retrieval_mlp(inputs: int, classes: int, *, hidden: int = 40, layers: int = 4) -> nn.Sequential:
    """The classifier over retrieved codes: ``layers`` times linear, layer norm, ReLU; then a linear layer.

    :param inputs: numbers a row has.
    :param classes: outputs.
    :param hidden: width, >= 1.
    :param layers: hidden layers, >= 0.

    Source: Gananath, "Probabilistic memory retrieval", 2022.

    >>> retrieval_mlp(6, 3, hidden=4, layers=1)(torch.zeros(2, 6)).shape
    torch.Size([2, 3])
    """
    for name, value, least in (
        ("inputs", inputs, 1),
        ("classes", classes, 1),
        ("hidden", hidden, 1),
        ("layers", layers, 0),
    ):
        check.integer(name, value, least=least)
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*parts, nn.Linear(inputs, classes))


class ProbabilisticRetrievalClassifier(PicklesGenerator, nn.Module):
    r"""Retrieves n latents from a frozen VAE's posterior and classifies all of them together.

    .. math::
        z_i = \mu(x) \alpha_i + \sigma(x) \epsilon_i, \quad \alpha_i \sim N(1, a^2), \quad
        \epsilon_i \sim N(0, 1), \qquad p(y|x) = \mathrm{softmax}\, f(z_1, \ldots, z_n).

    Every pass in training mode draws afresh, also for codes that latent replay puts behind the encoder's
    (``MemoryReplayPlugin(memory, at="encoder")`` stores :math:`(\mu, \log \sigma^2)`). In eval mode the answer is a
    function of the batch alone: ``draws`` sets of latents, from a generator that starts anew each time, and the
    mean of their probabilities, given as logarithms; or :math:`z_i = \mu` with ``draws=0``.

    The defaults are the published model, whose seed was 2022.

    :param autoencoder: has ``posterior(x) -> (mean, log-variance)``, ``(B, C)`` each, and ``code_size``. It is
        copied and frozen; yours stays as it is.
    :param classes: outputs.
    :param n: latents a row, >= 1.
    :param alpha_std: a, >= 0.
    :param draws: sets of latents in eval mode, >= 0.
    :param hidden: width of the classifier's layers.
    :param layers: hidden layers of the classifier.
    :param mean: of the ``Normalize`` that the images went through, undone before encoding.
    :param std: of that ``Normalize``.
    :param seed: of the latents' own generators, on the CPU; part of ``state_dict()``. None: drawn from torch's global
        generator.
    :raises ValueError: for arguments out of range.

    Source: Gananath, "Probabilistic memory retrieval", 2022.

    >>> from avalanche_memplugins.networks import MLPVAE
    >>> model = ProbabilisticRetrievalClassifier(MLPVAE(2, hidden=8, size=4), classes=3, n=5, seed=0)
    >>> model(torch.rand(4, 1, 4, 4)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        classes: int = 10,
        n: int = 10,
        alpha_std: float = 0.5,
        draws: int = 1,
        hidden: int = 40,
        layers: int = 4,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("classes", classes, 1), ("n", n, 1), ("draws", draws, 0)):
            check.integer(name, value, least=least)
        check.number("alpha_std", alpha_std, least=0)
        self.n, self.alpha_std, self.draws, self.seed = n, alpha_std, draws, check.seed(seed)
        self.encoder = FrozenEncoder(autoencoder, code="posterior", mean=mean, std=std)
        self.head = retrieval_mlp(n * self.encoder.code_size, classes, hidden=hidden, layers=layers)
        self._seed_is_drawn = seed is None
        self._generator = torch.Generator().manual_seed(self.seed)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of images ``(B, ch, H, W)``."""
        code = self.encoder(x)
        if self.training:
            return self._answer(code, self._generator)
        if self.draws == 0:
            mu = code.chunk(2, 1)[0]
            answer: Tensor = self.head(mu.repeat(1, self.n))
            return answer
        generator = torch.Generator().manual_seed(self.seed)
        answers = [self._answer(code, generator).log_softmax(1) for _ in range(self.draws)]
        return torch.stack(answers).logsumexp(0) - math.log(self.draws)

    def _answer(self, code: Tensor, generator: torch.Generator) -> Tensor:
        mu, log_variance = code.chunk(2, 1)
        z = sample_latents(mu, log_variance, self.n, alpha_std=self.alpha_std, generator=generator)
        answer: Tensor = self.head(z.flatten(1))
        return answer

    def get_extra_state(self) -> dict[str, Any]:
        """Generator and seed, so that a resumed run draws what an unbroken one would."""
        return {"generator": self._generator.get_state(), "seed": self.seed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._generator.set_state(state["generator"].cpu())
        # States of before the seed was kept were made with the number given, or with the default of then.
        self.seed = state.get("seed", _PUBLISHED_SEED if self._seed_is_drawn else self.seed)
