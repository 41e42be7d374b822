"""An optimiser's state by the names of the parameters, with Avalanche's own record of what is optimised."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from avalanche_memplugins.checkpointing._tree import Decoder, Encoder, Node
from avalanche_memplugins.checkpointing.errors import CheckpointError, UnsavableError


def capture_optimizer(strategy: Any, encoder: Encoder, path: str) -> Node:
    """Groups with their options, parameters by name, the state of each, and ``optimized_param_id``.

    A parameter is one of the ``model``'s; or an ``earlier`` one, that a head had before evaluation on
    new classes grew it (Avalanche swaps them at the next experience only); or from ``outside``.
    """
    optimizer: Optimizer = strategy.optimizer
    if type(optimizer).state_dict is not Optimizer.state_dict:
        raise UnsavableError(path, optimizer)
    current = {id(parameter): name for name, parameter in strategy.model.named_parameters()}
    optimized: dict[str, nn.Parameter] | None = strategy.optimized_param_id
    earlier = {id(parameter): name for name, parameter in (optimized or {}).items()}

    def entry(parameter: Tensor, at: str) -> Node:
        if id(parameter) in current:
            out = {"kind": "model", "name": current[id(parameter)]}
        else:
            name = earlier.get(id(parameter))
            kind = "outside" if name is None else "earlier"
            out = {"kind": kind, "name": name, "value": encoder.encode(parameter.detach(), f"{at}/value")}
        if parameter in optimizer.state:
            out["state"] = encoder.encode(dict(optimizer.state[parameter]), at)
        return out

    return {
        "class": type(optimizer).__qualname__,
        "groups": [
            {
                "parameters": [entry(p, f"{path}/{g}/{i}") for i, p in enumerate(group["params"])],
                "options": encoder.encode({k: v for k, v in group.items() if k != "params"}, f"{path}/{g}"),
            }
            for g, group in enumerate(optimizer.param_groups)
        ],
        "optimized": None if optimized is None else [[n, id(p) in current] for n, p in optimized.items()],
    }


def check_optimizer(strategy: Any, node: Node, decoder: Decoder) -> None:
    """Raise unless the state fits the strategy's optimiser."""
    optimizer: Optimizer = strategy.optimizer
    got, wanted = type(optimizer).__qualname__, node["class"]
    if got != wanted:
        raise CheckpointError(f"strategy.optimizer: expected {wanted}, as in the checkpoint, got {got}")
    groups = optimizer.param_groups
    if len(groups) != len(node["groups"]):
        raise CheckpointError(
            f"strategy.optimizer: expected {len(node['groups'])} parameter groups, as in the checkpoint, "
            f"got {len(groups)}"
        )
    own = {id(parameter) for parameter in strategy.model.parameters()}
    for g, (group, saved) in enumerate(zip(groups, node["groups"], strict=True)):
        for i, entry in enumerate(saved["parameters"]):
            if entry["kind"] == "outside":
                here = group["params"][i] if i < len(group["params"]) else None
                shape = tuple(decoder.stored(entry["value"]).shape)
                if here is None or id(here) in own or tuple(here.shape) != shape:
                    raise CheckpointError(
                        f"strategy.optimizer: expected a parameter {shape} from outside the model at place {i}"
                        f" of group {g}, as in the checkpoint"
                    )


def restore_optimizer(strategy: Any, node: Node, decoder: Decoder) -> None:
    """Set the state of the optimiser, after the model's parameters have taken their final shapes."""
    optimizer: Optimizer = strategy.optimizer
    current = dict(strategy.model.named_parameters())
    earlier: dict[str, nn.Parameter] = {}
    states: dict[Tensor, Any] = {}
    for group, saved in zip(optimizer.param_groups, node["groups"], strict=True):
        group.update(decoder.decode(saved["options"]))
        parameters: list[Tensor] = []
        for entry in saved["parameters"]:
            if entry["kind"] == "model":
                parameter: Tensor = current[entry["name"]]
            elif entry["kind"] == "earlier":
                parameter = earlier[entry["name"]] = nn.Parameter(decoder.decode(entry["value"]))
            else:
                parameter = group["params"][len(parameters)]
                with torch.no_grad():
                    parameter.copy_(decoder.decode(entry["value"]))
            parameters.append(parameter)
            if "state" in entry:
                states[parameter] = _state(decoder.decode(entry["state"]), group)
        # In place: some optimisers hold on to the list itself.
        group["params"][:] = parameters
    optimizer.state = defaultdict(dict, states)
    if node["optimized"] is None:
        strategy.optimized_param_id = None
    else:
        strategy.optimized_param_id = {
            name: current[name] if is_current else earlier[name]
            for name, is_current in node["optimized"]
            if is_current or name in earlier
        }


def _state(state: dict[str, Any], group: dict[str, Any]) -> dict[str, Any]:
    # PyTorch counts steps on the CPU whatever the device, unless told to keep the count there.
    step = state.get("step")
    if isinstance(step, torch.Tensor) and not (group.get("capturable") or group.get("fused")):
        state["step"] = step.cpu()
    return state
