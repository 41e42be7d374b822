"""The page: every number where it belongs, nothing from outside, and readable in a browser."""

from __future__ import annotations

import html
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from avalanche_memplugins.cli import main
from avalanche_memplugins.lab import Comparison, ResultStore, RunResult, RunSpec, compare, figures
from avalanche_memplugins.lab.page import Mark, amount, axis, intervals, log_ticks, render
from avalanche_memplugins.lab.table import summarise, tidy

STRATEGIES = ("naive", "replay", "rma", "er", "cumulative")


def made_up(spec: RunSpec) -> RunResult:
    """Numbers of the size that real runs have."""
    rng = np.random.default_rng([spec.seed, *map(ord, spec.strategy)])
    n = spec.n_experiences
    loss = {"naive": 0.9, "cumulative": 0.0}.get(spec.strategy, 0.1)
    matrix = np.tril(np.full((n, n), 0.95 - loss), -1) + np.eye(n) * 0.95
    matrix = np.clip(matrix + 0.02 * rng.normal(size=(n, n)), 0, 1)
    held = 0 if spec.strategy == "naive" else 10_000 * len(spec.strategy) ** 2
    return RunResult(
        spec=spec,
        untrained=(0.1,) * n,
        accuracy=tuple(map(tuple, matrix.tolist())),
        train_seconds=(float(1 + rng.random()),) * n,
        memory_bytes=(held,) * n,
        environment={"torch": "2.15", "machine": f"box-{spec.seed}"},
    )


def results(**changes: Any) -> list[RunResult]:
    return [made_up(spec) for spec in Comparison(strategies=STRATEGIES, seeds=3, **changes).specs()]


class Reader(HTMLParser):
    """Refuses tags that do not close; collects tables, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "xlink:href")]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "title" not in self.open and {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_table_has_the_summarys_numbers() -> None:
    runs = results()
    reader = read(render(runs, "replay", command="memplugins compare"))
    summary = summarise(tidy(runs), "replay")
    rows = [row for row in reader.cells if len(row) == 11 and row[0] != "strategy"]
    assert len(rows) == len(summary) == 10
    for row, line in zip(rows, summary.to_dict("records"), strict=True):
        assert row[1] == f"{100 * line['accuracy']:.1f} ± {100 * line['accuracy_half_width']:.1f}"
        if line["strategy"] == "replay":
            assert row[2:4] == ["baseline", ""]
        else:
            assert row[2] == f"{100 * line['difference']:+.1f}"
            assert row[3] == f"{100 * line['difference_low']:+.1f} to {100 * line['difference_high']:+.1f}"
        assert row[4].startswith(f"{100 * line['forgetting']:.1f} ±")
        assert row[5].startswith(f"{100 * line['backward_transfer']:+.1f} ±")
        assert row[6].startswith(f"{100 * line['forward_transfer']:+.1f} ±")
        assert row[7] == amount(line["memory_bytes"], "B")
        assert row[9:] == [f"{line['train_seconds']:.1f}", "3"]
    assert "box-0; box-1; box-2" in reader.text, "all machines are named"


def test_nothing_is_fetched_and_nothing_runs() -> None:
    png = b"\x89PNG"
    page = render(results(), "replay", command="memplugins compare", pictures={"what RMA replays": png})
    reader = read(page)
    assert [link for link in reader.links if not link.startswith("data:image/png;base64,")] == []
    assert len(reader.links) == 1
    assert not re.search(r"https?://|@import|url\(|<script|javascript:", page)


def test_what_runs_say_is_text_and_not_markup() -> None:
    runs = results(benchmarks=("split-digits",))
    evil = "Traceback ...\nValueError: <script>alert(1)</script>"
    runs[3] = RunResult(spec=runs[3].spec, error=evil, environment={"torch": "<b>2"})
    runs[0] = RunResult(**{**vars(runs[0]), "warnings": ("UserWarning: a < b",)})
    page = render(runs, "replay", command="memplugins compare --out '<here>'")
    assert "<script" not in page
    reader = read(page)
    for text in (evil, "1 failed", "UserWarning: a < b", "--out '<here>'", "<b>2"):
        assert text in reader.text
    row = next(row for row in reader.cells if row[0] == "ER")
    assert row[10] == "2", "one of its three seeds has failed"


@pytest.mark.parametrize(
    "changes",
    [{"experiences": 1, "benchmarks": ("permuted-digits",)}, {"experiences": 20, "benchmarks": ("permuted-digits",)}],
)
def test_short_and_long_streams_and_single_seeds(changes: dict[str, Any]) -> None:
    runs = [run for run in results(**changes) if run.spec.seed == 0]
    reader = read(render(runs, "replay", command="x"))
    assert "nan" not in reader.text.lower()
    assert next(row for row in reader.cells if row[0] == "Naive")[3] == ""


def test_several_budgets_of_a_strategy_are_several_lines(spec: Callable[..., RunSpec]) -> None:
    runs = [
        made_up(spec(strategy="rma", budget=budget, seed=seed, n_experiences=5))
        for seed in range(2)
        for budget in (10_000, 50_000)
    ] + [made_up(spec(strategy="naive", seed=seed, n_experiences=5)) for seed in range(2)]
    reader = read(render(runs, "naive", command="x"))
    assert [row[0] for row in reader.cells if len(row) == 11][1:] == ["RMA 10 kB", "RMA 50 kB", "Naive"]


def test_only_failures_make_a_page_that_says_so(spec: Callable[..., RunSpec]) -> None:
    reader = read(render([RunResult(spec=spec(), error="ImportError: no torch")], "naive", command="x"))
    assert "no run has ended" in reader.text
    assert "ImportError: no torch" in reader.text


def test_charts_place_values_where_the_axis_says() -> None:
    marks = [Mark(label=str(v), style=i, middle=v, low=v - 1, high=v + 1) for i, v in enumerate((20.0, 50.0, 95.0))]
    drawn = intervals(marks, title="t")
    ticks = {float(t): float(x) for x, t in re.findall(r'class="tick" x="([\d.]+)"[^>]*>([\d.]+)<', drawn)}
    (a, xa), (b, xb) = min(ticks.items()), max(ticks.items())
    ends = re.findall(r'class="mark s\d whisker" x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', drawn)
    for mark, (low, high) in zip(marks, ends, strict=True):
        for value, place in ((mark.low, low), (mark.high, high)):
            assert float(place) == pytest.approx(xa + (value - a) / (b - a) * (xb - xa), abs=0.2)


@pytest.mark.parametrize("values", [[0.3], [5.0, 5.1], [0, 100], [-60.0, 12.0], [1e-3, 2e-3]])
def test_an_axis_holds_its_values_between_few_round_ticks(values: list[float]) -> None:
    low, high, ticks = axis(min(values), max(values))
    assert low <= min(values) <= max(values) <= high
    assert 2 <= len(ticks) <= 7
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])


@pytest.mark.parametrize("values", [[1.0], [54_400.0], [900.0, 1100.0], [10.0, 2e9], [3e4, 5e5], [1e-3, 1e9]])
def test_log_ticks_hold_their_values(values: list[float]) -> None:
    ticks = log_ticks(values)
    assert ticks[0] < min(values) <= max(values) < ticks[-1]
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(0, "B", "0 B"), (999, "B", "999 B"), (54_400, "B", "54.4 kB"), (2.5e6, "B", "2.5 MB"), (3e12, "B", "3e+03 GB"),
     (20, "s", "20 s"), (0.5, "s", "0.5 s"), (1e5, "s", "1e5 s")],
)  # fmt: skip
def test_amounts_for_a_reader(value: float, unit: str, shown: str) -> None:
    assert amount(value, unit) == shown


def test_thirty_strategies_have_thirty_signs() -> None:
    signs = {Mark(label="", style=i, middle=0).key for i in range(36)}
    assert len(signs) == 36
    assert len({Mark(label="", style=-i, middle=0).key for i in (1, 2, 3)}) == 3


class Executor:
    jobs = 1

    def run(self, specs: list[RunSpec], store: ResultStore) -> Any:
        return map(made_up, specs)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("accuracy_curves", "accuracy_matrices"):  # pictures of their own tests, which take seconds
        monkeypatch.setattr(figures, name, lambda numbers: Figure())
    comparison = Comparison(benchmarks=("split-digits",), strategies=STRATEGIES, seeds=2, out=tmp_path / "out")
    compare(comparison, console=Console(file=io.StringIO()), executor=Executor())
    return comparison.out


def test_report_makes_the_files_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "results.csv").read_bytes()
    page = (folder / "report.html").read_text()
    command = f"memplugins compare --benchmarks split-digits --seeds 2 --out {folder}"
    assert command in html.unescape(page)
    for name in ("report.html", "results.csv", "summary.csv"):
        (folder / name).unlink()
    assert main(["report", str(folder)]) == 0
    assert "report.html" in capsys.readouterr().out.replace("\n", "")
    assert (folder / "results.csv").read_bytes() == before
    again = (folder / "report.html").read_text()
    assert re.search(r"\d{4}-.{11} UTC", page)
    assert re.sub(r"\d{4}-.{11} UTC", "", again) == re.sub(r"\d{4}-.{11} UTC", "", page)
    assert main(["report", str(folder), "--baseline", "rma"]) == 0
    assert "vs RMA" in (folder / "report.html").read_text()
    (folder / "comparison.json").unlink()
    assert main(["report", str(folder)]) == 0
    assert sorted((folder / "results.csv").read_text().splitlines()) == sorted(before.decode().splitlines())


def test_a_comparison_still_going_on_has_a_report(folder: Path) -> None:
    runs = sorted((folder / "runs").glob("*.json"))
    for path in runs[::2]:
        path.unlink()
    assert main(["report", str(folder)]) == 0
    assert len(pd.read_csv(folder / "results.csv")["run"].unique()) == len(runs[1::2]) > 0


def test_report_of_nothing_is_an_error(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "expected a folder of `memplugins compare` with finished runs" in capsys.readouterr().err.replace("\n", " ")
    assert main(["report", str(folder), "--baseline", "zzz"]) == 2
    assert "baseline: no 'zzz'; there are" in capsys.readouterr().err


def test_parquet_has_the_numbers_of_the_csv(folder: Path) -> None:
    pytest.importorskip("pyarrow", reason="results.parquet needs pyarrow")
    read_back = pd.read_parquet(folder / "results.parquet")
    table = pd.read_csv(folder / "results.csv", dtype={"evaluated_experience": "Int64"})
    pd.testing.assert_frame_equal(read_back, table, check_dtype=False)


PROBE = """<!doctype html><body style="margin:0"><iframe id="f" style="border:0;width:WIDTHpx;height:4000px"></iframe>
<pre id="out"></pre><script>
const frame = document.getElementById("f");
frame.onload = () => {
  const page = frame.contentDocument, found = {width: page.documentElement.scrollWidth, small: [], over: []};
  found.paper = getComputedStyle(page.body).backgroundColor;
  for (const chart of page.querySelectorAll("figure svg")) {
    const texts = [...chart.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
    const box = chart.getBoundingClientRect();
    for (const [text, r] of texts) {
      if (r.height < 7) found.small.push([text, r.height]);
      if (r.left < box.left - 1 || r.right > box.right + 1) found.over.push([text, "edge"]);
      for (const [other, q] of texts) if (r !== q && r.left < q.right + 1 && q.left < r.right + 1
        && r.top < q.bottom - 3 && q.top < r.bottom - 3) found.over.push([text, other]);
    }
  }
  document.getElementById("out").textContent = JSON.stringify(found);
};
frame.srcdoc = PAGE;
</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_a_browser_shows_it_without_overflow_or_text_over_text(width: int, scheme: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    page = render(results(), "replay", command="memplugins compare " + "--seeds 3 " * 20)
    (tmp_path / "report.html").write_text(page)
    # As a string of a script, in which the page's own end tags of scripts would end it: it has none.
    probe = PROBE.replace("WIDTH", str(width)).replace("PAGE", json.dumps(page))
    (tmp_path / "probe.html").write_text(probe)
    common = [
        str(browser), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
    ]  # fmt: skip
    url = (tmp_path / "probe.html").as_uri()
    dom = subprocess.run([*common, "--dump-dom", url], capture_output=True, text=True, timeout=60, check=False).stdout
    told = re.search(r'<pre id="out">(.+?)</pre>', dom, flags=re.DOTALL)
    assert told is not None
    found = json.loads(html.unescape(told[1]))
    assert found["width"] <= width, "the page itself never scrolls sideways"
    assert found["small"] == []
    assert found["over"] == []
    assert found["paper"] == {"dark": "rgb(20, 23, 26)", "light": "rgb(255, 255, 255)"}[scheme]
    shot = tmp_path / "shot.png"
    url = (tmp_path / "report.html").as_uri()
    subprocess.run([*common, f"--screenshot={shot}", url], capture_output=True, timeout=60, check=False)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    paper = np.array([20, 23, 26] if scheme == "dark" else [255, 255, 255])
    assert (np.abs(pixels[:5, :5].astype(int) - paper) <= 2).all()
    assert math.prod(np.unique(pixels.reshape(-1, 3), axis=0).shape) > 100, "something is drawn"
