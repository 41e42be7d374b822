"""Published settings as YAML files, and their numbers measured anew."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any, ClassVar

import tyro
from rich.console import Console
from rich.text import Text

from avalanche_memplugins.benchmarks.names import look_up

from .display import say, tell
from .executors import Executor
from .formatting import NumberTable, percent
from .options import UNSET, RunOptions, check_seeds, check_strategy, own_first
from .report import note
from .spec import RunSpec
from .store import RunResult, write_whole

_BYTES, _VALUES, _LABEL = 1_000_000, 100_000, 200
PRESETS = Path(__file__).parent.parent / "presets"


@dataclass(frozen=True, kw_only=True)
class PresetRow:
    """One published number.

    :param label: as in the source.
    :param run: fields of a :class:`.RunSpec`, without the seed.
    :param expected: accuracy after the last experience, mean over experiences, %.
    :param tolerance: percentage points by which the measured mean may differ, > 0.
    :param note: what a reader of the verdict must know.

    >>> run = {"benchmark": "split-digits", "strategy": "naive", "n_experiences": 5}
    >>> PresetRow(label="None", run=run, expected=20, tolerance=2).spec(seed=3).title
    'split-digits · naive · seed 3'
    """

    label: str
    run: Mapping[str, Any]
    expected: float
    tolerance: float
    note: str = ""

    def spec(self, seed: int) -> RunSpec:
        """The run with that seed."""
        return RunSpec(**{"epochs": 1, **self.run, "seed": seed})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published table, or a part of it.

    :param name: name of its file.
    :param summary: one line for a reader.
    :param source: where the numbers are published.
    :param seeds: default number of seeds, >= 1.
    :param minutes: estimated time of all rows for one seed on one core.
    :param rows: the numbers.
    :param note: how the setting here differs from the source's.
    """

    name: str
    summary: str
    source: str
    seeds: int
    minutes: float
    rows: tuple[PresetRow, ...]
    note: str = ""


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the library.

    >>> "clb-split-mnist" in preset_names()
    True
    """
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load_preset(name: str | Path) -> Preset:
    """Read a preset and check each of its runs.

    :param name: one of :func:`preset_names`, or the path of a YAML file of your own.
    :raises ValueError: for an unknown name, with the nearest one; for a file that is missing or no preset, naming the
        row and field.

    >>> preset = load_preset("rma-permuted-mnist")
    >>> preset.rows[0].label, preset.rows[0].expected
    ('10 tasks', 76.8)
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = look_up("preset", str(name), {known: PRESETS / f"{known}.yaml" for known in preset_names()})
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
    """The content of a YAML file.

    :raises ValueError: if it cannot be read, is no YAML, or has more values than a preset needs: with aliases, a few
        lines can stand for billions of values.
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
    """Number of values that a YAML node stands for, with aliases counted each time; infinite if it contains itself."""
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


@own_first
@dataclass(frozen=True, kw_only=True)
class Reproduction(RunOptions):
    """Run a preset, and compare what it gives with what was published.

    The presets, with the time that they take, are listed by `memplugins list`. Runs that are already done are taken
    from the output folder. The exit status is 0 only if every number is reproduced.
    """

    COMMAND: ClassVar[str] = "reproduce"

    preset: Annotated[str, tyro.conf.Positional]
    """Name of a preset, or a YAML file of your own."""
    rows: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW [ROW ...]"), UNSET] = ()
    """Only these rows, by label; by default all."""
    seeds: Annotated[int | None, UNSET] = None
    """Number of seeds: 0, 1, 2, ...; by default the preset's."""
    out: Path = Path("results/reproduce")
    """Folder for results and tables."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome for a row.

    :param row: the published number.
    :param measured: mean over seeds, %; NaN if no run ended.
    :param half_width: half of its 95 % t-interval; NaN for one seed.
    :param seeds: number of runs that ended.
    :param failed: number of runs that failed.
    """

    row: PresetRow
    measured: float
    half_width: float
    seeds: int
    failed: int

    @property
    def reproduced(self) -> bool:
        """Whether all runs ended and their mean is within the tolerance."""
        return not self.failed and abs(self.measured - self.row.expected) <= self.row.tolerance

    @property
    def text(self) -> str:
        """For a reader."""
        if self.failed:
            return f"{self.failed} failed"
        if self.reproduced:
            return "reproduced"
        gap = self.measured - self.row.expected
        return f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"


def reproduce(
    reproduction: Reproduction, *, console: Console | None = None, executor: Executor | None = None
) -> list[Verdict]:
    """Do the runs that are not done yet, then print and write a table of expected and measured numbers.

    :param reproduction: which preset, and how.
    :param console: where to print; None: standard output.
    :param executor: does the runs; None: what the options say.
    :raises ValueError: if the preset or a row is unknown or damaged, before anything is run.
    """
    console = console or Console()
    preset = load_preset(reproduction.preset)
    rows = _wanted(preset, reproduction.rows)
    seeds = preset.seeds if reproduction.seeds is None else reproduction.seeds
    check_seeds(seeds)
    for row in rows:
        check_strategy(row.spec(0).strategy)
    specs = [row.spec(seed) for seed in range(seeds) for row in rows]

    def announce() -> None:
        console.print(Text(f"{preset.name}: {preset.summary}\nsource: {preset.source}", "bold"), soft_wrap=True)
        if preset.note:
            console.print(Text(preset.note, "dim"), soft_wrap=True)

    found = reproduction.run(specs, console, executor, announce=announce)
    tell(console, found, reproduction.store)
    results = {result.spec: result for result in found}
    verdicts = [verdict(row, [results[row.spec(seed)] for seed in range(seeds)]) for row in rows]
    console.print(_table(verdicts))
    for one in verdicts:
        if one.row.note:
            console.print(Text(f"{one.row.label}: {one.row.note}", "dim"), soft_wrap=True)
    path = reproduction.out / f"{preset.name}.csv"
    kept = note(
        reproduction.out,
        command=reproduction.command(),
        baseline=None,
        runs=[spec.key for spec in specs],
        name=f"{preset.name}.json",
        files=(path.name,),
    )
    if kept is not None:
        say(console, f"an earlier table, of other runs, is kept in {kept}")
    write_whole(path, _csv(verdicts))
    console.print(Text(f"written: {path}"), soft_wrap=True)
    return verdicts


def verdict(row: PresetRow, results: list[RunResult]) -> Verdict:
    """The verdict on a row.

    :param row: the published number.
    :param results: of its runs, also of failed ones.
    """
    from .table import interval

    accuracies = [100 * result.final_accuracy for result in results if result.ok]
    measured, half_width = interval(accuracies) if accuracies else (math.nan, math.nan)
    failed = len(results) - len(accuracies)
    return Verdict(row=row, measured=measured, half_width=half_width, seeds=len(accuracies), failed=failed)


def _wanted(preset: Preset, labels: tuple[str, ...]) -> list[PresetRow]:
    known = {row.label: row for row in preset.rows}
    return [look_up("rows", label, known) for label in labels] or list(known.values())


def _table(verdicts: list[Verdict]) -> NumberTable:
    table = NumberTable("row", ("expected %", "measured %", "seeds", "verdict"))
    for one in verdicts:
        table.add_row(
            one.row.label,
            f"{one.row.expected:g} ± {one.row.tolerance:g}",
            percent(one.measured / 100, one.half_width / 100),
            str(one.seeds),
            Text(one.text, "green" if one.reproduced else "red"),
        )
    return table


def _csv(verdicts: list[Verdict]) -> bytes:
    import pandas as pd

    lines = [
        {
            "row": one.row.label,
            "expected": one.row.expected,
            "tolerance": one.row.tolerance,
            "measured": one.measured,
            "half_width": one.half_width,
            "seeds": one.seeds,
            "failed": one.failed,
            "verdict": one.text,
        }
        for one in verdicts
    ]
    return pd.DataFrame(lines).to_csv(index=False).encode()
