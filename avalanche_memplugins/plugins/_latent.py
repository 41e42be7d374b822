"""Reads, extends or replaces the output of one module of a model while it runs."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from avalanche.models import avalanche_forward
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class LatentTap:
    """Between :meth:`open` and :meth:`close`, hangs on the output of the module called ``at``.

    The hook exists only then, so the model can be copied and pickled at any other time.

    :param at: name of the module, as in ``model.named_modules()``.
    """

    def __init__(self, at: str) -> None:
        self.at = at
        self.has_gradient = False  # whether a gradient could flow into the outputs that passed last
        self._handle: RemovableHandle | None = None
        self._seen: list[Tensor] = []
        self._codes: Tensor | None = None
        self._instead = False

    def find(self, model: nn.Module) -> nn.Module:
        """The module called ``at``.

        :raises ValueError: if the model has none.
        """
        modules: dict[str, nn.Module] = dict(model.named_modules())
        if self.at not in modules or not self.at:
            near = difflib.get_close_matches(self.at, modules, n=3) or [name for name in modules if name][:8]
            raise ValueError(f"at: wants the name of a module of the model, got {self.at!r}; there are {near}")
        return modules[self.at]

    def open(self, model: nn.Module, codes: Tensor | None, *, instead: bool = False) -> None:
        """Watch the output; let ``codes`` ``(R, *shape)`` follow its rows, or stand in their place."""
        self.close()
        self._codes, self._instead = codes, instead
        self._handle = self.find(model).register_forward_hook(self._hook)

    def close(self) -> list[Tensor]:
        """Let go; gives the outputs that passed, one for each run of the module."""
        if self._handle is not None:
            self._handle.remove()
        seen, self._seen, self._handle, self._codes = self._seen, [], None, None
        return seen

    def read(self, model: nn.Module, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The module's output ``(B, *shape)`` for rows ``x`` with task labels ``t`` ``(B,)``, and the model's."""
        self.open(model, None)
        try:
            output: Tensor = avalanche_forward(model, x, t)
        finally:
            latents = self.close()
        return in_batch_order(latents, t), output

    def forward_codes(self, model: nn.Module, codes: Tensor, t: Tensor, filler: Tensor) -> Tensor:
        """The model's output for codes that stand in the place of the module's output.

        :param codes: ``(R, *shape)``.
        :param t: task labels ``(R,)``; a multi-task model runs task by task.
        :param filler: rows of input: the layers below want some, and what they make of them is put aside.
        """
        if not is_multi_task_module(model):
            return self._run(model, codes, t, filler[:1])
        parts: list[Tensor] = []
        places: list[Tensor] = []
        for task in torch.unique(t).tolist():
            place = (t == task).nonzero().flatten()
            rows = torch.arange(len(place), device=filler.device) % len(filler)
            parts.append(self._run(model, codes[place], t[place], filler[rows]))
            places.append(place)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _run(self, model: nn.Module, codes: Tensor, t: Tensor, filler: Tensor) -> Tensor:
        self.open(model, codes, instead=True)
        try:
            output: Tensor = avalanche_forward(model, filler, t)
        finally:
            self.close()
        return output

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            raise ValueError(f"at: {self.at!r} has to give one tensor, got {type(output).__name__}")
        self.has_gradient = output.requires_grad
        self._seen.append(output.detach())
        if self._codes is None:
            return None
        codes = self._codes.to(output.dtype)
        if codes.shape[1:] != output.shape[1:]:
            raise ValueError(
                f"at: the memory holds rows of shape {tuple(codes.shape[1:])}, but {self.at!r} gives "
                f"{tuple(output.shape[1:])}"
            )
        return codes if self._instead else torch.cat([output, codes])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_seen": [], "_codes": None}


def in_batch_order(latents: list[Tensor], t: Tensor) -> Tensor:
    """One row an item, in the order of the batch, from the outputs of all runs of a module.

    :param latents: one tensor a run. A multi-task model runs once a task, in ascending order of the labels.
    :param t: task labels of the batch ``(B,)``.
    """
    if len(latents) == 1:
        return latents[0]
    return torch.cat(latents)[t.argsort(stable=True).argsort()]
