"""What a replay plugin writes to its memory, and when."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterable
from numbers import Number
from typing import Any, Literal, TypeAlias, TypeGuard, cast

import torch
from avalanche.benchmarks.utils import concat_datasets
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._batch import Keys
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins._random import frozen_generators, isolated
from avalanche_memplugins._structure import rows_in
from avalanche_memplugins.memories import RandomMemory
from avalanche_memplugins.memories.memory import LearningMemory, WritableMemory
from avalanche_memplugins.plugins._experience import (
    Batches,
    HeldBatches,
    Rows,
    comes_in_pieces,
    known_targets,
    normalisation_of,
    number_of,
    parts_of,
    through_the_model,
)
from avalanche_memplugins.plugins._latent import LatentTap
from avalanche_memplugins.plugins._outputs import main_output, rows_of
from avalanche_memplugins.plugins._strategy import row_losses
from avalanche_memplugins.rehearsal import Rehearsal

When: TypeAlias = Literal["auto", "iteration", "experience"]
Epochs: TypeAlias = Literal["first", "all"]
Origin: TypeAlias = Literal["experience", "task_label"]
_LOG = logging.getLogger(__name__)
_NOTES = {
    "experience": "rows are written when an experience has ended, so that rows of earlier ones are replayed",
    "iteration": "rows are written at each iteration, as the stream comes in pieces",
}


class Writing:
    """The writing half of :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin`, where the parameters are told.

    :param rehearsal: of the memory that is written; tells which iterations are.
    :param tap: at the module whose outputs are written; None: inputs are.
    :param when: ``write_at``.
    :param epochs: ``write_epochs``.
    :param origin: what the policies mean by "task".
    :raises ValueError: for arguments out of range or that exclude each other.
    """

    def __init__(
        self,
        rehearsal: Rehearsal,
        tap: LatentTap | None,
        *,
        when: When,
        epochs: Epochs,
        origin: Origin,
    ) -> None:
        memory = rehearsal.memory
        self.rehearsal, self.memory, self.tap = rehearsal, memory, tap
        self.learns = _learns(memory)
        self.epochs: Epochs = check.choice("write_epochs", epochs, ("first", "all"))
        # As it was asked for, and as it is for the running experience.
        self.asked: When = check.choice("write_at", when, ("auto", "iteration", "experience"))
        if when == "auto" and self.learns:
            self.asked = "experience"
        elif when == "auto" and (rehearsal.write_every > 1 or self.epochs == "all"):
            self.asked = "iteration"  # at the end of an experience these would mean nothing
        self.when: When = self.asked
        self.origin: Origin = check.choice("origin", origin, ("experience", "task_label"))
        self.needs = _needs_of(memory)
        kind = type(memory)
        self._writes_from = isinstance(memory, RandomMemory) and kind.write is RandomMemory.write
        self._may_be_checked = "checked" in inspect.signature(getattr(memory, "write", len)).parameters
        if self.learns and self.when == "iteration":
            raise ValueError(
                f"write_at: {type(memory).__name__} learns from whole experiences, expected 'experience' or "
                "'auto', got 'iteration'"
            )
        if self.learns and self.needs:
            raise ValueError(
                "memory: expected one that learns from batches (x, y, t) to need nothing else, got one that needs "
                f"{sorted(self.needs)}"
            )
        # Whether what is written is known only once the model has run.
        self.after_forward = tap is not None or bool(self.needs)
        self.number = 0  # of the running experience
        self._row_losses: Callable[[Any, Tensor], Tensor] | None = None
        self._untested = False  # whether rows are of a kind that only a batch of them tells
        self._probe: Tensor | None = None  # a row as the memory will get it, to test labels with
        self._told = False
        self.keys: Keys | None = None  # where a batch that is a dict has y and t
        self._noted: set[str] = set()

    def __repr__(self) -> str:
        return repr(self.when) if self.when == self.asked else f"{self.when!r} (auto)"

    @property
    def waits(self) -> bool:
        """Whether ``"auto"`` has decided to write at the end of the running experience."""
        return self.asked == "auto" and self.when == "experience"

    def take(self, asked: When, when: When) -> None:
        """Go on as a saved plugin; what this one was asked for stays, if that is more than ``"auto"``."""
        if self.asked == "auto":
            self.asked, self.when = asked, when

    # ---------------------------------------------------------------- before training

    def join(self, strategy: Any) -> None:
        """Come to the strategy's device, and find the loss of each row if the memory needs it.

        :raises ValueError: if it cannot be had.
        """
        self._row_losses = row_losses(strategy, self.memory) if "loss" in self.needs else None
        self.memory.to(strategy.device)

    def begin(self, strategy: Any) -> None:
        """Take up an experience; test what the memory will be given when it has ended.

        :raises ValueError: what the memory has against it.
        """
        self.number = number_of(strategy)
        self._probe, self._untested = None, False
        if self.asked == "auto":
            self.when = "iteration" if comes_in_pieces(strategy) else "experience"
            if self.when not in self._noted:
                self._noted.add(self.when)
                _LOG.info("MemoryReplayPlugin(write_at='auto'): %s", _NOTES[self.when])
        at_end = self.when == "experience"
        # What was written stays until the experience has ended: no row has to be read twice before another.
        if at_end and not self.learns and hasattr(self.memory, "read_in_passes"):
            self.memory.read_in_passes()
        if self.tap is None:
            dataset = strategy.experience.dataset
            _tell_normalisation(self.memory, dataset.eval() if at_end else dataset.train())
        if not at_end:
            self._tell_of_old_rows(strategy)
        elif hasattr(self.memory, "check_rows"):
            self._probe = self._test_rows(strategy)

    def test_batch(self, x: Any, y: Any) -> None:
        """Ask ``memory.check_rows`` about a batch's labels ``(B,)``, if the data set has not told all of them.

        On a GPU, where looking means waiting, they are not looked at. Of rows that are dicts or tuples the whole of
        the first batch is looked at.
        """
        if self._untested and self.tap is None and hasattr(self.memory, "check_rows"):
            _check_rows(self.memory, x, y)
        self._untested = False
        if self._probe is None or not isinstance(y, Tensor) or y.is_cuda:
            return
        if y.ndim == 1 and not y.is_floating_point():
            y = torch.unique(y)
            _check_rows(self.memory, self._probe.expand(len(y), *self._probe.shape[1:]), y)

    def _test_rows(self, strategy: Any) -> Tensor | None:
        """Ask ``memory.check_rows`` about the first row of the experience, and about its labels where they are known.

        :returns: the row ``(1, *shape)`` as the memory will get it, if labels are still to be tested batch by batch.
        """
        probe = None
        for _, part in parts_of(strategy):
            dataset = part.eval()
            if not len(dataset):
                continue
            # Transforms may draw random numbers: the run goes on as if nobody had looked.
            with frozen_generators(), isolated(strategy.device, 0):
                row = dataset[0]
                # Rows of other kinds are refused with the first batch, by name.
                tensors = isinstance(row, tuple | list) and len(row) > 1 and isinstance(row[0], Tensor)
                if not tensors or not isinstance(row[1], Tensor | Number):
                    self._untested = True
                    continue
                x, y = (torch.as_tensor(column).unsqueeze(0).to(strategy.device) for column in row[:2])
                t = torch.as_tensor(row[-1] if len(row) > 2 else 0).reshape(1).to(strategy.device)
                if self.tap is not None:
                    with eval_mode(strategy.model), torch.no_grad():
                        x = self.tap.read(strategy.model, x, t)[0].float()
            _check_rows(self.memory, x, y)
            targets = known_targets(dataset)
            if targets is None:
                probe = x
            else:
                _check_rows(self.memory, x.expand(len(targets), *x.shape[1:]), targets.to(strategy.device))
        return probe

    def _tell_of_old_rows(self, strategy: Any) -> None:
        """Warn if what is trained on is more than the experience, such as all data so far."""
        more = len(strategy.adapted_dataset) - sum(len(dataset) for _, dataset in parts_of(strategy))
        if more > 0 and not self._told:
            self._told = True
            warnings.warn(
                f"MemoryReplayPlugin: {type(strategy).__name__} trains on {more} rows beside those of the experience, "
                "and they are written as rows of the experience, too; write_at='experience' writes its own only",
                stacklevel=4,
            )

    # ---------------------------------------------------------------- an iteration

    def is_due(self, strategy: Any) -> bool:
        """Whether this iteration's batch is written; each call counts as an iteration."""
        if self.when != "iteration" or (self.epochs == "first" and strategy.clock.train_exp_epochs):
            return False
        return self.rehearsal.is_due()

    def write(self, x: Tensor, labels: list[Tensor], number: int, output: Any = None, *, sound: bool = False) -> None:
        """Offer rows to the memory.

        :param x: ``(B, *shape)``.
        :param labels: ``[y]`` or ``[y, t]``, each ``(B,)``.
        :param number: of their experience.
        :param output: the model's, for these rows; None if the memory needs none.
        :param sound: rows and labels have been looked at.
        """
        y, t = labels[0], labels[1] if len(labels) > 1 else 0
        extras: dict[str, Any] = {"checked": True} if sound and self._may_be_checked else {}
        if self.needs:
            logits = main_output(output).detach().float()
            if "logits" in self.needs:
                extras["logits"] = logits
            if self._row_losses is not None:
                extras["loss"] = self._row_losses(logits if isinstance(output, Tensor) else output, y)
        writable = cast("WritableMemory", self.memory)
        writable.write(x, y, t, origin=t if self.origin == "task_label" else number, **extras)

    def write_passed(self, strategy: Any, stream: list[Any], rows: int, output: Any, latents: Tensor | None) -> None:
        """Offer the first rows of the stream's batch when they have passed the model.

        :param stream: the batch ``[x, y]`` or ``[x, y, t]``.
        :param output: the model's, for the whole batch.
        :param latents: what passed the tap, for the whole batch; None without one.
        """
        x, *labels = (rows_in(column, slice(rows)) for column in stream)
        if latents is not None:
            x = latents[:rows].float()
        try:
            self.write(x, labels, self.number, rows_of(output, slice(rows)))
        except ValueError as error:
            self._tell_if_diverged(strategy, error)
            raise

    # ---------------------------------------------------------------- the end of an experience

    def end(self, strategy: Any, generator: torch.Generator) -> None:
        """Offer the whole experience, if that is when it is written.

        :param generator: of the order in which a memory that learns is fed.
        """
        self._probe = None
        if self.when != "experience":
            return
        try:
            if _learns(self.memory):
                self.memory.consolidate(self._to_learn(strategy, generator), origin=number_of(strategy))
                return
            for number, dataset in parts_of(strategy):
                batches = Batches(strategy, dataset, strategy.eval_mb_size, None, self.keys)
                if self._writes_from and not self.after_forward and (stored := batches.stored()) is not None:
                    self._write_from(*stored, number, strategy.eval_mb_size)
                    continue
                passed: Iterable[Rows] = (Rows(*batch) for batch in batches)
                if self.after_forward:
                    passed = through_the_model(strategy, batches, self.tap)
                for x, y, t, output in passed:
                    self.write(x, [y, t], number, output)
        except ValueError as error:
            self._tell_if_diverged(strategy, error)
            raise

    def _write_from(
        self, source: Tensor, rows: Tensor, labels: list[Tensor], sound: bool, number: int, batch_size: int
    ) -> None:
        y, t = labels[0], labels[-1] if len(labels) > 1 else 0
        origin = t if self.origin == "task_label" else number
        memory = cast("RandomMemory", self.memory)
        memory.write_from(source, rows, y, t, origin=origin, checked=sound, batch_size=batch_size)

    def _to_learn(self, strategy: Any, generator: torch.Generator) -> Batches | HeldBatches:
        dataset = concat_datasets([data for _, data in parts_of(strategy)])
        if self.tap is None:
            return Batches(strategy, dataset, strategy.train_mb_size, generator, self.keys)
        # The layers below do not change any more: once through them is enough for all passes.
        rows = list(through_the_model(strategy, Batches(strategy, dataset, strategy.eval_mb_size, None), self.tap))
        return HeldBatches(rows, strategy.train_mb_size, generator)

    def _tell_if_diverged(self, strategy: Any, error: ValueError) -> None:
        """Tell of diverged training where the memory has refused what the model gave because it is not finite."""
        name, _, text = str(error).partition(":")
        given = {"logits": "outputs", "loss": "losses"}
        if self.tap is not None:
            given["x"] = f"outputs of {self.tap.at!r}"
        if "finite" in text and name in given:
            raise ValueError(
                f"model: expected finite {given[name]}, got NaN or infinite ones at iteration "
                f"{strategy.clock.train_iterations}: training has diverged; a smaller learning rate or clipped "
                "gradients may help"
            ) from error


def _learns(memory: object) -> TypeGuard[LearningMemory]:
    return callable(getattr(memory, "consolidate", None))


def _needs_of(memory: object) -> frozenset[str]:
    """What a memory needs beside rows and labels: ``"loss"``, ``"logits"``.

    :raises ValueError: for anything that a plugin does not know to give.
    """
    needs = frozenset(getattr(memory, "needs", ()))
    if unknown := needs - {"x", "y", "loss", "logits"}:
        raise ValueError(f"memory: expected needs among 'x', 'y', 'loss' and 'logits', got {sorted(map(str, unknown))}")
    stored = {"logits"} if getattr(memory, "store_logits", False) else set()
    return (needs | stored) - {"x", "y"}


def _check_rows(memory: Any, x: Tensor, y: Tensor) -> None:
    if len(inspect.signature(memory.check_rows).parameters) > 1:
        memory.check_rows(x, y)
    else:
        memory.check_rows(x)


def _tell_normalisation(memory: Any, dataset: Any) -> None:
    """Let a memory of pixels know the data's ``Normalize``, if the user gave it no mean and std.

    A codec that the user made is not changed, since it may serve other memories, and what they hold.

    :param memory: with ``normalise_as(mean, std)``, or a codec with mean and std.
    :param dataset: that it will be given rows of.
    :raises ValueError: if its codec has no mean and std, and the data's are known: naming them.
    """
    codecs = _codecs_without_statistics(memory)
    learns = callable(getattr(memory, "normalise_as", None)) and not len(memory)
    if not codecs and not learns:
        return
    found = normalisation_of(dataset)
    if found is None:
        return
    mean, std = (values[0] if len(values) == 1 else values for values in found)
    if learns:
        memory.normalise_as(mean, std)
    if set(found[0]) == {0.0} and set(found[1]) == {1.0}:
        return  # pixels as they are, and said so
    for codec in codecs:
        name = type(codec).__name__
        raise ValueError(
            f"codec: {name} expected pixels from 0 to 1, or the mean and std of the data's Normalize, got data of "
            f"mean={mean} and std={std}; make it with {name}(..., mean={mean}, std={std}), or take codec='int8'"
        )


def _codecs_without_statistics(memory: Any) -> list[Any]:
    if len(memory):
        return []
    codec = getattr(memory, "codec", None)
    codec = getattr(codec, "codec", codec)  # of a codec that makes images smaller
    if codec is None or getattr(memory, "normalisation", None) is getattr(codec, "normalisation", codec):
        return []  # the memory made it, and knows how to tell it
    holder = getattr(codec, "normalisation", codec)
    mean, std = getattr(holder, "mean", None), getattr(holder, "std", None)
    if not isinstance(mean, torch.Tensor) or not isinstance(std, torch.Tensor):
        return []
    return [] if bool(mean.any()) or bool((std != 1).any()) else [codec]
