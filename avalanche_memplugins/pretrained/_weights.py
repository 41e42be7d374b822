"""One file of weights: safetensors, with the network's class and arguments in the header."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from avalanche_memplugins._drafts import check_writable, draft_of, real_place, sync, telling
from avalanche_memplugins._fingerprint import fingerprint
from avalanche_memplugins._folders import shown
from avalanche_memplugins.pretrained._shipped import HEADERS

FORMAT = "1"
_CHECKSUM = "header_sha256"
_NEEDED = {"architecture", "fingerprint", "format", "kwargs", "manifest"}
_LARGEST = 2**24  # of numbers that an architecture is made of


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
        header, tensors = _read(path)
        # Before anything else of it is believed.
        intact = header["fingerprint"] == fingerprint(tensors)
        wanted = header.get(_CHECKSUM) or HEADERS.get(header["fingerprint"])
        if wanted is not None and wanted != _digest(header):
            raise ValueError("the checksum of its header differs")
        if strange := sorted(header.keys() - _NEEDED - {_CHECKSUM, "card"}):
            raise ValueError(f"its header has the entries {shown(strange)}")
        kwargs, manifest = json.loads(header["kwargs"]), json.loads(header["manifest"])
        architecture, version = header["architecture"], header["format"]
        if not isinstance(kwargs, dict) or not isinstance(manifest, dict):
            raise ValueError("arguments and manifest are to be dicts")
        if len(architecture) > 100:
            raise ValueError(f"its architecture is {shown(architecture)}")
        _check_arguments(kwargs)
        _check_finite(tensors)
        card = header["card"] if "card" in header else _read_card(path)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"name: {path} is damaged or no pretrained network: {shown(error)}") from error
    if version != FORMAT:
        raise ValueError(f"name: {path} has format {version[:20]}, this version of the library reads {FORMAT}")
    if not intact:
        raise ValueError(f"name: {path} is damaged: its tensors are not those that were saved")
    build = find(architecture, path)
    weights = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
    try:
        network = _built(build, kwargs, weights)
        network.load_state_dict(weights)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"name: the weights in {path} do not fit {architecture}(**{shown(kwargs)}): {error}"
        ) from error
    return Contents(network.eval(), tensors, card, manifest)


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

    The card is in the file, so that both are replaced in one step, and once more beside it for people.

    :param path: of the file; its folder is made, links are followed.
    :param network: the name of its class goes into the file.
    :param architecture: arguments of its constructor, JSON values.
    :param tensors: to keep beside the weights.
    :param prefix: put in front of the weights' names.
    :param manifest: JSON values to keep with it.
    :param card: text for people; None: a card that is there stays.
    :raises ValueError: if it cannot be written there, or has weights that are not finite.
    """
    whole = {**{prefix + key: value for key, value in network.state_dict().items()}, **tensors}
    # Copies: safetensors refuses tensors that share memory.
    whole = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in whole.items()}
    _check_finite(whole)
    _check_arguments(architecture)
    place, beside = real_place("name", path), real_place("name", path.with_suffix(".md"))
    for target in (place, beside):
        if target.is_dir():
            raise ValueError(f"name: expected a file, got the folder {target}")
        check_writable("name", target, sum(value.nbytes for value in whole.values()))
    kept = _kept_card(place) if card is None else card
    header = {
        "format": FORMAT,
        "architecture": type(network).__name__,
        "kwargs": json.dumps(architecture),
        "manifest": json.dumps(manifest or {}),
        "fingerprint": fingerprint(whole),
        **({} if kept is None else {"card": kept}),
    }
    header[_CHECKSUM] = _digest(header)
    with telling("name", place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(place) as draft:
            (draft / "card").write_text(card or "", encoding="utf-8")
            save_file(whole, draft / "weights", metadata=header)
            # safetensors lets nobody but the owner read; this file was made as the user's umask wants it.
            shutil.copymode(draft / "card", draft / "weights")
            for name in ("weights", "card"):
                sync(draft / name)
            os.replace(draft / "weights", place)
            if card is not None:
                os.replace(draft / "card", beside)
            sync(place.parent)
    return path


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    for left in (1, 0):
        before = path.stat()
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if os.path.samestat(before, path.stat()) or not left:
            break  # else it was replaced meanwhile
    return header, tensors


def _built(build: Callable[..., nn.Module], kwargs: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    # The first weights of a network are drawn, and then overwritten: no reason to touch the global generator.
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                sizes = {key: value.shape for key, value in build(**kwargs).state_dict().items()}
        except (NotImplementedError, RuntimeError):
            sizes = None  # not every network can be made without memory
        # Wrong arguments may want any amount of it.
        if sizes is not None and sizes != {key: value.shape for key, value in weights.items()}:
            raise ValueError("the shapes of its weights are others")
        return build(**kwargs)


def _check_arguments(kwargs: dict[str, Any]) -> None:
    """Raise unless arguments are plain values such as networks have: nothing that takes for ever or all memory."""

    def check(value: Any, depth: int) -> None:
        if isinstance(value, list | tuple) and len(value) <= 64 and depth < 3:
            for item in value:
                check(item, depth + 1)
        elif isinstance(value, float | int) and not (math.isfinite(value) and abs(value) <= _LARGEST):
            raise ValueError(f"architecture: expected numbers up to {_LARGEST}, got {shown(value)}")
        elif not (value is None or isinstance(value, float | int) or (isinstance(value, str) and len(value) < 1_000)):
            raise ValueError(f"architecture: expected numbers, short texts and lists of them, got {shown(value)}")

    for value in kwargs.values():
        check(value, 0)


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"network: expected finite weights, got others in {name}")


def _kept_card(path: Path) -> str | None:
    """The card in a file that is about to be replaced; None if it has none, or one of its own beside it."""
    try:
        return _read(path)[0].get("card")
    except (OSError, SafetensorError):
        return None


def _read_card(path: Path) -> str:
    card = path.with_suffix(".md")
    return card.read_text(encoding="utf-8") if card.is_file() else ""


def _digest(header: dict[str, str]) -> str:
    content = sorted((key, value) for key, value in header.items() if key != _CHECKSUM)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
