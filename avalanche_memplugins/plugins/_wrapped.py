"""Models inside wrappers, and modules under ``torch.compile``: found by name, and run without it for a while."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_COMPILED = "_torchdynamo_orig_callable"  # torch.compile leaves the function that it was given under this name


def inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps: ``torch.compile``, data parallel, averaged weights. None if it is no wrapper."""
    if _is_optimized(module):
        return _original(module)
    if isinstance(module, DataParallel | DistributedDataParallel | AveragedModel):
        inner: nn.Module = module.module
        return inner
    return None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without the wrappers around it."""
    while (inner := inside(model)) is not None:
        model = inner
    return model


def path_to(model: nn.Module, name: str) -> list[nn.Module] | None:
    """The modules from the model to the one of a name, both included; None if there is no such module.

    :param name: as in ``model.named_modules()``, with the names that wrappers add (``_orig_mod``, ``module``) or
        without them.
    """
    parts = name.split(".")
    plain = [part for part in parts if part != "_orig_mod"]
    for wanted in (parts, plain, [part for part in plain if part != "module"]):
        found = _walk(model, wanted) if wanted and name else None
        if found is not None:
            return found
    return None


def _walk(module: nn.Module, parts: list[str]) -> list[nn.Module] | None:
    if not parts:
        return [module]
    # Those of a ScriptModule are no dict.
    child = module._modules[parts[0]] if parts[0] in module._modules else None  # noqa: SIM401
    found = None if child is None else _walk(child, parts[1:])
    if found is None and (inner := inside(module)) is not None:
        found = _walk(inner, parts)
    return None if found is None else [module, *found]


def is_compiled(module: nn.Module) -> bool:
    """Whether calling this module runs compiled code, in which hooks that were added later are not seen."""
    return (
        module._compiled_call_impl is not None
        or _is_optimized(module)
        or hasattr(getattr(module, "forward", None), _COMPILED)
    )


def uncompile(modules: Iterable[nn.Module]) -> Callable[[], None]:
    """Let modules run as they were before ``torch.compile``; gives the function that takes this back.

    Nothing is compiled anew: the compiled code is put aside and comes back. Other modules stay as they are.
    """
    undo: list[tuple[nn.Module, str, Any]] = []
    for module in modules:
        if module._compiled_call_impl is not None:
            undo.append((module, "_compiled_call_impl", module._compiled_call_impl))
            module._compiled_call_impl = None
        if _is_optimized(module):
            undo.append((module, "forward", module.forward))
            module.forward = _original(module).__call__
        elif hasattr(getattr(module, "forward", None), _COMPILED):
            plain = getattr(module.forward, _COMPILED)
            undo.append((module, "forward", vars(module).get("forward")))
            module.forward = plain if isinstance(plain, MethodType) else MethodType(plain, module)

    def restore() -> None:
        while undo:
            module, name, value = undo.pop()
            if value is None:
                delattr(module, name)
            else:
                setattr(module, name, value)

    return restore


def copied(model: nn.Module) -> nn.Module:
    """A deep copy that runs by itself: the copy of a compiled ``forward`` would run the model that was copied."""
    restore = uncompile(model.modules())
    # What a module keeps of the last batch has a graph behind it, which cannot be copied.
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(value): value.detach() for value in kept if value.grad_fn is not None}
    try:
        return copy.deepcopy(model, memo)
    finally:
        restore()


def _original(module: nn.Module) -> nn.Module:
    original: nn.Module = module.get_submodule("_orig_mod")
    return original


def _is_optimized(module: nn.Module) -> bool:
    # Importing dynamo takes a second; without it nothing is compiled.
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)
