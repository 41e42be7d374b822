"""Published settings as YAML files, and what they are expected to give."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from avalanche_memplugins.benchmarks.names import look_up

from .spec import RunSpec

_BYTES, _VALUES, _LABEL = 1_000_000, 100_000, 200
FOLDER = Path(__file__).parent.parent / "presets"


@dataclass(frozen=True, kw_only=True)
class PresetRow:
    """One published number.

    :param label: as in the source.
    :param run: fields of a :class:`.RunSpec`, but for the seed.
    :param expected: accuracy after the last experience, mean over experiences, %.
    :param tolerance: points by which a measured mean may differ, > 0.
    :param note: what a reader of the verdict must know.
    """

    label: str
    run: Mapping[str, Any]
    expected: float
    tolerance: float
    note: str = ""

    def spec(self, seed: int) -> RunSpec:
        """The run of a seed."""
        return RunSpec(**{"epochs": 1, **self.run, "seed": seed})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published table, or a part of it.

    :param name: of its file.
    :param summary: one line for a reader.
    :param source: where the numbers are published.
    :param seeds: that a measurement takes by default, >= 1.
    :param minutes: that all rows of one seed take on one core, about.
    :param rows: the numbers.
    :param note: where the setting here differs from the source's.
    """

    name: str
    summary: str
    source: str
    seeds: int
    minutes: float
    rows: tuple[PresetRow, ...]
    note: str = ""


def names() -> tuple[str, ...]:
    """Names of the presets that come with the library."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_preset(name: str | Path) -> Preset:
    """Read a preset, and check every run of it.

    :param name: one of :func:`names`, or the path of a YAML file of your own.
    :raises ValueError: for an unknown name, with the nearest; for a file that is missing or no preset, naming the
        row and field.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = look_up("preset", str(name), {known: FOLDER / f"{known}.yaml" for known in names()})
    found = _read_yaml(path)
    where = f"preset {path.stem}"
    values = _mapping(where, found)
    common = _mapping(f"{where}, common", values.pop("common", {}))
    rows = values.pop("rows", None)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{where}, rows: expected a list of at least one row, got {short(rows)}")
    values = {**values, "name": path.stem, "rows": tuple(_row(where, row, common) for row in rows)}
    preset: Preset = _make(Preset, where, values)
    labels = [row.label for row in preset.rows]
    if len(set(labels)) != len(labels):
        raise ValueError(f"{where}, rows: expected a label of its own for each, got {short(labels)}")
    if isinstance(preset.seeds, bool) or not isinstance(preset.seeds, int) or preset.seeds < 1:
        raise ValueError(f"{where}, seeds: expected an integer >= 1, got {short(preset.seeds)}")
    for field in ("summary", "source", "note"):
        _text(f"{where}, {field}", getattr(preset, field))
    _number(f"{where}, minutes", preset.minutes)
    return preset


def _row(where: str, found: Any, common: Mapping[str, Any]) -> PresetRow:
    values = _mapping(f"{where}, rows", found)
    # YAML reads an unquoted None as text but a bare `no` as false; a label is always text.
    label = values.get("label", "")
    if isinstance(label, dict | list):
        raise ValueError(f"{where}, rows, label: expected text, got {short(label)}")
    values["label"] = str(label)[:_LABEL]
    where = f"{where}, row {values['label'] or '?'}"
    run = {**common, **_mapping(f"{where}, run", values.get("run", {}))}
    if "seed" in run:
        raise ValueError(f"{where}: expected no seed of its own, a preset is run over several")
    row: PresetRow = _make(PresetRow, where, {**values, "run": run})
    _number(f"{where}, expected", row.expected)
    _number(f"{where}, tolerance", row.tolerance)
    _text(f"{where}, note", row.note)
    try:
        hash(row.spec(0))
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{where}: {problem!s:.300}") from problem
    return row


def _make(cls: Any, where: str, values: Mapping[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    strange = [name for name in values if name not in fields]
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]
    if strange or missing:
        what = f"no field {short(strange[0])}" if strange else f"a field {missing[0]!r}"
        raise ValueError(f"{where}: expected {what}; it has {', '.join(map(str, values)):.300}")
    return cls(**values)


def _mapping(where: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected names and values, got {short(found)}")
    if not all(isinstance(name, str) for name in found):
        raise ValueError(f"{where}: expected names that are text, got {short(list(found))}")
    return dict(found)


def _text(where: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected text, got {short(value)}")


def _number(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{where}: expected a number above 0, got {short(value)}")


def _read_yaml(path: Path) -> Any:
    """What a YAML file says.

    :raises ValueError: if it cannot be read, is no YAML, or would take more than a preset needs: aliases that name each
        other stand for billions of values in a few lines.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        with open(path, "rb") as file:
            content = file.read(_BYTES + 1)
        if len(content) > _BYTES:
            raise ValueError(f"expected at most {_BYTES} bytes")
        loader = yaml.SafeLoader(content.decode())
        try:
            node = loader.get_single_node()
            if _values(node, {}) > _VALUES:
                raise ValueError(f"its aliases stand for more than {_VALUES} values")
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except OSError as problem:
        raise ValueError(f"preset: cannot read {path}: {problem.strerror or problem}") from problem
    except RecursionError:
        raise ValueError(f"preset: {path} is nested too deeply") from None
    except Exception as problem:  # PyYAML raises whatever a bad number or date makes of it
        raise ValueError(f"preset: {path} is no preset: {' '.join(str(problem).split()):.300}") from problem


def _values(node: Any, known: dict[int, float]) -> float:
    """Values that a node of YAML stands for, its aliases' own counted each time; one that holds itself has no end."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf
    parts = getattr(node, "value", ())
    parts = parts if isinstance(parts, list) else []
    found = 1.0 + sum(
        _values(part, known) for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))
    )
    known[id(node)] = found
    return found
