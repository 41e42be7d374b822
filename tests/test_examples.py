"""Every example runs as it is and shows what it says."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SLOW = {"own_images"}  # trains 15 residual networks
NEEDS = {"lightning_loop": ("lightning",), "hugging_face_trainer": ("transformers", "accelerate")}


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in EXAMPLES], ids=lambda p: p.stem
)
def test_an_example_runs(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in NEEDS.get(path.stem, ()):
        pytest.importorskip(package, reason=f"the example is for {package}, which is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(path), run_name="__main__")
    shown = capsys.readouterr().out
    if path.stem == "latent_replay":
        line = next(line for line in shown.splitlines() if line.startswith("Top1_Acc_Stream"))
        assert float(line.split()[-1]) > 0.6  # stale codes under a free body: 0.2
    else:
        assert "%" in shown


def test_one_line_makes_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(next(p for p in EXAMPLES if p.stem == "add_rma_to_naive")))
    naive, rma = (float(line.split()[-2]) for line in capsys.readouterr().out.splitlines()[:2])
    assert rma > naive + 50
