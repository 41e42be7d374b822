"""What comes out of one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .spec import PROTOCOL, RunSpec


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Numbers of a run that ended, or the traceback of one that failed.

    With T experiences:

    :param spec: the run.
    :param untrained: ``(T,)`` [0, 1], test accuracy on each experience before any training; empty where the model gives
        none, and in results of earlier versions.
    :param accuracy: ``(T, T)``, [0, 1]: row i, column k is the test accuracy on experience k after training on i.
    :param train_seconds: ``(T,)`` wall-clock seconds of training on each experience, evaluation left out.
    :param memory_bytes: ``(T,)`` bytes held from the stream after each experience.
    :param fixed_bytes: bytes needed besides, whatever the stream: of frozen networks.
    :param weights: SHA-256 of the model's final weights.
    :param warnings: what was warned of, each once.
    :param environment: versions, machine, threads.
    :param error: traceback if the run failed; the numbers are then empty.
    """

    spec: RunSpec
    untrained: tuple[float, ...] = ()
    accuracy: tuple[tuple[float, ...], ...] = ()
    train_seconds: tuple[float, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    fixed_bytes: int = 0
    weights: str = ""
    warnings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the run ended."""
        return self.error is None

    @property
    def final_accuracy(self) -> float:
        """Mean over experiences of the accuracy after the last one, [0, 1]."""
        return sum(self.accuracy[-1]) / len(self.accuracy[-1])

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"protocol": PROTOCOL, "key": self.spec.key, **asdict(self), "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunResult:
        """Back from :meth:`to_json`.

        :raises ValueError: if the values are not those of a result.
        """
        try:
            return cls(
                spec=RunSpec(**values["spec"]),
                untrained=tuple(map(float, values.get("untrained", ()))),
                accuracy=tuple(tuple(map(float, row)) for row in values["accuracy"]),
                train_seconds=tuple(map(float, values["train_seconds"])),
                memory_bytes=tuple(map(int, values["memory_bytes"])),
                fixed_bytes=int(values.get("fixed_bytes", 0)),
                weights=str(values["weights"]),
                warnings=tuple(map(str, values["warnings"])),
                environment=dict(values["environment"]),
                error=values["error"],
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"values: wants the JSON of a result, got {problem!r}") from problem
