"""What a run has after some of its experiences: numbers beside the strategy's state."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any

from avalanche_memplugins.checkpointing import CheckpointError, load_run_state, save_run_state

from .spec import PROTOCOL, RunSpec
from .store import checked_numbers, sealed, unsealed, write_whole

_NUMBERS, _STATE = "numbers.json", "state"


@dataclass
class Progress:
    """A run's numbers so far, a row an experience, see :class:`.RunResult`."""

    untrained: list[float] = field(default_factory=list)
    accuracy: list[list[float]] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any], n_experiences: int) -> Progress:
        """Back from the file.

        :param values: the fields.
        :param n_experiences: length of the stream.
        :raises ValueError: naming the field that is missing, has another shape or is out of range.
        """
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"values: expected the numbers of a run, got {short(sorted(values, key=str))}")
        accuracy, warned = values["accuracy"], values["warnings"]
        if not isinstance(accuracy, list) or not 0 < len(accuracy) <= n_experiences:
            raise ValueError(f"accuracy: expected 1 to {n_experiences} rows, got {short(accuracy)}")
        if not isinstance(warned, list) or not all(isinstance(text, str) for text in warned):
            raise ValueError(f"warnings: expected texts, got {short(warned)}")
        numbers = checked_numbers(values, n_experiences, len(accuracy))
        lists = {name: list(value) for name, value in numbers.items()}
        return cls(**{**lists, "accuracy": [list(row) for row in lists["accuracy"]]}, warnings=warned)

    def cut(self, trained: int) -> None:
        """Forget what came after the first ``trained`` experiences."""
        for rows in (self.accuracy, self.train_seconds, self.memory_bytes):
            del rows[trained:]


class Checkpoint:
    """The folder of an unfinished run.

    A kill at any moment leaves a state that is whole and numbers that reach at least as far: numbers are written
    first, and cut to the state when they are read.

    :param folder: None: nothing is saved, and nothing found.
    :param spec: the run.
    :param versions: of the libraries, and the threads: a state that others have made is not gone on from, since the
        rest would not be bit for bit what one run gives.
    """

    def __init__(self, folder: Path | None, spec: RunSpec, versions: dict[str, str]) -> None:
        self.folder, self.n_experiences = folder, spec.n_experiences
        self.head = {"protocol": PROTOCOL, "spec": spec.to_json(), "versions": versions}

    def save(self, strategy: Any, progress: Progress) -> None:
        """Save where the run stands; a strategy whose state cannot be saved begins anew when it is interrupted."""
        if self.folder is None:
            return
        write_whole(self.folder / _NUMBERS, sealed({**self.head, **asdict(progress)}))
        try:
            save_run_state(strategy, self.folder / _STATE)
        except CheckpointError:
            self.discard()
            self.folder = None  # nor will it be after the next experience

    def numbers(self) -> Progress | None:
        """What was saved last; None if there is nothing that the run can go on from."""
        if self.folder is None:
            return None
        try:
            values = unsealed(self.folder / _NUMBERS)
            if {name: values.pop(name, None) for name in self.head} == self.head:
                return Progress.from_json(values, self.n_experiences)
        except (OSError, ValueError):
            pass
        self.discard()
        return None

    def load(self, strategy: Any, stream: Any, progress: Progress) -> bool:
        """Put the state into a fresh strategy and cut the numbers to it.

        :returns: False if that cannot be done. The state is then removed, and the strategy not to be used.
        """
        if self.folder is None:
            return False
        try:
            trained = load_run_state(strategy, self.folder / _STATE, experiences=stream, missing_ok=True)
        except CheckpointError as problem:
            warnings.warn(f"an unfinished run could not be gone on with and begins anew: {problem}", stacklevel=2)
            self.discard()
            return False
        if not 0 < trained <= len(progress.accuracy):
            self.discard()
            return False
        progress.cut(trained)
        return True

    def discard(self) -> None:
        """Remove what was saved."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
