"""Makes Avalanche's own checkpoints work with today's PyTorch."""

from __future__ import annotations

import sys
from types import TracebackType

import torch.optim


class avalanche_checkpoint_compat:
    """Lets Avalanche's ``save_checkpoint`` save strategies again; as a call, or as a context manager.

    ``torch.optim`` deletes the names of its submodules once it has imported from them. Dill then cannot find
    ``torch.optim.sgd.SGD`` by name, pickles the class by value instead, and fails on what that drags in:
    ``PicklingError: Can't pickle sentinel``. This puts the names back, and changes nothing else:

    >>> import pathlib, tempfile, torch
    >>> from avalanche.checkpointing import save_checkpoint
    >>> from avalanche.training import Naive
    >>> model = torch.nn.Linear(2, 2)
    >>> strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None)
    >>> with tempfile.TemporaryDirectory() as folder, avalanche_checkpoint_compat():
    ...     save_checkpoint(strategy, f"{folder}/run.pkl")
    ...     pathlib.Path(f"{folder}/run.pkl").exists()
    True

    A plain call ``avalanche_checkpoint_compat()`` puts them back for good. Avalanche's
    ``maybe_load_checkpoint`` needs no help, but it unpickles, which can run code: load only files that you
    trust. For new work see :func:`~avalanche_memplugins.checkpointing.save_run_state`.
    """

    def __init__(self) -> None:
        self._added: list[str] = []
        self.__enter__()

    def __enter__(self) -> avalanche_checkpoint_compat:
        for name, module in list(sys.modules.items()):
            parent, _, child = name.rpartition(".")
            if parent == "torch.optim" and not hasattr(torch.optim, child):
                setattr(torch.optim, child, module)
                self._added.append(child)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._added:
            delattr(torch.optim, self._added.pop())
