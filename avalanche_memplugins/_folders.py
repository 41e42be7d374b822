"""Folders of tensors and numbers: safetensors beside JSON, whole or not at all, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avalanche_memplugins._drafts import (
    check_writable,
    draft_of,
    drafts,
    put_in_place,
    real_place,
    set_aside,
    sync,
    telling,
)

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"
_CHECKSUMS = ("sha256", "manifest_sha256")
_TRIES = 20


class CorruptedFolderError(ValueError):
    """A folder is missing, incomplete, damaged, or holds something else than what is wanted."""


def save_folder(folder: str | Path, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> None:
    """Write ``tensors`` and ``manifest`` into ``folder``, in place of what it held.

    Everything is written beside the folder first and takes its place in one step: whoever is interrupted
    leaves the old folder as it was. What an earlier writer that was killed has left beside it is removed.

    :param folder: where to; parents are made, links followed.
    :param tensors: by name, on any device.
    :param manifest: JSON values, with what the folder holds under ``"kind"``.
    :raises ValueError: if ``folder`` exists and is not one of the same kind, or holds other files as well.
    :raises UnwritableError: an ``OSError`` and a ``ValueError``, if there is no room or no right to write.
    """
    place = real_place("folder", folder)
    plain = _unshared(tensors)
    whole = {**manifest, "manifest_sha256": manifest_digest(manifest)}
    size = sum(tensor.nbytes for tensor in plain.values()) + 200 * len(plain) + 2 * len(json.dumps(whole))
    check_folder(place, kind=manifest["kind"], nbytes=size)
    with telling("folder", place):
        place.parent.mkdir(parents=True, exist_ok=True)
        _recover(place)
        with draft_of(place) as draft:
            save_file(plain, draft / TENSORS)
            whole["sha256"] = _digest(draft / TENSORS)
            (draft / MANIFEST).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            # safetensors lets nobody but the owner read; this file was made as the user's umask wants it.
            shutil.copymode(draft / MANIFEST, draft / TENSORS)
            for path in (draft / TENSORS, draft / MANIFEST, draft):
                sync(path)
            put_in_place(draft, place)
            shutil.rmtree(set_aside(place), ignore_errors=True)
            sync(place.parent)


def check_folder(folder: str | Path, *, kind: str, nbytes: int = 0) -> None:
    """Raise what :func:`save_folder` would, as far as can be told before anything is written.

    :param kind: what is to be saved.
    :param nbytes: how much it takes.
    :raises ValueError: as :func:`save_folder`.
    """
    place = real_place("folder", folder)
    check_replaceable(place, kind=kind)
    check_writable("folder", place, nbytes)


def check_replaceable(folder: Path, *, kind: str) -> None:
    """Raise ``ValueError`` if ``folder`` holds anything but a saved ``kind``."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise ValueError(f"folder: expected a folder, got the file {folder}")
    with telling("folder", folder):
        files = sorted(path.name for path in folder.iterdir())
    if not files:
        return
    try:
        found = _manifest(folder / MANIFEST).get("kind")
    except (OSError, ValueError, RecursionError):
        found = None
    if found != kind or files != sorted((MANIFEST, TENSORS)):
        raise ValueError(
            f"folder: expected a new folder or an earlier saved {kind}, got {folder} with other contents "
            f"({', '.join(files[:4])})"
        )


def holds_folder(folder: str | Path) -> bool:
    """Whether there is a folder, or what an interrupted save has left of one; :func:`load_folder` says which.

    Only if there is none, work begins anew without being told.
    """
    place = real_place("folder", folder)
    return os.path.lexists(place) or set_aside(place).exists()


def load_folder(folder: str | Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and manifest of a folder that :func:`save_folder` wrote; if it is replaced meanwhile, of either.

    :param folder: where from.
    :param kind: what ``manifest["kind"]`` must be.
    :raises CorruptedFolderError: if anything is missing, damaged or of another kind.
    """
    try:
        place = real_place("folder", folder)
    except ValueError as error:
        raise CorruptedFolderError(str(error)) from error
    for left in reversed(range(_TRIES)):
        here = _readable(place)
        before = _identity(here)
        try:
            found = _read(here, kind)
        except CorruptedFolderError:
            # Another process may have replaced the folder between its two files; then there is a whole one now.
            if not left or _identity(_readable(place)) == before:
                raise
        else:
            if _identity(here) == before or not left:
                return found
    raise AssertionError("unreachable")


def _readable(place: Path) -> Path:
    """The folder, or the one that stepped aside for a draft that never took its place."""
    aside = set_aside(place)
    if os.path.lexists(place) or not aside.exists():
        return place
    # Without a draft nobody can tell a crash from a folder that was removed: what was left must not come back then.
    if any((draft / MANIFEST).is_file() for draft in drafts(place)):
        return aside
    raise CorruptedFolderError(
        f"folder: there is no {place}, but {aside}, which an interrupted save may have left; "
        "rename it to go on from it, or remove it"
    )


def _recover(place: Path) -> None:
    """Put back the folder that stepped aside, before its draft, which tells that, is removed."""
    try:
        aside = _readable(place)
    except CorruptedFolderError:
        return
    if aside != place:
        aside.rename(place)


def _identity(folder: Path) -> tuple[int, ...] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _read(folder: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        manifest = _manifest(folder / MANIFEST)
        _check_regular(folder / TENSORS)
        digest = _digest(folder / TENSORS)
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptedFolderError(f"folder: {folder} holds no readable {kind}: {error}") from error
    if manifest.get("kind") != kind:
        raise CorruptedFolderError(f"folder: expected a saved {kind}, got {shown(manifest.get('kind'))} in {folder}")
    # Folders of version 0.1 may lack it.
    if manifest.get("manifest_sha256", "") not in ("", manifest_digest(manifest)):
        raise CorruptedFolderError(f"folder: the manifest in {folder} is damaged: its checksum differs")
    if manifest.get("sha256") != digest:
        raise CorruptedFolderError(f"folder: {folder / TENSORS} is damaged: its checksum differs")
    try:
        return load_file(folder / TENSORS), manifest
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptedFolderError(f"folder: {folder / TENSORS} is damaged: {error}") from error


def _manifest(path: Path) -> dict[str, Any]:
    _check_regular(path)
    manifest = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(manifest, dict):
        raise ValueError(f"expected a dict in {path}, got a {type(manifest).__name__}")
    return manifest


def _check_regular(path: Path) -> None:
    # Reading from a device or a pipe may never end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is no file")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} is there twice")
        found[key] = value
    return found


def manifest_digest(manifest: dict[str, Any]) -> str:
    """The SHA-256 of a manifest but for its checksums."""
    content = {key: value for key, value in manifest.items() if key not in _CHECKSUMS}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def shown(value: object) -> str:
    """A value for people to read, however long it is."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def flatten(state: dict[str, Any], tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """The nested ``state`` with its tensors moved to ``tensors``, in whose stead their names stay.

    :param state: nested dicts and lists of tensors, numbers, strings, booleans and None.
    :param tensors: gets the tensors, named by their path.
    :raises TypeError: for any other value: it could not be restored.
    """
    return {str(key): _flatten(value, tensors, f"{prefix}{key}") for key, value in state.items()}


def _flatten(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": flatten(value, tensors, f"{name}.")}
    if isinstance(value, list | tuple):
        return [_flatten(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: cannot be saved without pickle, got {type(value).__name__}")


def unflatten(state: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What :func:`flatten` had taken apart; tuples come back as lists.

    :raises CorruptedFolderError: for what :func:`flatten` would not have made.
    """
    if not isinstance(state, dict):
        raise CorruptedFolderError(f"folder: expected a dict in the manifest, got {shown(state)}")
    return {key: _unflatten(value, tensors) for key, value in state.items()}


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        kind, inner = next(iter(value.items())) if len(value) == 1 else (None, None)
        if kind == "dict":
            return unflatten(inner, tensors)
        if kind != "tensor" or not isinstance(inner, str):
            raise CorruptedFolderError(f"folder: expected a tensor or a dict in the manifest, got {shown(value)}")
        if inner not in tensors:
            raise CorruptedFolderError(f"folder: lacks the tensor {shown(inner)} that its manifest names")
        return tensors[inner]
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    return value


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory, as tied weights do.
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        out[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return out


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
