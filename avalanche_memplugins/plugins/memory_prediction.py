"""A memory's own answers in evaluation, alone or beside the network's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.functional import fit_experts, product_of_experts
from avalanche_memplugins.memories import CodedMemory, RandomMemory, Recall
from avalanche_memplugins.memories.memory import AnsweringMemory
from avalanche_memplugins.plugins._answering import AnsweringPlugin, check_classes, forward_of
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._outputs import find_logits
from avalanche_memplugins.plugins._wrapped import unwrapped

_ROWS = 256  # through the model at a time
_LEAST = -13.8  # log probability of a class that the memory rules out, so that losses stay finite


class MemoryPredictionPlugin(AnsweringPlugin):
    r"""Replaces the network's answers by a memory's in evaluation, or multiplies both.

    .. math::
        \log p(c \mid x) = \tfrac1T \log p_M(c \mid x) + \text{const}, \qquad
        \log p(c \mid x) = w \log \mathrm{softmax}(o(x))_c + \tfrac1T \log p_M(c \mid x) + \text{const}

    It takes the place of ``strategy.mb_output``, so every metric sees it. Training is untouched. While the memory is
    empty, and for a task of a multi-head model that it holds no rows of, the model's own prediction stays. List it
    beside a :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` on the same memory, or let it write.

    After each experience it calls the memory's ``settle``, if it has one.

    :param memory: with ``predict``: :class:`~avalanche_memplugins.memories.GaussianMemory`,
        :class:`~avalanche_memplugins.memories.EpisodicMemory`, or one of your own.
    :param combine: ``"replace"`` the network's output, or take the ``"product"`` of both.
    :param temperature: T > 0, with w = 1; or ``"fitted"``: T, and w of a product, under which rows held from the stream
        have the least cross-entropy, found anew at each evaluation; never on test rows. The network was trained on
        rows that replay holds, so w is rather too large than too small.
    :param at: name of a module of the model whose output ``(B, *shape)`` the memory holds; None: the model's input. As
        that module learns, what was written goes stale; freeze it.
    :param rows: a :class:`~avalanche_memplugins.memories.RandomMemory` or
        :class:`~avalanche_memplugins.memories.CodedMemory` of model inputs, such as the one that replays. The memory
        that answers, empty at first, is then made anew from them, through the model as it is, at each evaluation: a
        head of discriminants over features that learn, which takes no bytes that are kept. None: it is as written.
    :param options: further arguments of ``memory.predict``, such as ``{"k": 5}``.
    :param fit_rows: a :class:`~avalanche_memplugins.memories.RandomMemory` or
        :class:`~avalanche_memplugins.memories.CodedMemory` of model inputs to fit to, such as the one that replays.
        None: the memory's own rows, each without itself among its neighbours; or rows that it generates.
    :param fit_size: rows to fit to, at most.
    :param writes: write the stream to the memory, too, in the first epoch.
    :param write_every: iterations between writes, >= 1.
    :raises TypeError: for a memory without ``predict``.
    :raises ValueError: for arguments out of range; in evaluation for a class that the model has no output for.

    Source of the product: Hinton, "Products of experts", 1999.

    >>> from avalanche_memplugins import GaussianMemory
    >>> plugin = MemoryPredictionPlugin(GaussianMemory(rank=None, precision=6), writes=True)
    >>> plugin.combine, plugin.temperature
    ('replace', 1.0)
    """

    def __init__(
        self,
        memory: AnsweringMemory,
        *,
        combine: Literal["replace", "product"] = "replace",
        temperature: float | Literal["fitted"] = 1.0,
        at: str | None = None,
        rows: RandomMemory | CodedMemory | None = None,
        options: Mapping[str, Any] | None = None,
        fit_rows: RandomMemory | CodedMemory | None = None,
        fit_size: int = 500,
        writes: bool = False,
        write_every: int = 1,
    ) -> None:
        check.having("memory", memory, ("predict", "device"), "a memory that answers, such as GaussianMemory")
        check.layer("at", at)
        for name, part in (("fit_rows", fit_rows), ("rows", rows)):
            if part is not None:
                check.having(name, part, ("slots", "rows", "to"), "a memory of rows, such as RandomMemory, or None")
        if rows is not None:
            if writes is True:
                raise ValueError("writes: expected False with rows, from which the memory is made anew, got True")
            if len(memory):
                raise ValueError(f"memory: expected an empty one with rows, got {len(memory)} rows in {memory!r}")
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"options: expected arguments by name, or None, got {check.show(options)}")
        super().__init__(memory, writes=writes, write_every=write_every)
        self.combine = check.choice("combine", combine, ("replace", "product"))
        self.temperature = temperature if temperature == "fitted" else _temperature(temperature)
        self.at = at
        self.options = dict(options or {})
        self.fit_rows, self.rows = fit_rows, rows
        self._empty = None if rows is None else copy.deepcopy(memory)
        self.fit_size = check.positive_integer("fit_size", fit_size)
        self._tap = None if at is None else LatentTap(at, appends=False)

    # ---------------------------------------------------------------- callbacks

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """See that the plugin is listed once, and that the model has the module.

        :raises ValueError: if not.
        """
        super().before_training(strategy, **kwargs)
        if self._tap is not None:
            self._tap.find(strategy.model)

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Let the memory settle, when the experience is over."""
        # An online stream calls an experience over when its last part is.
        if getattr(strategy.experience, "is_last_subexp", True) and hasattr(self.memory, "settle"):
            self.memory.settle()

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Forget what was made with memory and model as they were; estimate the memory anew, if it is to be.

        :raises ValueError: if the plugin is listed more than once.
        """
        if self.rows is not None and len(self.rows):
            self._estimate(strategy, self.rows)
        super().before_eval(strategy, **kwargs)

    @torch.no_grad()
    def _estimate(self, strategy: Any, rows: RandomMemory | CodedMemory) -> None:
        """Fill the memory with what the model makes of stored rows now."""
        model = unwrapped(strategy.model)
        memory: Any = copy.deepcopy(self._empty)
        memory.to(strategy.device)
        with torch.inference_mode(False), eval_mode(model):
            for slots in torch.split(rows.slots(), _ROWS):
                held = rows.rows(slots)
                x, y, t, origin = (column.to(strategy.device) for column in held[:4])
                memory.write(self._features(model, x, t), y, t, origin=origin.clamp_min(0))
        if hasattr(memory, "settle"):
            memory.settle()
        self.memory.load_state_dict(memory.state_dict())

    # ---------------------------------------------------------------- what the base class asks for

    def _to_write(self, model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), eval_mode(model):
            return self._features(model, x, t)

    def _predict(self, strategy: Any, model: nn.Module, x: Tensor, output: Tensor, task: int | None) -> Tensor:
        check_classes(self._what_is_held()[1], output.shape[1])
        weights = self._found_weights(strategy, model, x, output.shape[1])
        t = torch.full((len(x),), task or 0, device=x.device)
        answer = self._answer(self._features(model, x, t), output.shape[1], task)
        return self._combined(output, answer, weights)

    def _forget(self) -> None:
        super()._forget()
        self._weights: Tensor | None = None  # of network and memory

    # ---------------------------------------------------------------- parts of the above

    def _features(self, model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        """Rows as the memory holds them."""
        return x if self._tap is None else self._tap.read(model, x, t)[0]

    def _answer(self, features: Tensor, classes: int, task: int | None, **options: Any) -> Tensor:
        found: Tensor = self.memory.predict(features, classes=classes, task=task, **self.options, **options)
        return found.float().clamp_min(_LEAST)

    def _combined(self, logits: Tensor, answer: Tensor, weights: Tensor) -> Tensor:
        if self.combine == "replace":
            return (weights[1] * answer).log_softmax(1)
        return product_of_experts(torch.stack([logits.float().log_softmax(1), answer]), weights)

    def _found_weights(self, strategy: Any, model: nn.Module, x: Tensor, classes: int) -> Tensor:
        """w and 1 / T."""
        if self._weights is None:
            if isinstance(self.temperature, str):
                self._weights = self._fitted(strategy, model, x, classes)
            else:
                self._weights = torch.tensor([1.0, 1 / self.temperature], device=x.device)
        return self._weights

    def _fitted(self, strategy: Any, model: nn.Module, x: Tensor, classes: int) -> Tensor:
        own: dict[str, Any] = {}
        if self.fit_rows is not None:
            self.fit_rows.to(strategy.device)
            rows = _some_rows(self.fit_rows, self.fit_size)
        elif isinstance(self.memory, RandomMemory):
            rows, own = _some_rows(self.memory, self.fit_size), {"without_itself": True}
        else:
            # A copy: the memory draws on as if nothing had been drawn.
            rows = copy.deepcopy(self.memory).sample(self.fit_size)
        y, t = rows.y.to(x.device), rows.t.to(x.device)
        if self._tap is None:
            features = inputs = rows.x
        elif self.fit_rows is not None:
            features, inputs = self._features(model, rows.x, t), rows.x
        else:
            features, inputs = rows.x, None
        many = is_multi_task_module(strategy.model)
        logits = torch.empty(len(y), classes, device=x.device)
        answer = torch.empty_like(logits)
        for task in torch.unique(t).tolist() if many else [None]:
            mine = torch.arange(len(y), device=x.device) if task is None else (t == task).nonzero().flatten()
            if task is not None and task not in self._what_is_held()[0]:
                continue
            if inputs is not None:
                logits[mine] = forward_of(model, task, x.dtype)(inputs[mine]).float()
            elif self._tap is not None:
                output = self._tap.forward_codes(model, features[mine].to(x.dtype), t[mine], x)
                logits[mine] = find_logits(output, len(mine))[0].float()
            answer[mine] = self._answer(features[mine], classes, task, **own)
        experts = torch.stack([logits.log_softmax(1), answer])
        if self.combine == "replace":
            return torch.cat([torch.zeros(1, device=x.device), fit_experts(experts[1:], y)])
        return fit_experts(experts, y)


def _temperature(value: Any) -> float:
    try:
        return check.number("temperature", value, above=0)
    except ValueError:
        raise ValueError(f"temperature: expected a number > 0, or 'fitted', got {check.show(value)}") from None


def _some_rows(memory: RandomMemory | CodedMemory, most: int) -> Recall:
    """Rows from evenly spaced slots: nothing is drawn, so nothing else changes."""
    slots = memory.slots()
    if not len(slots):
        raise ValueError("temperature: 'fitted' expected rows to fit to, got a memory without any")
    chosen = torch.linspace(0, len(slots) - 1, min(most, len(slots))).long()
    return memory.rows(slots[chosen])
