"""All metrics of memories at once."""

from __future__ import annotations

from avalanche_memplugins import _checks as check
from avalanche_memplugins.metrics._base import EmitAt
from avalanche_memplugins.metrics.memory_bytes import MemoryBytes, MemoryFixedBytes
from avalanche_memplugins.metrics.replay_accuracy import ReplayAccuracy


def memory_metrics(
    *, minibatch: bool = False, epoch: bool = False, experience: bool = False
) -> list[MemoryBytes | ReplayAccuracy]:
    """Bytes held, fixed bytes, and accuracy on replayed rows, to be passed to Avalanche's ``EvaluationPlugin``.

    :param minibatch: emit them after each training iteration.
    :param epoch: emit them after each training epoch.
    :param experience: emit them after each training experience.
    :return: the metrics; none if all of the parameters are False.

    >>> [str(metric) for metric in memory_metrics(experience=True)]
    ['MemoryBytes_Exp', 'MemoryFixedBytes_Exp', 'Top1_ReplayAcc_Exp']
    """
    check.flags(minibatch=minibatch, epoch=epoch, experience=experience)
    wanted: dict[EmitAt, bool] = {"iteration": minibatch, "epoch": epoch, "experience": experience}
    kinds = (MemoryBytes, MemoryFixedBytes, ReplayAccuracy)
    return [kind(emit_at) for emit_at, is_wanted in wanted.items() if is_wanted for kind in kinds]
