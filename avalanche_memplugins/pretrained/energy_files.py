"""Pretrained energy networks on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._folders import shown
from avalanche_memplugins.networks import energy
from avalanche_memplugins.networks.energy import EnergyNetwork
from avalanche_memplugins.pretrained import files
from avalanche_memplugins.pretrained._weights import read_weights, write_weights

MOST_PATTERNS = 1_000_000
_WEIGHTS = "network."


class PretrainedEnergy(NamedTuple):
    """An energy network in eval mode on the CPU, the patterns an episode that it knows, its card and manifest.

    >>> load_energy("omniglot-28").patterns
    16
    """

    network: EnergyNetwork
    patterns: int
    card: str
    manifest: dict[str, Any]


def energy_folder() -> Path:
    """Where the energy networks that come with the library lie."""
    return files.FOLDER / "energy"


def energy_names() -> tuple[str, ...]:
    """Names of the energy networks that come with the library.

    >>> energy_names()
    (...'omniglot-28'...)
    """
    return tuple(sorted(path.stem for path in energy_folder().glob("*.safetensors")))


def load_energy(name: str | Path) -> PretrainedEnergy:
    """Build an energy network and load its weights.

    :param name: one of :func:`energy_names`, or the path of a file that :func:`save_energy` wrote.
    :raises ValueError: for an unknown name (with the nearest), or a file that is damaged.

    >>> load_energy("omniglot-28").network.training
    False
    """
    found = read_weights(files.find_file(name, energy_folder(), energy_names()), _architecture, prefix=_WEIGHTS)
    if not isinstance(found.network, EnergyNetwork):
        raise ValueError(f"name: expected an energy network, got {type(found.network).__name__} in {name}")
    patterns = found.manifest.get("patterns")
    if isinstance(patterns, bool) or not isinstance(patterns, int) or not 1 <= patterns <= MOST_PATTERNS:
        raise ValueError(f"name: expected 1 to {MOST_PATTERNS} patterns an episode, got {shown(patterns)} in {name}")
    if found.tensors:
        raise ValueError(f"name: expected an energy network alone, got {sorted(found.tensors)} beside it in {name}")
    return PretrainedEnergy(found.network, patterns, found.card, found.manifest)


def save_energy(
    name: str | Path, network: EnergyNetwork, *, patterns: int, manifest: dict[str, Any], card: str | None = None
) -> Path:
    """Write an energy network for :func:`load_energy`, whole or not at all; returns the path of the file.

    :param name: a plain name: among the library's own; or a path.
    :param network: its class is one of ``avalanche_memplugins.networks.energy``.
    :param patterns: an episode, that it is best at.
    :param manifest: JSON values to keep with it: data, recipe, scores.
    :param card: text for people; None: a card that is there stays.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from avalanche_memplugins.networks.energy import GatedEnergy
    >>> network = GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1)
    >>> with TemporaryDirectory() as folder:
    ...     load_energy(save_energy(Path(folder) / "mine", network, patterns=4, manifest={})).patterns
    4
    """
    check.instance("network", network, EnergyNetwork, "an energy network")
    check.integer("patterns", patterns, least=1, most=MOST_PATTERNS)
    if not isinstance(manifest, dict):
        raise TypeError(f"manifest: expected a dictionary of JSON values, got {check.show(manifest)}")
    if card is not None and not isinstance(card, str):
        raise TypeError(f"card: expected a string or None, got {check.show(card)}")
    path = files.path_of(name, energy_folder())
    whole = {**manifest, "patterns": patterns}
    return write_weights(path, network, network.architecture(), {}, prefix=_WEIGHTS, manifest=whole, card=card)


def _architecture(name: str, path: Path) -> type[nn.Module]:
    if name not in energy.__all__:
        raise ValueError(f"name: {path} is of the architecture {name!r}, which is no energy network of this library")
    found: type[nn.Module] = getattr(energy, name)
    return found
