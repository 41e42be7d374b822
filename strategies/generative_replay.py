"""Deep generative replay as a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from avalanche.training.templates import SupervisedTemplate
from torch.nn import Module

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories import VAEMemory
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class VAEReplay(SupervisedTemplate):  # type: ignore[misc]
    r"""Deep generative replay: a VAE is trained beside the model, and generates the past for both.

    Fine-tuning with one :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` over a
    :class:`~avalanche_memplugins.memories.VAEMemory`. At the t-th experience the model's loss is

    .. math:: L = \tfrac1t L_\text{current} + (1 - \tfrac1t) L_\text{replay},

    replayed rows being labelled by the model as it was after the experience before. At the end of the experience
    the generator, which has its own Adam, learns it with the same weights. The published setting is the default,
    with ``torch.optim.Adam(model.parameters(), lr=1e-3)`` and 2,000 iterations an experience, but for the codes,
    which are drawn from Gaussians fitted to the classes; ``prior="standard"`` is the published draw.

    :param shape: of one row: ``(C, H, W)`` for images in [0, 1] before ``Normalize``, ``(width,)`` for vectors.
    :param network: generator; None: a :class:`~avalanche_memplugins.networks.ConditionalVAE` of 2 x 400 units and
        codes of 100, with weights drawn from ``seed``.
    :param classes: None: a generator that knows no classes; or how many it can be asked for.
    :param labels: of replayed rows: ``"old_model"``; ``"soft"``: its probabilities (distillation); or
        ``"memory"``: the class that was asked for.
    :param prior: where codes are drawn: ``"fitted"`` or ``"standard"``.
    :param steps: of the generator's training after each experience.
    :param batch_size: rows of the experience in such a step, beside as many of its own replay.
    :param lr: of the generator's Adam.
    :param mean: of the user's ``Normalize``.
    :param std: of the user's ``Normalize``.
    :param replay_size: rows to replay each iteration; None: as many as the stream's batch has.
    :param seed: of the memory, its first weights and the order in which it is fed. None: drawn from torch's
        global generator.
    :param train_mb_size: mini-batch size for training.

    >>> import torch
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = VAEReplay(model=model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3), shape=(1, 8, 8),
    ...                      classes=10, steps=10, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> strategy.memory.sample(4).x.shape
    torch.Size([4, 1, 8, 8])

    Sources: Shin et al., "Continual learning with deep generative replay", 2017; van de Ven & Tolias, "Three
    scenarios for continual learning", 2019.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        network: Module | None = None,
        classes: int | None = None,
        labels: Literal["old_model", "soft", "memory"] = "old_model",
        prior: Literal["fitted", "standard"] = "fitted",
        steps: int = 2_000,
        batch_size: int = 128,
        lr: float = 1e-3,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        replay_size: Amount = None,
        seed: int | None = None,
        train_mb_size: int = 128,
        **template: Unpack[Template],
    ) -> None:
        number = check.seed(seed)
        check.integers("shape", shape)
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                likelihood: Literal["bernoulli", "gaussian"] = "gaussian" if len(shape) == 1 else "bernoulli"
                network = ConditionalVAE(shape, classes=classes, likelihood=likelihood)
        memory = VAEMemory(
            network, prior=prior, steps=steps, batch_size=batch_size, lr=lr, mean=mean, std=std, seed=number
        )
        replay = MemoryReplayPlugin(memory, replay_size=replay_size, replay_weight="growing", labels=labels, seed=seed)
        super().__init__(train_mb_size=train_mb_size, **beside(template, replay))
        self.memory = memory
