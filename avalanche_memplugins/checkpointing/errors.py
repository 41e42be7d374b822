"""What may go wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be written, cannot be read, or does not fit the strategy it is loaded into.

    >>> from avalanche_memplugins.checkpointing import load_run_state
    >>> import torch
    >>> from avalanche.training import Naive
    >>> model = torch.nn.Linear(2, 2)
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None)
    >>> load_run_state(strategy, "no such folder")
    Traceback (most recent call last):
    avalanche_memplugins.checkpointing.errors.CheckpointError: ...
    """


class UnsavableError(TypeError):
    """A value that tensors and JSON cannot hold.

    :param path: where it was found, names joined by ``/``.
    :param value: the value.
    """

    def __init__(self, path: str, value: object) -> None:
        super().__init__(f"{path} is of type {type(value).__name__}, which cannot be saved without pickle")
        self.path = path
        self.value = value
