"""What comes out of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from reprlib import repr as short
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

        :raises ValueError: if the values are not those of a result, naming the field: types, shapes and ranges are
            checked, so that nobody counts with what a damaged file holds.
        """
        if not isinstance(values, dict):
            raise ValueError(f"values: expected the JSON of a result, got {type(values).__name__}")
        known = {field.name for field in fields(cls)} | {"protocol", "key"}
        if strange := sorted(values.keys() - known, key=str):
            raise ValueError(f"values: expected the JSON of a result, got a field {short(strange[0])}")
        try:
            spec = RunSpec(**values["spec"])
            error = values["error"]
            if error is not None and not isinstance(error, str):
                raise ValueError(f"error: expected text or null, got {short(error)}")
            if values.get("key", spec.key) != spec.key:
                raise ValueError(f"key: expected {spec.key}, got {short(values['key'])}")
            if not isinstance(values["environment"], dict):
                raise ValueError(f"environment: expected names and values, got {short(values['environment'])}")
            numbers = checked_numbers(values, spec.n_experiences, spec.n_experiences if error is None else 0)
            return cls(
                spec=spec,
                **numbers,
                fixed_bytes=_whole("fixed_bytes", values.get("fixed_bytes", 0)),
                weights=_text("weights", values["weights"]),
                warnings=tuple(_text("warnings", text) for text in _list("warnings", values["warnings"])),
                environment={
                    _text("environment", name): _text("environment", value)
                    for name, value in values["environment"].items()
                },
                error=error,
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"values: expected the JSON of a result, got {problem!r:.200}") from problem


def checked_numbers(values: Mapping[str, Any], n_experiences: int, trained: int) -> dict[str, Any]:
    """The numbers of a run after some of its experiences, as tuples.

    :param values: ``untrained`` ``(T,)`` or empty, ``accuracy`` ``(trained, T)``, all [0, 1]; ``train_seconds``
        ``(trained,)`` >= 0; ``memory_bytes`` ``(trained,)`` integers >= 0.
    :param n_experiences: T.
    :param trained: how many experiences were trained on.
    :raises ValueError: naming what is missing, has another shape or is out of range.
    """
    try:
        untrained = _list("untrained", values.get("untrained", ()))
        if untrained:
            _list("untrained", untrained, n_experiences)
        accuracy = [_list("accuracy", row, n_experiences) for row in _list("accuracy", values["accuracy"], trained)]
        return {
            "untrained": tuple(_number("untrained", value, 1) for value in untrained),
            "accuracy": tuple(tuple(_number("accuracy", value, 1) for value in row) for row in accuracy),
            "train_seconds": tuple(
                _number("train_seconds", value) for value in _list("train_seconds", values["train_seconds"], trained)
            ),
            "memory_bytes": tuple(
                _whole("memory_bytes", value) for value in _list("memory_bytes", values["memory_bytes"], trained)
            ),
        }
    except KeyError as problem:
        raise ValueError(f"{problem.args[0]}: expected numbers, got none") from problem


def _list(name: str, value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        much = "" if length is None else f" of {length}"
        raise ValueError(f"{name}: expected a list{much}, got {short(value)}")
    return list(value)


def _number(name: str, value: Any, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value == math.inf:
        raise ValueError(
            f"{name}: expected finite numbers from 0{f' to {most}' * (most < math.inf)}, got {short(value)}"
        )
    return float(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{name}: expected integers >= 0, got {short(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text, got {short(value)}")
    return value
