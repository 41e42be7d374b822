"""Where the data files lie."""

from __future__ import annotations

import os
from pathlib import Path

ENV = "MEMPLUGINS_DATA"


def data_root(root: str | Path | None = None) -> Path | None:
    """The folder that holds the data sets as torchvision lays them out: ``MNIST/raw`` and so on.

    :param root: the folder; None: the environment variable ``MEMPLUGINS_DATA``.
    :returns: the folder, or None if neither names one: Avalanche's own default folder is meant then.
    :raises ValueError: if the folder named does not exist.

    >>> data_root("no such folder")
    Traceback (most recent call last):
    ValueError: data_root: ...
    """
    if root is not None and (not isinstance(root, str | os.PathLike) or not str(root) or "\0" in str(root)):
        raise TypeError(f"data_root: expected a path, as a string or pathlib.Path, got {root!r}")
    name, value = ("data_root", root) if root is not None else (ENV, os.environ.get(ENV) or None)
    if value is None:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{name}: expected an existing folder, got {str(folder)!r}; "
            "create it first if the data shall be downloaded there"
        )
    return folder
