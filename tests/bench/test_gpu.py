"""bench/gpu.py: the script runs as a whole without a GPU, and nothing that fails stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    return gpu


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCH))
    from _gpu_run import Run

    def make(seconds: float = 60) -> Run:
        return Run("section", torch.device("cpu"), small=True, seconds=seconds, out=tmp_path / "gpu.jsonl")

    return make


def test_all_sections_run_without_a_gpu(gpu, tmp_path):
    command = [sys.executable, "-W", "ignore", str(BENCH / "gpu.py"), "--cpu", "--out", str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads((tmp_path / "gpu.json").read_text())
    assert [line for line in lines if line["kind"] != "row"] == []
    assert {line["section"] for line in lines} == set(gpu.SECTIONS)
    text = (tmp_path / "gpu.md").read_text()
    assert "### Microseconds a step" in text
    assert "\n## " not in text


def test_sections_fit_into_eight_minutes(gpu):
    assert sum(gpu.SECTIONS.values()) <= gpu.IN_ALL <= 8 * 60


def test_an_error_is_kept_with_its_place_and_passed_over(bench, gpu, tmp_path):
    run = bench()
    with run.attempt("one"):
        raise ValueError("broken\nin two lines")
    run.row("table", a=1)
    error, row = gpu.results(tmp_path)
    assert (error["what"], error["error"]) == ("one", "ValueError: broken in two lines")
    assert error["at"].startswith("bench/test_gpu.py:")
    assert row["cells"] == {"a": 1}
    assert "- one: ValueError: broken in two lines" in gpu.markdown([error, row])


def test_what_there_is_no_time_for_is_told(bench, gpu, tmp_path):
    assert list(bench(60).each([1, 2])) == [1, 2]
    assert list(bench(-1).each([1, 2])) == []
    (line,) = gpu.results(tmp_path)
    assert line["items"] == ["1", "2"]
    assert "- section: 1, 2" in gpu.markdown([line])


def test_a_line_that_was_cut_off_is_left_out(gpu, tmp_path):
    (tmp_path / "gpu.jsonl").write_text('{"section": "a", "kind": "row", "table": "t", "cells": {}}\n{"section": "b", ')
    assert [line["section"] for line in gpu.results(tmp_path)] == ["a"]
