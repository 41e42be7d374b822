"""Replay of rows beside Gaussians that answer as a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from avalanche.training.templates import SupervisedTemplate
from torch.nn import Module

from avalanche_memplugins import _checks as check
from avalanche_memplugins.memories import MixedMemory
from avalanche_memplugins.plugins import MemoryPredictionPlugin, MemoryReplayPlugin
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class MixedReplay(SupervisedTemplate):  # type: ignore[misc]
    r"""The network rehearses stored rows; Gaussians of the same budget answer beside it.

    .. math:: \log p(c \mid x) = \log \mathrm{softmax}(o(x))_c + w \log p_M(c \mid x) + \text{const}

    Fine-tuning around a :class:`~avalanche_memplugins.memories.MixedMemory`, which see. For streams that no fixed
    features fit, such as images whose pixels are permuted; where some do,
    :class:`~avalanche_memplugins.strategies.StreamingQDA` on them alone is better and cheaper.

    :param budget_bytes: of rows and Gaussians together, a number or as in ``"20kB"``.
    :param classes: in the whole stream.
    :param shape: of a row.
    :param experiences: of the stream, that a class is in, with ``by="experience"``.
    :param by: a Gaussian for each ``"class"``, or for each class in each ``"experience"``: for domain increments.
    :param share: of the budget that the Gaussians may take.
    :param codec: how rows are stored, by name or a codec, also one of variable length.
    :param embedding: makes the vectors that the Gaussians model. None: a random projection of the rows.
    :param precision: of the Gaussians, ``"float32"``, or 8, 6 or 4 bits.
    :param weight: w > 0; or ``"fitted"`` to the stored rows, where it comes out too small.
    :param replay_size: rows to replay each iteration; None: as many as the stream's batch has.
    :param replay_weight: of the replayed rows' loss, see :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`.
    :param seed: of memory and plugin. None: drawn from torch's global generator.

    Source of the product: Hinton, "Products of experts", 1999.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> strategy = MixedReplay(model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), budget_bytes="4kB",
    ...                        classes=2, shape=(1, 8, 8), codec="4bit", evaluator=None)
    >>> strategy.memory.rows.capacity, strategy.memory.gaussians.nbytes_fixed
    (38, 0)
    """

    def __init__(
        self,
        *,
        budget_bytes: int | str,
        classes: int,
        shape: tuple[int, ...],
        experiences: int = 1,
        by: Literal["class", "experience"] = "class",
        share: float = 0.75,
        codec: Any = "raw",
        embedding: Module | None = None,
        precision: Literal["float32", 4, 6, 8] = 4,
        weight: float | Literal["fitted"] = 0.5,
        replay_size: Amount = None,
        replay_weight: float | Literal["growing"] | None = "growing",
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        temperature: Any = "fitted" if weight == "fitted" else 1 / check.number("weight", weight, above=0)
        memory = MixedMemory.from_budget(
            budget_bytes,
            classes=classes,
            shape=shape,
            experiences=experiences,
            by=by,
            share=share,
            codec=codec,
            embedding=embedding,
            precision=precision,
            seed=seed,
        )
        replay = MemoryReplayPlugin(memory, replay_size=replay_size, replay_weight=replay_weight, seed=seed)
        answer = MemoryPredictionPlugin(memory, combine="product", temperature=temperature, fit_rows=memory.rows)
        super().__init__(**beside(template, replay, answer))
        self.memory = memory
