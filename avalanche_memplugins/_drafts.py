"""Files on their way: written beside their place, put there in one step, and cleaned up when their writer has died."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows: drafts are then told from abandoned ones by their age
    fcntl = None  # type: ignore[assignment]

_LONGEST = 200  # bytes of a name that leave room for what is added to it
_OLD = 24 * 3600.0  # seconds after which a draft is abandoned where locks cannot tell
_OLD_UNLOCKED = 3600.0  # the same of drafts of earlier versions, which held no lock
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class UnwritableError(OSError, ValueError):
    """Something cannot be written where it was wanted; nothing has been."""


def real_place(argument: str, place: str | Path) -> Path:
    """Where a path leads, links followed: what is replaced is what they point to, never a link.

    :param argument: the name of the argument that the path is.
    :raises TypeError: if it is no path.
    :raises ValueError: for a path that no file can have.
    """
    if not isinstance(place, str | os.PathLike):
        raise TypeError(f"{argument}: expected a path, got {type(place).__name__}")
    if not os.fspath(place):
        raise ValueError(f"{argument}: expected a path, got ''")
    try:
        found = Path(os.path.realpath(place))
        found.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # told when it is read or written
    except (OSError, ValueError) as error:  # loops of links, names too long, null characters
        raise UnwritableError(f"{argument}: expected a path, got {_short(place)}: {_reason(error)}") from error
    if not found.name:
        raise ValueError(f"{argument}: expected a path with a name, got {str(place)!r}")
    return found


def check_writable(argument: str, place: Path, nbytes: int = 0) -> None:
    """Raise unless something of ``nbytes`` can be written at ``place`` as far as can be told beforehand.

    :raises UnwritableError: naming what is in the way, or the bytes wanted and free.
    """
    try:
        name = os.fsencode(place.name)
        for around in (place.parent, *place.parent.parents):
            try:
                around.stat()
                break
            except FileNotFoundError:
                continue
        longest = os.pathconf(around, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        if len(name) > longest:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not around.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{around} is a file")
        for where in (around, place) if place.is_dir() else (around,):
            if not os.access(where, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"{where} is read-only")
        free = free_bytes(around)
    except (OSError, ValueError) as error:
        raise UnwritableError(f"{argument}: cannot be written at {_short(place)}: {_reason(error)}") from error
    if free is not None and free < nbytes:
        raise UnwritableError(f"{argument}: expected {nbytes:,} free bytes for {_short(place)}, got {free:,}")


def free_bytes(folder: Path) -> int | None:
    """Bytes that may still be written below a folder; None if that is not known."""
    if not hasattr(os, "statvfs"):
        return shutil.disk_usage(folder).free
    found = os.statvfs(folder)
    if not found.f_blocks:
        return None
    return found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)


@contextlib.contextmanager
def telling(argument: str, place: Path) -> Iterator[None]:
    """Turn what the system says while something is written into :class:`UnwritableError`."""
    try:
        yield
    except UnwritableError:
        raise
    except (OSError, SafetensorError) as error:
        raise UnwritableError(f"{argument}: {_short(place)} could not be written: {_reason(error)}") from error


@contextlib.contextmanager
def draft_of(place: Path) -> Iterator[Path]:
    """An empty folder beside ``place`` for as long as the context lasts; whatever is in it at the end is removed.

    It is locked as long as its process lives. Drafts of the same place that dead processes have left are removed.
    """
    _clear(place)
    path, lock = _open(place)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def put_in_place(draft: Path, folder: Path) -> None:
    """Let ``draft`` take the place of ``folder``; if that was there, it is then where the draft was.

    Both change places in one step if the system can do that. Otherwise the old one steps aside first, see
    :func:`set_aside`.
    """
    if _exchange(draft, folder):
        return
    if not folder.exists() or not any(folder.iterdir()):
        draft.rename(folder)
        return
    aside = set_aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        draft.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    aside.rename(draft)


def set_aside(folder: Path) -> Path:
    """Where a folder is while another takes its place, on systems that cannot exchange the two in one step."""
    return folder.with_name(f".{_stem(folder)}.old")


def drafts(place: Path) -> list[Path]:
    """Drafts of ``place``, abandoned or not, of this version and earlier ones."""
    name = re.escape(_stem(place))
    ours = re.compile(rf"\.{name}-(?:[0-9a-f]{{8}}\.draft|[a-z0-9_]{{8}})")
    try:
        with os.scandir(place.parent) as entries:
            return [place.parent / entry.name for entry in entries if ours.fullmatch(entry.name)]
    except OSError:
        return []


def sync(path: Path) -> None:
    """Have a file or folder on the disk, not only in the system's memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stem(place: Path) -> str:
    name = os.fsencode(place.name)
    return place.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()


def _open(place: Path) -> tuple[Path, int | None]:
    while True:
        path = place.with_name(f".{_stem(place)}-{secrets.token_hex(4)}.draft")
        path.mkdir()
        lock = _lock(path, wait=True)
        # Whoever clears up may have taken it for abandoned before it was locked.
        if path.exists():
            return path, lock
        if lock is not None:
            os.close(lock)


def _clear(place: Path) -> None:
    for path in drafts(place):
        try:
            age = time.time() - path.stat().st_mtime
            lock = _lock(path, wait=False)
        except OSError:  # locked, or gone
            continue
        if path.name.endswith(".draft"):
            abandoned = lock is not None or age > _OLD
        else:
            abandoned = age > _OLD_UNLOCKED and _is_draft(path)
        if abandoned and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif abandoned:
            path.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _is_draft(path: Path) -> bool:
    """Whether this is a draft of an earlier version, whose names might be somebody else's."""
    if path.is_dir():
        names = os.listdir(path)
        return bool(names) and all(name in ("manifest.json", "tensors.safetensors") for name in names)
    return ".safetensors-" in path.name


def _lock(path: Path, *, wait: bool) -> int | None:
    """An open lock of a folder; None where there are none.

    :raises BlockingIOError: if a living process holds it.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # gone, or on Windows
        return None
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return handle
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # a file system without locks
        pass
    os.close(handle)
    return None


def _exchange(one: Path, other: Path) -> bool:
    """Whether two paths have changed places."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or one from before 2018
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _short(place: object) -> str:
    text = str(place)
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
