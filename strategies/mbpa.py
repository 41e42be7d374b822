"""MbPA as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from avalanche.training.templates import SupervisedTemplate
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.codecs import Codec
from avalanche_memplugins.memories import EpisodicMemory
from avalanche_memplugins.memories.policies import WritePolicy
from avalanche_memplugins.plugins import LocalAdaptationPlugin, MemoryReplayPlugin
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class MbPA(SupervisedTemplate):  # type: ignore[misc]
    """Memory-based parameter adaptation.

    Fine-tuning that writes to an :class:`~avalanche_memplugins.memories.EpisodicMemory`, and a
    :class:`~avalanche_memplugins.plugins.LocalAdaptationPlugin` that adapts the last layers to every evaluated
    row's neighbours. With ``replay`` the same memory is rehearsed, too: RMA + MbPA.

    :param mem_size: rows held at most.
    :param write_policy: which rows stay.
    :param codec: how rows are stored.
    :param write_every: steps from one write to the next.
    :param replay: train on a random batch of the memory at every step.
    :param neighbours: K, rows that a query is adapted to.
    :param steps: T, gradient steps a query.
    :param lr: local rate.
    :param beta: pull back to the trained parameters, 0 to 1.
    :param kernel: weights of the neighbours, see the plugin.
    :param adapt: the last so many linear layers, or names of modules.
    :param key: name of a module of the model whose output is the key; None: the input.
    :param max_bytes: working memory of search and adaptation.
    :param seed: of the memory. None: drawn from torch's global generator.
    :param eval_mb_size: rows of a batch in evaluation; some hundreds are quickest here.

    >>> import torch
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = MbPA(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=32,
    ...                 mem_size=100, neighbours=5, steps=2, eval_mb_size=512, evaluator=None)
    >>> benchmark = SplitDigits(5)
    >>> _ = strategy.train(benchmark.train_stream[0])
    >>> _ = strategy.eval(benchmark.test_stream[:1])
    >>> len(strategy.memory)
    100

    Source: Sprechmann et al., "Memory-based parameter adaptation", ICLR 2018.
    """

    def __init__(
        self,
        *,
        mem_size: int = 5_000,
        write_policy: str | WritePolicy = "reservoir",
        codec: str | Codec = "raw",
        write_every: int = 1,
        replay: bool = False,
        neighbours: int = 20,
        steps: int = 10,
        lr: float = 0.3,
        beta: float = 0.0,
        kernel: Literal["nearest_relative", "inverse_distance"] | Callable[[Tensor], Tensor] = "nearest_relative",
        adapt: int | str | Sequence[str] = 1,
        key: str | None = None,
        max_bytes: int = 64 << 20,
        seed: int | None = None,
        **template: Unpack[Template],
    ) -> None:
        check.positive_integer("mem_size", mem_size)
        check.flag("replay", replay)
        memory = EpisodicMemory(mem_size, write_policy=write_policy, codec=codec, seed=seed, max_bytes=max_bytes)
        adaptation = LocalAdaptationPlugin(
            memory,
            neighbours=neighbours,
            steps=steps,
            lr=lr,
            beta=beta,
            kernel=kernel,
            adapt=adapt,
            key=key,
            writes=not replay,
            write_every=write_every,
            max_bytes=max_bytes,
        )
        rehearsal = MemoryReplayPlugin(memory, write_every=write_every, write_at="iteration", seed=seed)
        super().__init__(**beside(template, *([rehearsal] if replay else []), adaptation))
        self.memory = memory
