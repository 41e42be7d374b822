"""Folders of tensors and numbers: safetensors beside JSON, whole or not at all, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avalanche_memplugins import _checks as check

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"


class CorruptedFolderError(ValueError):
    """A folder is missing, incomplete, damaged, or holds something else than what is wanted."""


def save_folder(folder: str | Path, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> None:
    """Write ``tensors`` and ``manifest`` into ``folder``, in place of what it held.

    Everything is written beside the folder first and renamed into place at the end: whoever is
    interrupted leaves the old folder as it was.

    :param folder: where to; parents are made.
    :param tensors: by name, on any device.
    :param manifest: JSON values, with what the folder holds under ``"kind"``.
    :raises ValueError: if ``folder`` exists and is not one of the same kind, or holds other files as well.
    """
    folder = check.path("folder", folder)
    check_replaceable(folder, kind=manifest["kind"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file(_unshared(tensors), draft / TENSORS)
        whole = {**manifest, "sha256": _digest(draft / TENSORS)}
        (draft / MANIFEST).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        for name in (TENSORS, MANIFEST):
            with open(draft / name, "rb") as file:
                os.fsync(file.fileno())
        draft.chmod(0o755)  # mkdtemp's own 0o700 would lock colleagues out
        if folder.exists():
            # A folder cannot be renamed onto another: step aside first. A crash between the two
            # renames leaves the old one whole where `load_folder` looks for it.
            shutil.rmtree(set_aside(folder), ignore_errors=True)
            folder.rename(set_aside(folder))
        draft.rename(folder)
        shutil.rmtree(set_aside(folder), ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def check_replaceable(folder: Path, *, kind: str) -> None:
    """Raise ``ValueError`` if ``folder`` holds anything but a saved ``kind``."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"folder: wants a folder, got the file {folder}")
    files = sorted(path.name for path in folder.iterdir())
    if not files:
        return
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != kind or files != sorted((MANIFEST, TENSORS)):
        raise ValueError(
            f"folder: wants a new folder or an earlier saved {kind}, got {folder} with other contents "
            f"({', '.join(files[:4])})"
        )


def load_folder(folder: str | Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and manifest of a folder that :func:`save_folder` wrote.

    :param folder: where from.
    :param kind: what ``manifest["kind"]`` must be.
    :raises CorruptedFolderError: if anything is missing, damaged or of another kind.
    """
    folder = check.path("folder", folder)
    if not folder.exists() and set_aside(folder).exists():
        folder = set_aside(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        digest = _digest(folder / TENSORS)
    except (OSError, ValueError) as error:
        raise CorruptedFolderError(f"folder: {folder} holds no readable {kind}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        got = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise CorruptedFolderError(f"folder: wants a saved {kind}, got {got!r} in {folder}")
    if manifest.get("sha256") != digest:
        raise CorruptedFolderError(f"folder: {folder / TENSORS} is damaged: its checksum differs")
    try:
        return load_file(folder / TENSORS), manifest
    except SafetensorError as error:
        raise CorruptedFolderError(f"folder: {folder / TENSORS} is damaged: {error}") from error


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


def unflatten(state: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What :func:`flatten` had taken apart; tuples come back as lists."""
    return {key: _unflatten(value, tensors) for key, value in state.items()}


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value["tensor"]] if "tensor" in value else unflatten(value["dict"], tensors)
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


def set_aside(folder: Path) -> Path:
    """Where the old folder is while a new one takes its place; the only copy if that was interrupted."""
    return folder.with_name(f".{folder.name}.old")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
