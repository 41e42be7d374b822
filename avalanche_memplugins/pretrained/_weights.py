"""One file of weights: safetensors, with the network's class and arguments in the header."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from avalanche_memplugins._fingerprint import fingerprint

FORMAT = "1"


class Contents(NamedTuple):
    """A network in eval mode on the CPU, the other tensors of its file, its card and manifest."""

    network: nn.Module
    tensors: dict[str, Tensor]
    card: str
    manifest: dict[str, Any]


def read_weights(path: Path, find: Callable[[str, Path], Callable[..., nn.Module]], *, prefix: str) -> Contents:
    """Build a network and load its weights.

    :param path: of the file.
    :param find: gives the constructor of an architecture's name.
    :param prefix: of the weights' names among the tensors.
    :raises ValueError: for a file that is damaged, or of an architecture that it does not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        # Before anything else of it is believed.
        intact = header["fingerprint"] == fingerprint(tensors)
        kwargs, manifest = json.loads(header["kwargs"]), json.loads(header["manifest"])
        architecture, version = header["architecture"], header["format"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"name: {path} is damaged or no pretrained network: {error!r}") from error
    if version != FORMAT:
        raise ValueError(f"name: {path} has format {version}, this version of the library reads {FORMAT}")
    if not intact:
        raise ValueError(f"name: {path} is damaged: its tensors are not those that were saved")
    build = find(architecture, path)
    weights = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
    try:
        # The first weights of a network are drawn, and then overwritten: no reason to touch the global generator.
        with torch.random.fork_rng(devices=[]):
            network = build(**kwargs)
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"name: the weights in {path} do not fit {architecture}(**{kwargs}): {error}") from error
    card = path.with_suffix(".md")
    return Contents(network.eval(), tensors, card.read_text(encoding="utf-8") if card.is_file() else "", manifest)


def write_weights(
    path: Path,
    network: nn.Module,
    architecture: dict[str, Any],
    tensors: dict[str, Tensor],
    *,
    prefix: str,
    manifest: dict[str, Any] | None,
    card: str | None,
) -> Path:
    """Write a network for :func:`read_weights`, whole or not at all; returns the path.

    :param path: of the file; its folder is made.
    :param network: the name of its class goes into the file.
    :param architecture: arguments of its constructor, JSON values.
    :param tensors: to keep beside the weights.
    :param prefix: put in front of the weights' names.
    :param manifest: JSON values to keep with it.
    :param card: text for people; None: a card that is there stays.
    """
    whole = {**{prefix + key: value for key, value in network.state_dict().items()}, **tensors}
    # Copies: safetensors refuses tensors that share memory.
    whole = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in whole.items()}
    header = {
        "format": FORMAT,
        "architecture": type(network).__name__,
        "kwargs": json.dumps(architecture),
        "manifest": json.dumps(manifest or {}),
        "fingerprint": fingerprint(whole),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        save_file(whole, draft, metadata=header)
        os.chmod(draft, 0o644)  # mkstemp's own 0o600 would lock colleagues out
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    if card is not None:
        path.with_suffix(".md").write_text(card, encoding="utf-8")
    return path
