"""The loop of a worker process."""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection

from .result import RunResult
from .spec import RunSpec


def serve(pipe: Connection, log: str) -> None:
    """Execute the runs that come through the pipe until None comes, or its other end is gone.

    :param pipe: gives specs, takes results.
    :param log: file that standard output and error go to, emptied before each run.
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    warm = False
    while True:
        try:
            spec = pipe.recv()
        except EOFError:
            return
        if spec is None:
            return
        os.truncate(log, 0)
        try:
            if not warm:
                warm_up(spec)
                warm = True
            from .execute import execute

            result = execute(spec)
        except Exception:
            # Only an installation that cannot be imported comes here; the run itself keeps its own failures.
            result = RunResult(spec=spec, error=traceback.format_exc())
        try:
            pipe.send(result)
        except BrokenPipeError:
            return


def warm_up(spec: RunSpec) -> None:
    """Bring in what torch and Avalanche load on first use, so that the first run's seconds are its own."""
    import torch
    from avalanche.training import Naive

    torch.set_num_threads(1)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.zero_grad()
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    Naive(model=model, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(), evaluator=None)
