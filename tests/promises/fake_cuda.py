"""A GPU that is not there: tensors in main memory that say they are on ``cuda:0``, and a record of what would wait.

Every operation on such a tensor runs on the CPU. Operations that would make the host wait for a GPU, that would copy
to it, or that would fail there because devices are mixed are told by their names and arguments. This shows what is
dispatched, not what CUDA does: ``bench/gpu.py`` is for that.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from avalanche_memplugins.memories import _prefetch

GPU = torch.device("cuda:0")
_GENERATOR, _TO = torch.Generator, Tensor.to

# The host must know a value, or how many there are, before it can go on.
_WAITS = {
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_svd",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "linalg_lstsq",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
_COPIES = {"_to_copy", "copy_", "_copy_from", "lift_fresh"}
_FOLDERS = {
    "avalanche_memplugins/": "",
    "strategies/": "strategies/",
    "/avalanche/": "avalanche/",
    "torch/optim/": "torch/optim/",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class FakeTensor(Tensor):
    """A tensor that says it is on the GPU, around the one on the CPU that holds its values."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> FakeTensor:
        made: FakeTensor = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device="cpu",  # what autograd goes by, which would look for the streams of a GPU
        )
        made.values = values
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type == "cuda":
            return self if dtype in (None, self.dtype) else torch.ops.aten._to_copy(self, dtype=dtype)
        return torch.ops.aten._to_copy(self, dtype=dtype, device=device, non_blocking=non_blocking)

    def cpu(self, *args: Any) -> Tensor:
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def numpy(self, **kwargs: Any) -> Any:
        raise TypeError("a tensor on the device cannot become an array")

    def __repr__(self, **kwargs: Any) -> str:
        return f"FakeTensor({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _RECORD.run(func, args, kwargs or {})


class Record(TorchDispatchMode):
    """What the code under it would have done to a GPU, as ``(kind, operation, place)`` and how often.

    The kinds are ``"wait"`` and ``"upload"``; a copy to the device that the host waits for is both. The place is the
    innermost line of this library, of Avalanche or of an optimiser. Nothing is noted before :attr:`on` is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.found: Counter[tuple[str, str, str]] = Counter()
        self.generators = False  # of the device were made; operations cannot tell which of them they were given

    def note(self, kind: str, operation: str) -> None:
        if self.on:
            self.found[kind, operation, place(sys._getframe(1))] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        asked = kwargs.get("device")
        on_gpu = torch.device(asked).type == "cuda" if asked is not None else bool(fakes)
        if on_gpu and kwargs.get("generator") is not None and not self.generators:
            raise RuntimeError(f"{name}: a generator of the host for a tensor of the device")
        if name in _COPIES:
            on_gpu = self._note_copy(name, args, kwargs, on_gpu)
        elif fakes:
            self._note_operation(name, args, tensors, kwargs)
        if asked is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
            if "pin_memory" in kwargs:
                kwargs["pin_memory"] = False
        out = func(*tree_map(_values_of, args), **tree_map(_values_of, kwargs))
        if name.endswith("_") and not name.startswith("_assert") and args and isinstance(args[0], Tensor):
            return args[0]  # written in place
        return tree_map(_faked, out) if on_gpu else out

    def _note_copy(self, name: str, args: Any, kwargs: dict[str, Any], on_gpu: bool) -> bool:
        """Note a copy between host and device; returns whether the result is on the device."""
        if name == "copy_":
            source, on_gpu = args[1], isinstance(args[0], FakeTensor)
            waits = not (kwargs.get("non_blocking", False) or (len(args) > 2 and args[2]))
        else:
            source, waits = args[0], not kwargs.get("non_blocking", False)
        from_gpu = isinstance(source, FakeTensor)
        if from_gpu == on_gpu:
            return on_gpu
        if on_gpu and name == "copy_" and source.dim() == 0:
            return on_gpu  # filled with a number that the host knows
        direction = "copy to the device" if on_gpu else "copy to the host"
        if on_gpu:
            self.note("upload", direction)
        if waits:
            self.note("wait", direction)
        return on_gpu

    def _note_operation(self, name: str, args: Any, tensors: list[Tensor], kwargs: dict[str, Any]) -> None:
        if name in _WAITS and not (name == "repeat_interleave" and kwargs.get("output_size") is not None):
            self.note("wait", name)
        if name in _INDEXING:
            index = [part for part in args[1] if part is not None]
            if not isinstance(args[0], FakeTensor):
                raise RuntimeError(f"{name}: a tensor on the CPU was indexed on the device")
            # A number put where a mask says is filled in on the device.
            fills = len(args) > 2 and not isinstance(args[2], FakeTensor) and args[2].numel() == 1
            if not fills and any(part.dtype in (torch.bool, torch.uint8) for part in index):
                self.note("wait", f"{name} by a mask")
            for part in index:
                if not isinstance(part, FakeTensor):
                    self.note("upload", f"{name} by indices of the host")
                    self.note("wait", f"{name} by indices of the host")
            tensors = [args[0], *args[2:3]]
        elsewhere = [t for t in tensors if isinstance(t, Tensor) and not isinstance(t, FakeTensor) and t.dim()]
        if elsewhere:
            raise RuntimeError(f"{name}: tensors of both devices, on the host {tuple(elsewhere[0].shape)}")


_RECORD = Record()


class _AnyGenerator(type(_GENERATOR)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _GENERATOR)


class _Generator(_GENERATOR, metaclass=_AnyGenerator):
    """A generator of the CPU that may say it is the device's."""

    on: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.on = torch.device(device)
        _RECORD.generators |= made.on.type == "cuda"
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.on


class _Event:
    """Of a stream that is never seen to be done; waiting for it is noted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self, *args: Any) -> None: ...

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        _RECORD.note("wait", "event")


class _Stream:
    """In which everything happens at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_event(self, event: _Event) -> None: ...


@contextlib.contextmanager
def fake_cuda() -> Iterator[Record]:
    """Code in this block may use ``cuda:0``; the record tells what it did to it."""
    _RECORD.on = _RECORD.generators = False
    _RECORD.found.clear()
    state = torch.zeros(16, dtype=torch.uint8)
    lifts, overwrites = torch._C._only_lift_cpu_tensors(), torch.__future__.get_overwrite_module_params_on_conversion()
    replaced = {
        "_lazy_init": lambda: None,
        "Event": _Event,
        "Stream": _Stream,
        "current_stream": lambda *args: _Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "get_rng_state": lambda *args: state.clone(),
        "set_rng_state": lambda *args: None,
        "manual_seed": lambda seed: None,
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(Tensor, "to", _to))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda self, *args: self))
        stack.enter_context(mock.patch.object(Tensor, "record_stream"))
        # The record is of this thread.
        stack.enter_context(mock.patch.object(_prefetch, "in_background", _at_once))
        # Otherwise torch.tensor(..., device="cuda") would go around the record.
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        # Otherwise module.to() would put the outside of a tensor into a parameter, and lose the values.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        with _RECORD:
            yield _RECORD
    _RECORD.on = False


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], FakeTensor):
        args = (GPU, args[0].dtype, *args[1:])
    return _TO(self, *args, **kwargs)


def _at_once(work: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(work())
    return future


def _values_of(value: Any) -> Any:
    return value.values if isinstance(value, FakeTensor) else value


def _faked(value: Any) -> Any:
    return FakeTensor(value) if isinstance(value, Tensor) and not isinstance(value, FakeTensor) else value


def place(frame: FrameType | None) -> str:
    """The innermost line of this library, of Avalanche or of an optimiser at or around a frame."""
    while frame is not None:
        path = frame.f_code.co_filename
        for folder, shown in _FOLDERS.items():
            inside = path.rpartition(folder)[2] if folder in path else "testing/"
            if not inside.startswith("testing/"):
                return f"{shown}{inside}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
