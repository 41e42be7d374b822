"""bench/_record.py: sections are replaced in place, never lost, never half written."""

from __future__ import annotations

import importlib.util
from multiprocessing import get_context
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def load():
    spec = importlib.util.spec_from_file_location("_record", BENCH / "_record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_many(path: Path, name: str) -> None:
    for turn in range(10):
        load().record(name, f"turn {turn}", "cmd", path=path)


def test_replaces_only_the_named_section(tmp_path):
    record, path = load().record, tmp_path / "RESULTS.md"
    record("Speed", "old speed", "python bench/speed.py", path=path)
    record("Scale", "the scale", "python bench/scale.py", path=path)
    record("Speed", "new speed", "python bench/speed.py", path=path)
    text = path.read_text()
    assert "old speed" not in text
    assert text.index("new speed") < text.index("the scale")
    assert text.count("## Speed") == 1
    assert text.startswith("# Results")


def test_two_writers_lose_nothing(tmp_path):
    path = tmp_path / "RESULTS.md"
    context = get_context("fork")
    workers = [context.Process(target=write_many, args=(path, name)) for name in ("A", "B")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    text = path.read_text()
    assert text.count("turn 9") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["RESULTS.md"]


@pytest.mark.parametrize(("section", "body"), [("", "x"), ("two\nlines", "x"), ("ok", "## heading")])
def test_bad_input_is_named(tmp_path, section, body):
    with pytest.raises(ValueError, match=r"section|markdown"):
        load().record(section, body, "cmd", path=tmp_path / "r.md")


def test_an_interval_is_students_t_over_the_values():
    interval = load().interval
    assert interval([1.0, 2.0, 3.0]) == "2.0 ± 2.5"  # t of two degrees of freedom is 4.303, over the root of 3
    assert interval((3.0, 1.0, 2.0), 2) == "2.00 ± 2.48"
    assert interval([7.25], 2) == "7.25"
    assert interval([]) == "-"
