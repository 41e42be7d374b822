"""The nearest-neighbour classifier on a memory's rows."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.kernels import inverse_distance, nearest_relative
from avalanche_memplugins.functional.neighbours import Backend
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.plugins._answering import check_classes
from avalanche_memplugins.plugins._reading import ReadingPlugin

_LEAST = 1e-6  # probability of a class without a vote, so that losses stay finite


class NearestNeighbourPlugin(ReadingPlugin):
    r"""Lets a query's K nearest memory rows vote on its class, alone or beside the model.

    .. math::
        p(c \mid x) = (1 - \lambda)\, \mathrm{softmax}(o(x))_c + \lambda \sum_k w_k [v_k = c], \qquad \sum_k w_k = 1.

    :math:`\log p` takes the place of ``strategy.mb_output`` in evaluation, so every metric sees it. With
    :math:`\lambda = 1` the model has no say: that is the plain control for everything that rehearses from, or adapts
    to, the same rows. List it beside a :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` on the same memory, or
    let it write.

    :param memory: that holds the model's input rows, :class:`~avalanche_memplugins.memories.RandomMemory` or
        :class:`~avalanche_memplugins.memories.EpisodicMemory`.
    :param neighbours: K, >= 1.
    :param mix: :math:`\lambda`, 0 < mix <= 1.
    :param kernel: ``"uniform"`` votes; or ``"nearest_relative"`` or ``"inverse_distance"``, see
        :mod:`~avalanche_memplugins.functional.kernels`.
    :param key: name of a module of the model in whose outputs rows are near, made anew at each evaluation. None: the
        memory's own key: its embedding, or x.
    :param writes: write the stream to the memory, too (first epoch, every ``write_every``-th batch).
    :param write_every: iterations between writes, >= 1.
    :param max_bytes: working memory of the search. The table of keys comes on top.
    :param backend: of the search: "torch" or "faiss".
    :raises TypeError: for a memory that keeps no rows.
    :raises ImportError: backend "faiss" without faiss installed.
    :raises ValueError: for arguments out of range; in evaluation for a class that the model has no output for.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> from avalanche.evaluation.metrics import accuracy_metrics
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[NearestNeighbourPlugin(RandomMemory(2_000), writes=True)], train_mb_size=32,
    ...                  evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]))
    >>> benchmark = SplitDigits(5)
    >>> for experience in benchmark.train_stream:
    ...     _ = strategy.train(experience)
    >>> results = strategy.eval(benchmark.test_stream)
    >>> results["Top1_Acc_Stream/eval_phase/test_stream/Task000"] > 0.95
    True

    Sources: Cover & Hart, "Nearest neighbor pattern classification", 1967; the mixture: Khandelwal et al.,
    "Generalization through memorization", 2020, equation 3.
    """

    def __init__(
        self,
        memory: RandomMemory,
        *,
        neighbours: int = 1,
        mix: float = 1.0,
        kernel: Literal["uniform", "nearest_relative", "inverse_distance"] = "uniform",
        key: str | None = None,
        writes: bool = False,
        write_every: int = 1,
        max_bytes: int = 64 << 20,
        backend: Backend = "torch",
    ) -> None:
        self.mix = check.number("mix", mix, above=0, most=1)
        self.kernel = check.choice("kernel", kernel, ("uniform", "nearest_relative", "inverse_distance"))
        super().__init__(
            memory,
            neighbours=neighbours,
            key=key,
            writes=writes,
            write_every=write_every,
            max_bytes=max_bytes,
            backend=backend,
        )
        if memory.keep == "key" and key is not None:
            raise ValueError(f"key: expected a memory that keeps x to make keys of, got keep='key' and key={key!r}")

    @torch.no_grad()
    def _predict(self, strategy: Any, model: nn.Module, x: Tensor, output: Tensor, task: int | None) -> Tensor:
        _, distances, y = self._nearest(model, x, task)
        check_classes(int(y.max()), output.shape[1])
        dtype = torch.promote_types(output.dtype, torch.float32)
        weights = self._weights(distances).to(dtype)
        votes = torch.zeros(output.shape, device=output.device, dtype=dtype).scatter_add_(1, y, weights)
        mixed = (1 - self.mix) * output.to(dtype).softmax(1) + self.mix * votes
        return mixed.clamp_min(_LEAST).log().to(output.dtype)

    def _weights(self, distances: Tensor) -> Tensor:
        if self.kernel == "uniform":
            return torch.full_like(distances, 1 / distances.shape[1])
        return (nearest_relative if self.kernel == "nearest_relative" else inverse_distance)(distances)
