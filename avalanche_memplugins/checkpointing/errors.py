"""What may go wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be written, cannot be read, or does not fit the strategy it is loaded into."""


class UnsavableError(TypeError):
    """A value that tensors and JSON cannot hold.

    :param path: where it was found, names joined by ``/``.
    :param value: the value.
    """

    def __init__(self, path: str, value: object) -> None:
        super().__init__(f"{path} is of type {type(value).__name__}, which cannot be saved without pickle")
        self.path = path
        self.value = value
