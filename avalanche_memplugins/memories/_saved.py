"""A memory as a folder, and how its tensors come back from a state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

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

    The tensors are its parameters and buffers, but for those whose names begin as :attr:`_fixed` says; the numbers come
    from ``get_extra_state``. A subclass that keeps them otherwise has its own :meth:`_own_tensors` and :meth:`_take`.
    """

    _fixed: tuple[str, ...] = ()  # beginnings of names of what does not hold the stream

    def _own_tensors(self) -> dict[str, Tensor]:
        """The tensors to save, by name."""
        tensors = (*self.named_parameters(), *self.named_buffers())
        return {name: tensor.detach() for name, tensor in tensors if not name.startswith(self._fixed)}

    def _state_to_save(self) -> dict[str, Any]:
        """The numbers to save; of a memory that has others as its parts, theirs, too."""
        state: dict[str, Any] = self.get_extra_state()
        return state

    def _check_state(self, state: dict[str, Any]) -> None:
        """Raise unless an extra state is of a memory made with the same arguments.

        :raises ValueError: naming what differs.
        """

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from tensors as :meth:`_own_tensors` gave them, and the extra state.

        :raises ValueError: if they are of a memory made with other arguments; nothing has changed then.
        """
        self._check_state(state)
        mine = self._own_tensors()
        if mine.keys() != tensors.keys():
            differing = sorted(mine.keys() ^ tensors.keys())
            raise ValueError(f"state: expected the tensors of such a memory, got others: {differing[:5]}")
        parameters = dict(self.named_parameters())
        for name in parameters.keys() & mine.keys():
            check_tensor(name, tensors[name], mine[name].shape, mine[name].dtype)
        self.set_extra_state(state)
        for name, value in tensors.items():
            if name in parameters:
                parameters[name].data.copy_(value)
            else:
                owner, _, last = name.rpartition(".")
                # A copy: what was read may be mapped to the file.
                self.get_submodule(owner).register_buffer(last, value.to(mine[name].device, copy=True))

    def save(self, folder: str | Path) -> None:
        """Write the memory into ``folder`` (safetensors and JSON), whole or not at all.

        Codec, policies and embedding are part of the program, not of the folder: give :meth:`load` a memory made with
        the same arguments.

        :raises ValueError: if ``folder`` holds something else or cannot be written.
        """
        kind = type(self).__name__
        check_folder(folder, kind=kind)
        tensors = dict(self._own_tensors())
        plain = flatten(self._state_to_save(), tensors, _STATE)
        save_folder(folder, tensors, {"kind": kind, "format": FORMAT, "state": plain})

    def load(self: Self, folder: str | Path) -> Self:
        """Take up what :meth:`save` wrote; returns the memory itself.

        :raises ValueError: if the folder is damaged, or its memory was made with other arguments; this memory is then
            as before.
        """
        kind = type(self).__name__
        tensors, state = _read(folder, kind)
        rehearsal = self._rehearsal()
        with telling_misfits("folder", kind, CorruptedFolderError):
            rehearsal._take(tensors, state)
            rehearsal._check_sound()
        self._take(tensors, state)
        return self


def check_tensor(name: str, found: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
    """Raise unless a tensor of a state has this shape and type; of no rows there may be any number of no columns."""
    fits = tuple(found.shape) == tuple(shape) if 0 not in shape[:1] else not found.numel()
    if not fits or found.dtype != dtype:
        raise ValueError(
            f"state: expected {name} of shape {tuple(shape)} and {dtype}, got {tuple(found.shape)} and {found.dtype}"
        )


def make_room(module: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Give a module's own buffers the shapes and types that they have in a state.

    Torch would refuse another shape, and convert another type without a word.
    """
    for name, buffer in list(module._buffers.items()):
        found = state_dict.get(prefix + name)
        if buffer is not None and isinstance(found, Tensor):
            module.register_buffer(name, buffer.new_empty(found.shape, dtype=found.dtype))


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


def _read(folder: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and extra state of a saved memory.

    :raises CorruptedFolderError: if the folder is damaged, or of another kind or a later format.
    """
    tensors, manifest = load_folder(folder, kind=kind)
    # Version 0.1 wrote no format.
    if (version := manifest.get("format", FORMAT)) != FORMAT or isinstance(version, bool):
        raise CorruptedFolderError(f"folder: expected a {kind} of format {FORMAT}, got {shown(version)} in {folder}")
    if strange := sorted(manifest.keys() - _KEYS):
        raise CorruptedFolderError(f"folder: the manifest in {folder} has entries of no {kind}: {shown(strange)}")
    state = unflatten(manifest.get("state"), tensors)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)}, state
