"""Probabilistic memory retrieval as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from avalanche.core import BasePlugin
from avalanche.training.templates import SupervisedTemplate
from torch.nn import Module
from torch.optim import SGD

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.policies import ReadPolicy, WritePolicy
from avalanche_memplugins.networks import ProbabilisticRetrievalClassifier
from avalanche_memplugins.plugins import MemoryReplayPlugin
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class ProbabilisticRetrieval(SupervisedTemplate):  # type: ignore[misc]
    """Probabilistic memory retrieval, with latent replay of what it retrieves from.

    The model draws latents around each image's code under a frozen VAE and classifies them together. The memory
    keeps codes (mean and log-variance, 2C numbers an image) and replays them in front of the drawing: each time a
    code comes back, other latents are drawn from it.

    :param model: :class:`~avalanche_memplugins.networks.ProbabilisticRetrievalClassifier`, or a model with a layer
        ``encoder`` whose output is to be replayed.
    :param mem_size: codes held at most; None: no memory, as published.
    :param write_every: steps from one write to the next.
    :param replay_size: codes to replay each step; None: as many as the stream's batch has rows.
    :param write_policy: which rows stay, see :class:`~avalanche_memplugins.memories.RandomMemory`.
    :param read_policy: which rows come back.
    :param codec: how codes are stored.
    :param seed: of the memory. None: drawn from torch's global generator.
    :raises ValueError: if the model has no layer ``encoder``.

    >>> import torch
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> from avalanche_memplugins.networks import MLPVAE, ProbabilisticRetrievalClassifier
    >>> model = ProbabilisticRetrievalClassifier(MLPVAE(size=8), classes=10)
    >>> strategy = ProbabilisticRetrieval(model=model, optimizer=torch.optim.SGD(model.head.parameters(), lr=0.01),
    ...                                   mem_size=100, train_mb_size=32, evaluator=None)
    >>> _ = strategy.train(SplitDigits(5).train_stream[0])
    >>> len(strategy.memory)
    100

    Source: Gananath, "Probabilistic memory retrieval", 2022; replay is not part of it.
    """

    def __init__(
        self,
        *,
        mem_size: int | None = 2_000,
        write_every: int = 1,
        replay_size: Amount = None,
        write_policy: str | WritePolicy = "class_balanced",
        read_policy: str | ReadPolicy = "uniform",
        codec: str | Codec = "float16",
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        model = template["model"]
        if mem_size is not None:
            check.positive_integer("mem_size", mem_size)
        if not isinstance(getattr(model, "encoder", None), Module):
            raise ValueError(
                "model: expected a ProbabilisticRetrievalClassifier, or another model with a layer 'encoder', "
                f"got {type(model).__name__}"
            )
        self.memory: RandomMemory | None = None
        replay: list[BasePlugin] = []
        if mem_size is not None:
            self.memory = RandomMemory(
                mem_size, write_policy=write_policy, read_policy=read_policy, codec=codec, seed=seed
            )
            replay.append(
                MemoryReplayPlugin(
                    self.memory,
                    at="encoder",
                    write_every=write_every,
                    write_at="iteration",
                    replay_size=replay_size,
                    seed=seed,
                )
            )
        super().__init__(**beside(template, *replay))

    @classmethod
    def published(cls, autoencoder: Module, *, classes: int = 10, seed: int = 2022, **kwargs: Any) -> Any:
        """The published setting: 10 latents, alpha's spread 0.5, SGD with rate 0.001 on single rows, 3 epochs.

        The VAE comes trained: :class:`~avalanche_memplugins.networks.MLPVAE` with 2 numbers a code, as its defaults
        are. No memory is kept; PyTorch's global generator is left alone.

        :param autoencoder: see :class:`~avalanche_memplugins.networks.ProbabilisticRetrievalClassifier`.
        :param classes: outputs.
        :param seed: of the classifier's first weights and of the latents.
        :param kwargs: other arguments of the strategy; they take the place of the published ones.
        """
        seed = check.seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ProbabilisticRetrievalClassifier(autoencoder, classes=classes, seed=seed)
        settings: dict[str, Any] = {
            "optimizer": SGD(model.head.parameters(), lr=1e-3),
            "mem_size": None,
            "train_mb_size": 1,
            "train_epochs": 3,
            "eval_mb_size": 500,
        }
        return cls(model=model, **{**settings, **kwargs})
