"""MbPA: fit the model to a query's neighbours before it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, SupportsIndex

import torch
from torch import Tensor, nn
from torch.func import functional_call

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional.kernels import inverse_distance, nearest_relative
from avalanche_memplugins.functional.local_adaptation import adapt_chain, adapt_parameters, is_small
from avalanche_memplugins.functional.neighbours import Backend
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.plugins._adapted_tail import AdaptedTail, find_tail
from avalanche_memplugins.plugins._answering import check_classes, forward_of
from avalanche_memplugins.plugins._outputs import find_logits
from avalanche_memplugins.plugins._reading import ReadingPlugin

Kernel = Callable[[Tensor], Tensor]
_KERNELS: dict[str, Kernel] = {"nearest_relative": nearest_relative, "inverse_distance": inverse_distance}


class LocalAdaptationPlugin(ReadingPlugin):
    r"""Adapts a copy of the last layers to each evaluated row, by T gradient steps on its K nearest memory rows.

    .. math::
        \theta_x \leftarrow \theta_x + \alpha \nabla \sum_k w_k \log p(v_k | h_k, \theta_x)
        - \beta (\theta_x - \theta), \qquad w_k = \mathrm{kernel}(\|q - h_k\|^2).

    The adapted prediction takes the place of ``strategy.mb_output`` in ``after_eval_forward``, so every metric
    sees it. Training is untouched, and the model is never written to. While the memory is empty, and for a task
    of a multi-head model that it holds no rows of, the model's own prediction stays.

    One memory serves replay and adaptation: list this plugin beside a
    :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` that writes to the same memory.

    :param memory: :class:`~avalanche_memplugins.memories.RandomMemory` or
        :class:`~avalanche_memplugins.memories.EpisodicMemory` that holds the model's input rows.
    :param neighbours: K, >= 1.
    :param steps: T, >= 0.
    :param lr: :math:`\alpha`, the local rate, > 0.
    :param beta: pull back to the trained parameters, 0 <= beta <= 1.
    :param kernel: ``"nearest_relative"``, ``"inverse_distance"`` (MbPA's own), or a function of squared
        distances ``(n, K)`` that gives weights ``(n, K)``.
    :param adapt: what is adapted: the last so many linear layers that run in the model (1: the head), or names
        of modules. Where these layers follow each other, with only activations and the like between, the rest
        of the model runs once a row; otherwise the whole model runs in every step.
    :param key: name of a module of the model whose output is the key, made anew at each evaluation with the
        model as it is then. None: the memory's own key: its embedding, or x.
    :param writes: write the stream to the memory, too (first epoch, every ``write_every``-th batch). Leave it
        off if another plugin writes.
    :param write_every: iterations between writes, >= 1.
    :param max_bytes: working memory of search and adaptation. Features of memory rows, made once an evaluation,
        and the table of keys come on top.
    :param backend: of the search: "torch" or "faiss".
    :raises ValueError: for arguments out of range; in evaluation for a class that the model has no output for.
    :raises TypeError: for a memory that keeps no rows.
    :raises ImportError: backend "faiss" without faiss installed.

    >>> import torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> adaptation = LocalAdaptationPlugin(RandomMemory(100), neighbours=5, steps=3, writes=True)
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                  plugins=[adaptation], train_mb_size=32, eval_mb_size=256,
    ...                  evaluator=None)
    >>> benchmark = SplitDigits(5)
    >>> _ = strategy.train(benchmark.train_stream[0])
    >>> _ = strategy.eval(benchmark.test_stream[:1])
    >>> len(adaptation.memory)
    100

    Source: Sprechmann et al., "Memory-based parameter adaptation", ICLR 2018.
    """

    def __init__(
        self,
        memory: RandomMemory,
        *,
        neighbours: int = 20,
        steps: int = 10,
        lr: float = 0.3,
        beta: float = 0.0,
        kernel: Literal["nearest_relative", "inverse_distance"] | Kernel = "nearest_relative",
        adapt: int | str | Sequence[str] = 1,
        key: str | None = None,
        writes: bool = False,
        write_every: int = 1,
        max_bytes: int = 64 << 20,
        backend: Backend = "torch",
    ) -> None:
        check.integer("steps", steps, least=0)
        check.number("lr", lr, above=0)
        check.number("beta", beta, least=0, most=1)
        if not isinstance(kernel, str):
            check.function("kernel", kernel, "a name, or a function of squared distances")
        super().__init__(
            memory,
            neighbours=neighbours,
            key=key,
            writes=writes,
            write_every=write_every,
            max_bytes=max_bytes,
            backend=backend,
        )
        if memory.keep == "key":
            raise ValueError("memory: expected one that keeps x, as the model has to run on its rows, got keep='key'")
        self.steps, self.lr, self.beta = steps, lr, beta
        self.kernel = check.one_of("kernel", kernel, _KERNELS) if isinstance(kernel, str) else kernel
        self.adapt: int | tuple[str, ...]
        names = (adapt,) if isinstance(adapt, str) else adapt
        if isinstance(names, Sequence) and names:
            self.adapt = tuple(check.text("adapt", name) for name in names)
        elif isinstance(names, SupportsIndex):
            self.adapt = check.positive_integer("adapt", names)
        else:
            raise TypeError(f"adapt: expected a number of layers, or names of modules, got {check.show(adapt)}")

    def _forget(self) -> None:
        super()._forget()
        self._tails: dict[int | None, AdaptedTail] = {}
        self._features: dict[int | None, Tensor] = {}
        self._known: dict[int | None, Tensor] = {}

    @torch.no_grad()
    def _predict(self, strategy: Any, model: nn.Module, x: Tensor, output: Tensor, task: int | None) -> Tensor:
        forward = forward_of(model, task, x.dtype)
        if task not in self._tails:
            self._tails[task] = find_tail(model, forward, x[:8], self.adapt)
        tail = self._tails[task]
        slots, distances, y = self._nearest(model, x, task)
        check_classes(int(y.max()), tail.classes or output.shape[1])
        weights = self.kernel(distances)
        inputs = tail.inputs(forward, x) if tail.layers else x
        adapted = []
        with torch.autocast(x.device.type, enabled=False):
            size = self._block(model, tail, inputs, slots.shape[1])
            for part in torch.split(torch.arange(len(x), device=x.device), size):
                rows = self._rows(tail, forward, slots[part], task, inputs)
                arguments = (rows, y[part], weights[part], inputs[part])
                adapted.append(self._adapt(model, tail, task, arguments))
        logits = torch.cat(adapted).to(output.dtype)
        keep = slice(0, logits.shape[1])
        if tail.active is not None:
            logits = torch.where(tail.active, logits, output[:, keep])
        output[:, keep] = logits
        return output

    def _adapt(
        self, model: nn.Module, tail: AdaptedTail, task: int | None, arguments: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> Tensor:
        steps, lr, beta = self.steps, self.lr, self.beta
        if tail.layers:
            return adapt_chain(tail.layers, *arguments, steps=steps, lr=lr, beta=beta, active=tail.active)
        parameters = dict(model.named_parameters())

        def forward(values: dict[str, Tensor], rows: Tensor) -> Tensor:
            output = functional_call(model, values, rows if task is None else (rows, task))
            return find_logits(output, len(rows))[0]

        chosen = {name: parameters[name] for name in tail.names}
        return adapt_parameters(forward, chosen, *arguments, steps=steps, lr=lr, beta=beta)

    def _block(self, model: nn.Module, tail: AdaptedTail, inputs: Tensor, k: int) -> int:
        """Queries whose neighbours, Gram matrices and copies of parameters fit into ``max_bytes``."""
        row = inputs[0].numel()
        if tail.layers:
            first, *rest = (m for m in tail.layers if isinstance(m, nn.Linear))
            widths = first.out_features + sum(m.out_features for m in rest)
            rank = k * self.steps
            changes = sum(
                m.in_features * m.out_features if is_small(m, rank) else rank * (m.in_features + m.out_features)
                for m in rest
            )
            each = k * (row + k + 8 * widths) + changes
        else:
            parameters = dict(model.named_parameters())
            copies = sum(parameters[name].numel() for name in tail.names)
            # What the layers between make of a row is not known; four times its parameters' share is a guess.
            each = k * 16 * row + 4 * copies
        return max(1, self.max_bytes // (tail.dtype.itemsize * each))

    def _rows(
        self, tail: AdaptedTail, forward: Callable[[Tensor], Tensor], index: Tensor, task: int | None, like: Tensor
    ) -> Tensor:
        """What the adapted part is fed with for the memory rows ``index`` ``(n, K)``, of the type of ``like``."""
        if not tail.layers:
            x: Tensor = self.memory.rows(index.flatten().cpu()).x.to(like.dtype)
            return x.reshape(*index.shape, *x.shape[1:])
        if task not in self._known:
            end = int(self.memory.slots()[-1]) + 1
            self._known[task] = torch.zeros(end, dtype=torch.bool, device=index.device)
            self._features[task] = like.new_empty(end, tail.width)
        known, features = self._known[task], self._features[task]
        missing = torch.unique(index)
        missing = missing[~known[missing]]
        if not len(missing):
            return features[index]
        width = self.memory.shape.numel() + tail.width
        for slots in torch.split(missing, max(1, self.max_bytes // (16 * width))):
            features[slots] = tail.inputs(forward, self.memory.rows(slots.cpu()).x)
            known[slots] = True
        return features[index]
