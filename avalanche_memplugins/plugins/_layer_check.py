"""Whether a module's output can be stored and replayed: looked at with a few rows, before anything is trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.plugins._augment import isolated
from avalanche_memplugins.plugins._wrapped import uncompile

_TRIED = 12  # modules that are tried as a better choice


def check_layer(
    model: nn.Module, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, appends: bool
) -> str | None:
    """What speaks against replay at the output of a module; None: nothing.

    The model runs on three rows and on two, in eval mode without gradient, so that a dimension that only happens to be
    as long as the batch is told from one that is the batch. A module that does not run then is looked for in train
    mode, as some run there only; the buffers are put back. Hooks on the model do not run.

    :param model: without wrappers, called with ``args`` and ``kwargs``.
    :param module: of the model.
    :param name: of the module.
    :param appends: whether rows will be appended to its output; then this is tried.
    """
    found = next(_tensors((args, kwargs)), None)
    if found is None or not found.ndim or not len(found):
        return None
    restore = uncompile(model.modules())
    try:
        with torch.no_grad(), isolated(found.device, 0), _no_hooks(model):
            with eval_mode(model):
                trial = _Trial(model, args, kwargs, found, appends)
                if module in trial.runs or not trial.runs:
                    fault = trial.fault(module, name)
                    return None if fault is None else fault + trial.advice(name)
            with _same_buffers(model):
                real = _Trial(model, args, kwargs, found, appends)
                if module in real.runs or not real.runs:
                    return real.fault(module, name)
            with eval_mode(model):
                return f"{name!r} does not run in a forward pass{trial.advice(name)}"
    finally:
        restore()


class _Trial:
    """Runs a model on its first rows and notes what its modules do."""

    def __init__(self, model: nn.Module, args: Any, kwargs: Any, batch: Tensor, appends: bool) -> None:
        self.model, self.appends = model, appends
        rows = torch.arange(len(batch), device=batch.device)
        if is_multi_task_module(model) and len(args) > 1 and isinstance(args[1], Tensor):
            rows = rows[args[1] == args[1][0]]  # of one task, so that every module runs once
        self._rows = [rows[torch.arange(n, device=rows.device) % len(rows)] for n in (3, 2)]
        self._inputs = [_picked((args, kwargs), index, len(batch)) for index in self._rows]
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self.runs: dict[nn.Module, list[list[Any]]] = {}  # outputs, run by run, for three rows and for two
        try:
            both = [self._watch(*inputs) for inputs in self._inputs]
        except Exception:
            return  # a model that takes no smaller batches: nothing can be said of it
        self.runs = {m: [seen.get(m, []) for seen in both] for m in set(both[0]) | set(both[1])}

    def fault(self, module: nn.Module, name: str) -> str | None:
        """What speaks against one module."""
        outputs = self.runs.get(module)
        if outputs is None:
            return None
        most = max(map(len, outputs))
        if most > 1:
            return f"{name!r} runs {most} times in a forward pass"
        for output, index in zip([run[0] for run in outputs if run], self._rows, strict=False):
            if not isinstance(output, Tensor):
                return f"{name!r} gives a {type(output).__name__}, not one tensor with one row an item"
            if not output.ndim or len(output) != len(index):
                given = f"{len(output)} rows" if output.ndim else "a number"
                return f"{name!r} gives {given} for {len(index)} rows of input, not one row an item"
        return self._fault_of_appending(module, name) if self.appends else None

    def advice(self, name: str) -> str:
        """Names of modules near this one that nothing speaks against."""
        parts = name.split(".")
        above = [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]
        beside = [other for other in self._modules if other and other not in above and other != name]
        beside.sort(key=lambda other: -_shared(other.split("."), parts))
        fit: list[str] = []
        for other in [*above, *beside][:_TRIED]:
            module = self._modules.get(other)
            if module in self.runs and not self._is_last(module) and self.fault(module, other) is None:
                fit.append(repr(other))
            if len(fit) == 2:
                break
        such_as = f", such as {' or '.join(fit)}" if fit else ""
        return f"; name a module that runs once and gives one tensor with one row an item{such_as}"

    def _is_last(self, module: nn.Module) -> bool:
        """Whether the module gives the model's own output, so that nothing would be left to learn from replay."""
        return any(output is self.runs[self.model][0][0] for output in self.runs[module][0])

    def _fault_of_appending(self, module: nn.Module, name: str) -> str | None:
        handle = module.register_forward_hook(lambda m, args, output: torch.cat([output, output[:1]]))
        args, kwargs = self._inputs[1]
        wanted = len(self._rows[1]) + 1
        why = f"rows cannot be appended to the output of {name!r}: "
        try:
            output = self.model(*args, **kwargs)
        except Exception as error:
            line = (str(error).splitlines() or [""])[0][:120]
            return f"{why}the layers above it fail with more rows than the input has ({type(error).__name__}: {line})"
        finally:
            handle.remove()
        lengths = [len(each) for each in _tensors(output) if each.ndim]
        if lengths and wanted not in lengths:
            return f"{why}the model then gives {lengths[0]} rows, not {wanted}"
        return None

    def _watch(self, args: Any, kwargs: Any) -> dict[nn.Module, list[Any]]:
        seen: dict[nn.Module, list[Any]] = {}
        with _hooks(self.model, lambda module, _, output: seen.setdefault(module, []).append(output)):
            self.model(*args, **kwargs)
        return seen


@contextmanager
def _no_hooks(model: nn.Module) -> Iterator[None]:
    """The hooks of others stay out of it: they would count the check as passes of the run."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    # A lazy module needs its own hook to come to its parameters.
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule | LazyModuleMixin)]
    before = [(vars(m), kind, vars(m)[kind]) for m in modules for kind in kinds]
    for attributes, kind, _ in before:
        attributes[kind] = OrderedDict()
    try:
        yield
    finally:
        for attributes, kind, hooks in before:
            attributes[kind] = hooks


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


@contextmanager
def _hooks(model: nn.Module, hook: Any) -> Iterator[None]:
    handles = [m.register_forward_hook(hook) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _tensors(branch)


def _picked(tree: Any, index: Tensor, batch: int) -> Any:
    """Rows of all tensors that have as many as the batch."""
    if isinstance(tree, Tensor):
        return tree[index] if tree.ndim and len(tree) == batch else tree
    if type(tree) is dict:
        return {key: _picked(value, index, batch) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_picked(branch, index, batch) for branch in tree)
    return tree


def _shared(one: list[str], other: list[str]) -> int:
    """How many parts two names begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
