"""The life of a run's process."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from .result import RunResult
from .settings import Settings
from .spec import RunSpec
from .store import ResultStore


def serve(pipe: Connection, spec: RunSpec, store: ResultStore, settings: Settings, log: str) -> None:
    """Do one run and send its result.

    :param pipe: takes the result.
    :param spec: the run.
    :param store: where its result and its state go.
    :param settings: how.
    :param log: file that standard output and error go to.
    """
    # Ctrl-C reaches every process of the terminal, but the decision is the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_reader, args=(pipe.fileno(),), daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        from .run import perform

        warm_up(settings.threads)
        result = perform(spec, store, settings)
    except Exception:
        # Only an installation that cannot be imported or a full disk comes here; a run keeps its own failures.
        result = RunResult(spec=spec, error=traceback.format_exc())
    pipe.send(result)


def warm_up(threads: int) -> None:
    """Do what torch and Avalanche do on first use, so that the first experience's seconds are its own."""
    import torch
    from avalanche.training import Naive

    torch.set_num_threads(threads)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.zero_grad()
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    Naive(model=model, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(), evaluator=None)


def _die_with_the_reader(pipe: int) -> None:
    """End the process once nobody waits for its result: the parent has been killed, or has given up this run.

    It would else hold the run's lock to its end.
    """
    parent = parent_process()
    if parent is None:
        return
    if hasattr(select, "poll"):
        ends = select.poll()
        ends.register(parent.sentinel, select.POLLIN)
        ends.register(pipe, 0)  # an error is told unasked
        ends.poll()
    else:
        wait([parent.sentinel])
    os._exit(1)
