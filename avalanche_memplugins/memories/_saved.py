"""A memory as a folder: what both kinds, of rows and of models, write and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from avalanche_memplugins._folders import (
    CorruptedFolderError,
    check_folder,
    flatten,
    load_folder,
    save_folder,
    shown,
    unflatten,
)
from avalanche_memplugins._loading import LoadsWhole, telling_misfits

FORMAT = 1
_STATE = "state."  # before the names of tensors of the state
_KEYS = {"kind", "format", "state", "sha256", "manifest_sha256"}
Self = TypeVar("Self", bound="SavesToFolder")


class SavesToFolder(LoadsWhole):
    """A memory that is saved as, and loaded from, a folder of tensors and numbers.

    A subclass says which tensors are saved (:meth:`_own_tensors`), how they come back (:meth:`_take`), and, by
    ``get_extra_state``, the numbers beside them.
    """

    def _own_tensors(self) -> dict[str, Tensor]:
        """The tensors to save, by name."""
        raise NotImplementedError

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from tensors as :meth:`_own_tensors` gave them, and the extra state.

        :raises ValueError: if they are of a memory made with other arguments; nothing has changed then.
        """
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write the memory into ``folder`` (safetensors and JSON), whole or not at all.

        Codec, policies and embedding are part of the program, not of the folder: give :meth:`load` a memory made with
        the same arguments.

        :raises ValueError: if ``folder`` holds something else or cannot be written.
        """
        kind = type(self).__name__
        check_folder(folder, kind=kind)
        write_memory(folder, kind, self._own_tensors(), self.get_extra_state())

    def load(self: Self, folder: str | Path) -> Self:
        """Take up what :meth:`save` wrote; returns the memory itself.

        :raises ValueError: if the folder is damaged, or its memory was made with other arguments; this memory is then
            as before.
        """
        kind = type(self).__name__
        tensors, state = read_memory(folder, kind)
        rehearsal = self._rehearsal()
        with telling_misfits("folder", kind, CorruptedFolderError):
            rehearsal._take(tensors, state)
            rehearsal._check_sound()
        self._take(tensors, state)
        return self


def check_made_alike(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise unless a state says the same of how its memory was made; of lists that differ, the entries are named.

    :raises ValueError: naming what differs.
    """
    for name, wanted in mine.items():
        found = state[name]
        if found == wanted:
            continue
        if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
            pairs = [(a, b) for a, b in zip(wanted, found, strict=True) if a != b]
            wanted, found = [a for a, _ in pairs], [b for _, b in pairs]
        raise ValueError(f"state: expected that of a memory with {name} {wanted}, got {found}")


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
