"""Pretrained auto-encoders on disk."""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from avalanche_memplugins._fingerprint import fingerprint

FOLDER = Path(__file__).parent
_FORMAT = "1"
_WEIGHTS = "autoencoder."
_REGISTERED: dict[str, Callable[..., nn.Module]] = {}
C = TypeVar("C", bound=type[nn.Module])


class Pretrained(NamedTuple):
    """An auto-encoder in eval mode on the CPU, ``(code_size,)`` statistics of its codes, its card and manifest."""

    autoencoder: nn.Module
    code_mean: Tensor
    code_std: Tensor
    card: str
    manifest: dict[str, Any]


def register_architecture(cls: C) -> C:
    """Make a class of auto-encoders of your own known by its name to :func:`load`; a decorator.

    Its constructor must take what its method ``architecture()`` returns, as keywords.
    """
    _REGISTERED[cls.__name__] = cls
    return cls


def names() -> tuple[str, ...]:
    """Names of the auto-encoders that come with the library."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def load(name: str | Path) -> Pretrained:
    """Build an auto-encoder and load its weights.

    :param name: one of :func:`names`, or the path of a file that :func:`save` wrote.
    :raises ValueError: for an unknown name (with the nearest), or a file that is damaged or was made for an
        architecture that is not there.
    """
    path = _path(name)
    if not path.is_file():
        if path.parent != FOLDER:
            raise ValueError(f"name: there is no file {path}")
        near = difflib.get_close_matches(str(name), names(), n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"name: wants one of {', '.join(map(repr, names())) or 'none yet'}, got {name!r}{hint}")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        # Before anything else of it is believed.
        intact = header["fingerprint"] == fingerprint(tensors)
        kwargs, manifest = json.loads(header["kwargs"]), json.loads(header["manifest"])
        architecture, version = header["architecture"], header["format"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"name: {path} is damaged or no pretrained auto-encoder: {error!r}") from error
    if version != _FORMAT:
        raise ValueError(f"name: {path} has format {version}, this version of the library reads {_FORMAT}")
    if not intact:
        raise ValueError(f"name: {path} is damaged: its tensors are not those that were saved")
    build = _architecture(architecture, path)
    weights = {key.removeprefix(_WEIGHTS): value for key, value in tensors.items() if key.startswith(_WEIGHTS)}
    try:
        # The first weights of a network are drawn, and then overwritten: no reason to touch the global generator.
        with torch.random.fork_rng(devices=[]):
            network = build(**kwargs)
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"name: the weights in {path} do not fit {architecture}(**{kwargs}): {error}") from error
    card = path.with_suffix(".md")
    return Pretrained(
        network.eval(),
        tensors["code_mean"],
        tensors["code_std"],
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        manifest=manifest,
    )


def save(
    name: str | Path,
    autoencoder: nn.Module,
    architecture: dict[str, Any] | None = None,
    *,
    code_mean: Tensor,
    code_std: Tensor,
    manifest: dict[str, Any] | None = None,
    card: str | None = None,
) -> Path:
    """Write an auto-encoder for :func:`load`, whole or not at all; returns the path of the file.

    :param name: a plain name: among the library's own; or a path, which gets the suffix ``.safetensors``.
    :param autoencoder: the network; the name of its class goes into the file.
    :param architecture: arguments of its constructor, JSON values; None: what its ``architecture()`` says.
    :param code_mean: ``(code_size,)`` mean of the codes of its training data.
    :param code_std: ``(code_size,)`` their standard deviation.
    :param manifest: JSON values to keep with it: data, recipe, scores.
    :param card: text for people; None: a card that is there stays.
    :raises ValueError: for statistics of another shape.
    """
    path = _path(name)
    if architecture is None:
        architecture = autoencoder.architecture()  # type: ignore[operator]
    tensors = {_WEIGHTS + key: value for key, value in autoencoder.state_dict().items()}
    size = int(autoencoder.code_size)  # type: ignore[arg-type]
    for key, value in (("code_mean", code_mean), ("code_std", code_std)):
        if value.shape != (size,):
            raise ValueError(f"{key}: wants shape ({size},), got {tuple(value.shape)}")
        tensors[key] = value.float()
    # Copies: safetensors refuses tensors that share memory.
    tensors = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    header = {
        "format": _FORMAT,
        "architecture": type(autoencoder).__name__,
        "kwargs": json.dumps(architecture),
        "manifest": json.dumps(manifest or {}),
        "fingerprint": fingerprint(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, draft, metadata=header)
        os.chmod(draft, 0o644)  # mkstemp's own 0o600 would lock colleagues out
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    if card is not None:
        path.with_suffix(".md").write_text(card, encoding="utf-8")
    return path


def _path(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix == ".safetensors":
        return path
    if isinstance(name, Path) or len(path.parts) > 1:
        return path.with_name(f"{path.name}.safetensors")
    return FOLDER / f"{name}.safetensors"


def _architecture(name: str, path: Path) -> Callable[..., nn.Module]:
    from avalanche_memplugins import networks

    found = _REGISTERED.get(name) or (getattr(networks, name) if name in networks.__all__ else None)
    if found is None:
        known = ", ".join(sorted({*networks.__all__, *_REGISTERED}))
        raise ValueError(
            f"name: {path} is of the architecture {name!r}, which is not known here ({known}); "
            "make it known with pretrained.register_architecture"
        )
    return found
