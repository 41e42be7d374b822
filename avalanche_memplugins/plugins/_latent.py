"""Reads, extends or replaces the output of one module of a model while it runs."""

from __future__ import annotations

import difflib
import functools
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from avalanche.models import avalanche_forward
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DataParallel
from torch.utils.hooks import RemovableHandle

from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins._random import isolated
from avalanche_memplugins.plugins._outputs import joined, rows_of
from avalanche_memplugins.plugins._wrapped import is_compiled, path_to, uncompile, unwrapped

_TRIED = 12  # modules that are tried as a better choice


class LatentTap:
    """Between :meth:`open` and :meth:`close`, hangs on the output of the module called ``at``.

    The hooks exist only then, so the model can be copied and pickled at any other time. Compiled code does not see
    hooks that come later, so modules around the watched one run without ``torch.compile`` meanwhile. In the first
    forward pass three rows are sent through the model in eval mode to see that the module suits; nothing of the model
    changes by it.

    :param at: name of the module, as in ``model.named_modules()``, with or without the names of wrappers.
    :param argument: what the user calls this name; errors begin with it.
    :param appends: whether codes will be appended to the module's output.
    :param tells: warn, once, if the model runs without ``torch.compile`` for it.
    """

    def __init__(self, at: str, *, argument: str = "at", appends: bool = True, tells: bool = True) -> None:
        self.at = at
        self.argument = argument
        self.appends = appends
        self.has_gradient = False  # whether a gradient could flow into the outputs that passed last
        self._handles: list[RemovableHandle] = []
        self._restore: Callable[[], None] | None = None  # of compiled code
        self._checked: weakref.ref[nn.Module] | None = None  # the model that the module was found to suit in
        self._told = not tells
        self._resting = False  # while the module is checked
        self._many = False  # runs are expected: a multi-task model runs once a task
        self._found: list[nn.Module] = []  # the path in the model that was last asked for by find
        self._seen: list[Tensor] = []
        self._codes: Tensor | None = None
        self._instead = False

    def find(self, model: nn.Module) -> nn.Module:
        """The module called ``at``; until :meth:`lose` others need not look for it again in the same model.

        :raises ValueError: if the model has none, or hooks on it would not be seen.
        """
        self._found = self._path(model)
        return self._found[-1]

    def lose(self) -> None:
        """Let go of the module that was found, and of the model around it."""
        self._found = []

    def open(self, model: nn.Module, codes: Tensor | None, *, instead: bool = False, check: bool = True) -> None:
        """Watch the output; let ``codes`` ``(R, *shape)`` follow its rows, or stand in their place.

        :param check: see in the first forward pass that the module suits.
        :raises ValueError: as :meth:`find`. In the forward pass, before anything is trained, if the module does not
            run once a pass, gives no tensor of one row an item, or cannot be given more rows; the hooks are gone then.
        """
        self.close()
        path = self._found if self._found and self._found[0] is model else self._path(model)
        self._many = is_multi_task_module(model)
        self._codes, self._instead = codes, instead
        self._run_uncompiled(path)
        self._handles.append(path[-1].register_forward_hook(self._hook))
        root = unwrapped(model)
        if check and (self._checked is None or self._checked() is not root):
            self._handles.append(root.register_forward_pre_hook(self._before_first, with_kwargs=True))
            self._handles.append(root.register_forward_hook(self._after_first))

    def close(self) -> list[Tensor]:
        """Let go; gives the outputs that passed, one for each run of the module."""
        for handle in self._handles:
            handle.remove()
        if self._restore is not None:
            self._restore()
        seen, self._seen, self._handles, self._codes, self._restore = self._seen, [], [], None, None
        return seen

    def read(self, model: nn.Module, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The module's output ``(B, *shape)`` for rows ``x`` with task labels ``t`` ``(B,)``, and the model's."""
        self.open(model, None)
        try:
            output: Tensor = avalanche_forward(model, x, t)
        finally:
            latents = self.close()
        return in_batch_order(latents, t), output

    def forward_codes(self, model: nn.Module, codes: Tensor, t: Tensor, filler: Tensor) -> Any:
        """The model's output for codes that replace the module's output.

        :param codes: ``(R, *shape)``.
        :param t: task labels ``(R,)``; a multi-task model runs task by task.
        :param filler: rows of input: the layers below need some; what they make of them is put aside.
        """
        if not is_multi_task_module(model):
            return self._run(model, codes, t, filler[:1])
        parts: list[Any] = []
        places: list[Tensor] = []
        for task in torch.unique(t).tolist():
            place = (t == task).nonzero().flatten()
            rows = torch.arange(len(place), device=filler.device) % len(filler)
            parts.append(self._run(model, codes[place], t[place], filler[rows]))
            places.append(place)
        return rows_of(functools.reduce(joined, parts), torch.cat(places).argsort())

    def _run(self, model: nn.Module, codes: Tensor, t: Tensor, filler: Tensor) -> Any:
        # The module was checked with the rows whose outputs were stored.
        self.open(model, codes, instead=True, check=False)
        try:
            return avalanche_forward(model, filler, t)
        finally:
            self.close()

    def _path(self, model: nn.Module) -> list[nn.Module]:
        path = path_to(model, self.at)
        if path is None:
            modules = dict(unwrapped(model).named_modules(remove_duplicate=False))
            near = difflib.get_close_matches(self.at, modules, n=3) or [name for name in modules if name][:8]
            raise ValueError(
                f"{self.argument}: expected the name of a module of the model, got {self.at!r}; there are {near}"
            )
        for module in path:
            if isinstance(module, torch.jit.ScriptModule):
                raise ValueError(
                    f"{self.argument}: {self.at!r} lies in a torch.jit.ScriptModule, whose layers cannot be watched; "
                    "use the model that was scripted, or torch.compile"
                )
            if isinstance(module, DataParallel) and len(module.device_ids) > 1:
                raise ValueError(
                    f"{self.argument}: {self.at!r} lies in a DataParallel over {len(module.device_ids)} devices, where "
                    "it runs once on each; use DistributedDataParallel, or one device"
                )
        return path

    def _run_uncompiled(self, path: list[nn.Module]) -> None:
        around = [module for module in path[:-1] if is_compiled(module)]
        if path[-1]._compiled_call_impl is not None:  # it has the hooks in it; other ways to compile leave them outside
            around.append(path[-1])
        if not around:
            return
        self._restore = uncompile(around)
        if not self._told:
            self._told = True
            warnings.warn(
                f"{self.argument}: {self.at!r} lies in compiled code, which does not see that it is watched, so the "
                "model runs without torch.compile while it is; to keep the speed, compile the parts below and above it "
                "each by itself",
                stacklevel=4,
            )

    # ---------------------------------------------------------------- hooks

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if self._resting:
            return None
        if not isinstance(output, Tensor):
            self._refuse(f"{self.at!r} has to give one tensor, got {type(output).__name__}")
        if self._seen and not self._many:
            self._refuse(f"{self.at!r} runs more than once in a forward pass; name a module that runs once")
        self.has_gradient = output.requires_grad
        self._seen.append(output.detach())
        if self._codes is None:
            return None
        codes = self._codes.to(output.dtype)
        if codes.shape[1:] != output.shape[1:]:
            self._refuse(
                f"the memory holds rows of shape {tuple(codes.shape[1:])}, but {self.at!r} gives "
                f"{tuple(output.shape[1:])}"
            )
        return codes if self._instead else torch.cat([output, codes])

    def _before_first(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        if self._resting:  # the check runs the model
            return
        module, self._resting = self._watched(root), True
        try:
            fault = check_layer(root, module, self.at, args, kwargs, appends=self.appends and not self._many)
        finally:
            self._resting = False
        if fault:
            self._refuse(fault)

    def _after_first(self, root: nn.Module, args: Any, output: Any) -> None:
        if self._resting:
            return
        if not self._seen:
            self._refuse(
                f"{self.at!r} did not run in the forward pass, or ran in compiled code; name a module that runs"
            )
        self._checked = weakref.ref(root)

    def _watched(self, root: nn.Module) -> nn.Module:
        path = path_to(root, self.at)
        return root if path is None else path[-1]

    def _refuse(self, fault: str) -> NoReturn:
        self.close()
        raise ValueError(f"{self.argument}: {fault}")

    def __getstate__(self) -> dict[str, Any]:
        nothing: dict[str, Any] = {
            "_handles": [],
            "_found": [],
            "_seen": [],
            "_codes": None,
            "_restore": None,
            "_checked": None,
            "_resting": False,
        }
        return {**self.__dict__, **nothing}


def in_batch_order(latents: list[Tensor], t: Tensor) -> Tensor:
    """One row an item, in the order of the batch, from the outputs of all runs of a module.

    :param latents: one tensor a run. A multi-task model runs once a task, in ascending order of the labels.
    :param t: task labels of the batch ``(B,)``.
    :raises ValueError: if these are not as many rows as the batch has.
    """
    rows = sum(len(latent) for latent in latents)
    if len(latents) != 1 and rows != len(t):
        raise ValueError(f"at: expected {len(t)} rows from the module, one an item, got {rows} in {len(latents)} runs")
    if len(latents) == 1:
        return latents[0]
    return torch.cat(latents)[t.argsort(stable=True).argsort()]


# ---------------------------------------------------------------- whether a module suits


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
def _hooks(model: nn.Module, hook: Callable[[nn.Module, Any, Any], object]) -> Iterator[None]:
    handles = [m.register_forward_hook(hook) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(tree: object) -> Iterator[Tensor]:
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
