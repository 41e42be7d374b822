"""A model's state, and how a fresh model grows the heads that a trained one has."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from avalanche.models import DynamicModule, IncrementalClassifier, MultiHeadClassifier
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from torch import Tensor, nn

from avalanche_memplugins.checkpointing._tree import Decoder, Encoder, Node
from avalanche_memplugins.checkpointing.errors import CheckpointError, UnsavableError

_MODULE_INTERNALS = frozenset(vars(nn.Module()))


def capture_model(model: nn.Module, encoder: Encoder, path: str) -> Node:
    """Parameters, buffers, extra states, plain attributes of modules, training modes and frozen parameters."""
    state = model.state_dict()
    transient = {name: buffer for name, buffer in model.named_buffers() if name not in state}
    attributes = {name: _attributes(module, encoder, f"{path}/{name}") for name, module in _own(model)}
    return {
        # A list of pairs: the order of heads is part of the state, since gradient norms sum in it.
        "state": [[key, encoder.encode(value, f"{path}/{key}")] for key, value in state.items()],
        "transient": [[key, encoder.encode(value, f"{path}/{key}")] for key, value in transient.items()],
        "attributes": {name: values for name, values in attributes.items() if values},
        "evaluating": [name for name, module in model.named_modules() if not module.training],
        "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
    }


def check_model(
    model: nn.Module, node: Node, decoder: Decoder, experiences: Iterable[Any] | None, trained: int
) -> None:
    """Raise unless ``model`` fits the state or can grow to fit it; the model itself stays as it is."""
    if _misfits(model, _wanted(node, decoder)):
        grow_model(copy.deepcopy(model), node, decoder, experiences, trained)


def grow_model(
    model: nn.Module,
    node: Node,
    decoder: Decoder,
    experiences: Iterable[Any] | None,
    trained: int,
    *,
    what: str = "strategy.model",
) -> None:
    """Give ``model`` the heads that the state has.

    Avalanche's own classifiers grow by the shapes of the state. For other dynamic modules the model is
    adapted to the ``experiences`` again, as during training, and beyond the trained ones as during evaluation.

    :raises CheckpointError: if the state does not fit even so.
    """
    wanted = _wanted(node, decoder)
    _grow_heads(model, wanted)
    for number, experience in enumerate(experiences if experiences is not None else ()):
        if not _misfits(model, wanted):
            break
        model.train(number < trained)
        avalanche_model_adaptation(model, experience)
    misfits = _misfits(model, wanted)
    if misfits:
        some = "; ".join(misfits[:5]) + ("; ..." if len(misfits) > 5 else "")
        hint = ""
        if experiences is None and any(isinstance(module, DynamicModule) for module in model.modules()):
            hint = (
                " If modules of your own grow with the stream, pass experiences=benchmark.train_stream,"
                " so that the model can be adapted to it again."
            )
        raise CheckpointError(f"{what}: does not fit the checkpoint: {some}.{hint}")


def restore_model(model: nn.Module, node: Node, decoder: Decoder) -> None:
    """Set the state of a model that has grown to it."""
    model.load_state_dict({key: decoder.decode(value) for key, value in node["state"]}, strict=True)
    modules = dict(model.named_modules())
    for key, value in node["transient"]:
        owner, _, name = key.rpartition(".")
        if owner in modules:
            modules[owner].register_buffer(name, decoder.decode(value), persistent=False)
    for owner, values in node["attributes"].items():
        # Past __setattr__: as_multitask's wrapper would hand the attribute on to the wrapped model.
        held = modules[owner].__dict__
        held.update({name: decoder.decode(value, held.get(name)) for name, value in values.items()})
    evaluating, frozen = set(node["evaluating"]), set(node["frozen"])
    for name, module in modules.items():
        module.training = name not in evaluating
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _own(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # The plain attributes of PyTorch's own layers are settings; what changes is in their state dicts.
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("torch."):
            yield name, module


def _attributes(module: nn.Module, encoder: Encoder, path: str) -> Node:
    out = {}
    for name, value in vars(module).items():
        if name not in _MODULE_INTERNALS and not _has_gradients(value):
            try:
                with encoder.all_or_nothing():
                    out[name] = encoder.encode(value, f"{path}:{name}")
            except UnsavableError:
                continue  # functions, references to other objects: the constructor's business
    return out


def _has_gradients(value: object) -> bool:
    # Such as the list of weights that recurrent layers keep: they are the parameters themselves.
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_has_gradients(item) for item in value)
    return isinstance(value, Tensor) and (isinstance(value, nn.Parameter) or value.requires_grad)


def _wanted(node: Node, decoder: Decoder) -> dict[str, Tensor | None]:
    # Only shapes and types matter, so nothing is decoded; extra states have neither.
    return {
        key: decoder.stored(value) if isinstance(value, dict) and value.get("$") == "tensor" else None
        for key, value in node["state"]
    }


def _misfits(model: nn.Module, wanted: dict[str, Tensor | None]) -> list[str]:
    held = model.state_dict()
    out = [f"{key} is missing from the checkpoint" for key in held if key not in wanted]
    for key, tensor in wanted.items():
        if key not in held:
            out.append(f"{key} is missing from the model")
        elif tensor is not None:
            mine = held[key]
            if mine.shape != tensor.shape or mine.dtype != tensor.dtype:
                out.append(f"{key} is {_described(tensor)} in the checkpoint, {_described(mine)} in the model")
    return out


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _grow_heads(model: nn.Module, wanted: dict[str, Tensor | None]) -> None:
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, MultiHeadClassifier):
            _add_heads(module, f"{name}." if name else "", wanted)
    for name, module in list(model.named_modules()):
        prefix = f"{name}." if name else ""
        if isinstance(module, IncrementalClassifier):
            _widen(module, wanted.get(f"{prefix}classifier.weight"))
        for buffer, held in list(module._buffers.items()):
            # Lazy buffers, and the masks of active units, which are as long as their heads.
            tensor = wanted.get(prefix + buffer)
            mask = buffer.startswith("active_units")
            if tensor is not None and (held is None or (mask and held.shape != tensor.shape)):
                module._buffers[buffer] = _like(tensor, model)


def _add_heads(module: MultiHeadClassifier, prefix: str, wanted: dict[str, Tensor | None]) -> None:
    for key, tensor in wanted.items():
        below = key.removeprefix(prefix) if key.startswith(prefix) else ""
        parts = below.split(".")
        if parts[0] == "classifiers" and parts[1] not in module.classifiers:
            device = next(module.parameters()).device
            head = IncrementalClassifier(
                module.in_features, module.starting_out_features, masking=False, auto_adapt=False
            )
            module.classifiers[parts[1]] = head.to(device)
        elif below.startswith("active_units_T") and tensor is not None and below not in module._buffers:
            module.register_buffer(below, _like(tensor, module))


def _widen(module: IncrementalClassifier, weight: Tensor | None) -> None:
    old = module.classifier
    if weight is None or weight.ndim != 2 or weight.shape[1] != old.in_features:
        return
    if len(weight) > old.out_features:
        new = nn.Linear(old.in_features, len(weight), bias=old.bias is not None)
        module.classifier = new.to(device=old.weight.device, dtype=old.weight.dtype)


def _like(tensor: Tensor, module: nn.Module) -> Tensor:
    first = next(module.parameters(), None)
    return torch.empty_like(tensor, device=None if first is None else first.device)
