"""Rehearsal from an energy-based memory as a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from avalanche.training.templates import SupervisedTemplate

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.plugins import EnergyReplayPlugin
from avalanche_memplugins.plugins.memory_replay import Amount
from avalanche_memplugins.pretrained import load_energy
from avalanche_memplugins.strategies._ready import Template, beside, ready_made

if TYPE_CHECKING:
    from typing_extensions import Unpack


@ready_made
class EnergyRehearsal(SupervisedTemplate):  # type: ignore[misc]
    r"""Fine-tuning with rehearsal from an energy-based memory, within a budget of bytes.

    At the end of each experience a share of its rows is written into slots of an
    :class:`~avalanche_memplugins.memories.EnergyMemory`, a thumbnail of each kept as its cue; later batches are trained
    with as many rows read from there, :math:`L = (|B| L_B + |R| L_R) / (|B| + |R|)`. Energy of the stream's rows tells
    what has been seen: :class:`~avalanche_memplugins.metrics.MemoryNovelty`. At equal bytes
    :class:`~avalanche_memplugins.strategies.ExperienceReplay` with ``codec="4bit"`` is more accurate (docs/energy.md).

    :param network: name of an energy network that comes with the library, or a file that ``memplugins train-energy``
        wrote.
    :param budget: bytes for slots, cues and labels, a number or as in ``"100KB"``.
    :param shape: of one row.
    :param classes: how many are expected.
    :param cue: side of the thumbnail kept of each pattern.
    :param memory: further arguments of :class:`~avalanche_memplugins.memories.EnergyMemory`, by name; slots are int8
        and of as many patterns as the network was trained for if nothing is said. Larger ones hold more rows in the
        same bytes, at little loss: a slot for each experience is best (docs/energy.md).
    :param replay_from: ``"stored"`` cues or the ``"current"`` batch, see
        :class:`~avalanche_memplugins.plugins.EnergyReplayPlugin`.
    :param mean: of the user's ``Normalize``.
    :param std: of the user's ``Normalize``.
    :param replay_size: rows to replay each iteration; None: as many as the stream's batch has.
    :param seed: of the memory. None: drawn from torch's global generator.
    :param train_mb_size: mini-batch size for training.

    >>> import torch
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    >>> def larger(image):
    ...     return torch.nn.functional.interpolate(image[None], (28, 28))[0]
    >>> strategy = EnergyRehearsal(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...                            budget="30KB", evaluator=None)
    >>> _ = strategy.train(SplitDigits(5, train_transform=larger, eval_transform=larger).train_stream[0])
    >>> strategy.memory.nbytes <= 30_000
    True

    Sources: Bartunov et al., "Meta-learning deep energy-based memory models", 2020, for the memory; rehearsal from it
    is ours.
    """

    def __init__(
        self,
        *,
        network: str = "rehearsal-28",
        budget: int | str = 100_000,
        shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        cue: int | None = 7,
        memory: dict[str, Any] | None = None,
        replay_from: Literal["stored", "current"] = "stored",
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        replay_size: Amount = None,
        seed: int | None = None,
        train_mb_size: int = 32,
        **template: Unpack[Template],
    ) -> None:
        check.path("network", network)
        check.integers("shape", shape)
        check.positive_integer("classes", classes)
        if cue is not None:
            check.positive_integer("cue", cue)
        if memory is not None and not isinstance(memory, dict):
            raise TypeError(f"memory: expected arguments of EnergyMemory by name, or None, got {check.show(memory)}")
        check.choice("replay_from", replay_from, ("stored", "current"))
        budget = parse_bytes(budget)
        found = load_energy(network)
        ours: dict[str, Any] = {"slot_size": found.patterns, "cue": cue, "precision": "int8"}
        options = {**ours, "mean": mean, "std": std, "seed": seed, **(memory or {})}
        try:
            bank = EnergyMemory.from_budget(budget, found.network, shape=shape, classes=classes, **options)
        except ValueError as error:
            raise ValueError(str(error).replace("nbytes: ", "budget: ", 1)) from error
        replay = EnergyReplayPlugin(bank, cue=replay_from, replay_size=replay_size, seed=seed)
        super().__init__(train_mb_size=train_mb_size, **beside(template, replay))
        self.memory = bank
