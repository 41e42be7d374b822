"""The one reason why a data set stays with Avalanche's own loader."""

from __future__ import annotations


class Unsupported(Exception):
    """A data set cannot be served from tensors; the message says why and what the user can do.

    Raised and caught inside the plugin, which then leaves Avalanche's loader where it is.
    """
