"""Pretrained auto-encoders on disk."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins.pretrained._weights import read_weights, write_weights

FOLDER = Path(__file__).parent
_WEIGHTS = "autoencoder."
_REGISTERED: dict[str, Callable[..., nn.Module]] = {}
C = TypeVar("C", bound=type[nn.Module])


class Pretrained(NamedTuple):
    """An auto-encoder in eval mode on the CPU, ``(code_size,)`` statistics of its codes, its card and manifest.

    >>> network = load("omniglot28-vae")
    >>> network.code_mean.shape, sorted(network.manifest)[:2]
    (torch.Size([32]), ...)
    """

    autoencoder: nn.Module
    code_mean: Tensor
    code_std: Tensor
    card: str
    manifest: dict[str, Any]


def register_architecture(cls: C) -> C:
    """Make a class of auto-encoders of your own known by its name to :func:`load`; a decorator.

    Its constructor must take what its method ``architecture()`` returns, as keywords.

    >>> from torch import nn
    >>> @register_architecture
    ... class Halves(nn.Module):
    ...     def __init__(self, code_size): ...
    ...     def architecture(self):
    ...         return {"code_size": 8}
    """
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise TypeError(f"cls: expected a class of modules, got {check.show(cls)}")
    _REGISTERED[cls.__name__] = cls
    return cls


def names() -> tuple[str, ...]:
    """Names of the auto-encoders that come with the library.

    >>> "omniglot28-vae" in names()
    True
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def load(name: str | Path) -> Pretrained:
    """Build an auto-encoder and load its weights.

    :param name: one of :func:`names`, or the path of a file that :func:`save` wrote.
    :raises ValueError: for an unknown name (with the nearest), or a file that is damaged or was made for an
        architecture that is not there.

    >>> network = load("omniglot28-vae")
    >>> network.autoencoder.code_size
    32
    """
    path = find_file(name, FOLDER, names())
    found = read_weights(path, _architecture, prefix=_WEIGHTS)
    tensors, size = found.tensors, getattr(found.network, "code_size", None)
    if tensors.keys() != {"code_mean", "code_std"} or any(value.shape != (size,) for value in tensors.values()):
        got = {key: tuple(value.shape) for key, value in tensors.items()}
        raise ValueError(f"name: expected code_mean and code_std of {size} numbers, got {got} in {path}")
    if not bool((tensors["code_std"] > 0).all()):
        raise ValueError(f"name: expected code_std above 0, got {float(tensors['code_std'].min()):g} in {path}")
    return Pretrained(found.network, tensors["code_mean"], tensors["code_std"], found.card, found.manifest)


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

    >>> import torch
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from avalanche_memplugins.networks import VAE
    >>> network = VAE(code_size=4, width=2)
    >>> with TemporaryDirectory() as folder:
    ...     path = save(Path(folder) / "mine", network, code_mean=torch.zeros(4), code_std=torch.ones(4))
    ...     load(path).autoencoder.code_size
    4
    """
    check.having("autoencoder", autoencoder, ("code_size", "state_dict"), "a module with code_size")
    check.tensors(code_mean=code_mean, code_std=code_std)
    _check_texts(architecture, manifest, card)
    if architecture is None:
        check.having("architecture", autoencoder, ("architecture",), "a network with architecture(), or its arguments")
        architecture = autoencoder.architecture()  # type: ignore[operator]
    size = int(autoencoder.code_size)  # type: ignore[arg-type]
    for key, value in (("code_mean", code_mean), ("code_std", code_std)):
        if value.shape != (size,):
            raise ValueError(f"{key}: expected shape ({size},), got {tuple(value.shape)}")
    statistics = {"code_mean": code_mean.float(), "code_std": code_std.float()}
    path = path_of(name, FOLDER)
    return write_weights(path, autoencoder, architecture, statistics, prefix=_WEIGHTS, manifest=manifest, card=card)


def _check_texts(architecture: object, manifest: object, card: object) -> None:
    for name, value in (("architecture", architecture), ("manifest", manifest)):
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"{name}: expected a dictionary of JSON values, or None, got {check.show(value)}")
    if card is not None and not isinstance(card, str):
        raise TypeError(f"card: expected a string or None, got {check.show(card)}")


def find_file(name: str | Path, folder: Path, known: tuple[str, ...]) -> Path:
    """The file of a name, which is there; else what is.

    :raises ValueError: for an unknown name (with the nearest) or a path to nothing.
    """
    path = path_of(name, folder)
    if os.path.isfile(path):
        return path
    if path.parent != folder:
        raise ValueError(f"name: expected the path of a file, got {path}, where there is none")
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"name: expected one of {', '.join(map(repr, known)) or 'none yet'}, got {name!r}{hint}")


def path_of(name: str | Path, folder: Path) -> Path:
    """A plain name's file in ``folder``, or the path itself with its suffix."""
    check.path("name", name)
    path = Path(name)
    if path.suffix == ".safetensors":
        return path
    if isinstance(name, Path) or len(path.parts) > 1:
        return path.with_name(f"{path.name}.safetensors")
    return folder / f"{name}.safetensors"


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
