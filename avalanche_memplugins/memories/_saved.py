"""A memory as a folder: what both kinds, of rows and of models, write and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from avalanche_memplugins._folders import CorruptedFolderError, flatten, load_folder, save_folder, shown, unflatten

FORMAT = 1
_STATE = "state."  # before the names of tensors of the state
_KEYS = {"kind", "format", "state", "sha256", "manifest_sha256"}


def write_memory(folder: str | Path, kind: str, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write the tensors and the extra state of a memory.

    :raises ValueError: if ``folder`` holds something else or cannot be written.
    """
    tensors = dict(tensors)
    plain = flatten(state, tensors, _STATE)
    save_folder(folder, tensors, {"kind": kind, "format": FORMAT, "state": plain})


def read_memory(folder: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_memory` wrote.

    :raises CorruptedFolderError: if it is damaged, or of another kind or a later format.
    """
    tensors, manifest = load_folder(folder, kind=kind)
    # Version 0.1 wrote no format.
    if (version := manifest.get("format", FORMAT)) != FORMAT or isinstance(version, bool):
        raise CorruptedFolderError(f"folder: expected a {kind} of format {FORMAT}, got {shown(version)} in {folder}")
    if strange := sorted(manifest.keys() - _KEYS):
        raise CorruptedFolderError(f"folder: the manifest in {folder} has entries of no {kind}: {shown(strange)}")
    state = unflatten(manifest.get("state"), tensors)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)}, state
