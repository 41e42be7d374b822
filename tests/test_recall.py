"""``memplugins recall``: two tables, two pictures; and the memories that only it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from avalanche_memplugins import recall
from avalanche_memplugins.cli import main
from avalanche_memplugins.functional.episodes import corrupt_strings, string_episodes


def test_the_command_ends_in_tables_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "COUNTS", (16,))
    monkeypatch.setenv("COLUMNS", "100")
    state = torch.get_rng_state()
    assert main(["recall", "--strings", "16", "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    printed = capsys.readouterr().out
    for name in ("Hebb", "EBMM", "MANN", "DNC", "Boltzmann", "Kanerva", "random projections", "stored at 1 bit"):
        assert name in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.png", "strings.png"]
    for name in ("images", "strings"):
        assert float(imread(tmp_path / "out" / f"{name}.png")[..., :3].std()) > 0.05


def test_every_system_counts_8256_floats_or_says_so() -> None:
    for system in recall.string_systems():
        if "Boltzmann" in system.name:  # slow, and counted in tests/memories
            continue
        wrong, floats = recall.wrong_bits(system, 64, strings=64, seed=0)
        assert floats == 256 if "1 bit" in system.name else 8_100 < floats <= 8_256
        assert 0 <= wrong < 20, "guessing is 32"


def test_the_linear_kanerva_memory_is_read_by_its_known_bits() -> None:
    x = string_episodes(2, 32, generator=torch.Generator().manual_seed(0))
    cue, known = corrupt_strings(x, generator=torch.Generator().manual_seed(1))
    memory = recall.LinearKanerva(128)
    memory.write(x)
    assert memory.nbytes == 2 * 4 * (53 * 128 + 53 * 54 // 2)
    once, many = (((memory.read(cue, steps=n) > 0.5) != (x > 0.5)).sum(-1).float().mean() for n in (1, 20))
    assert float(many) < 1 < float(once)
    torch.testing.assert_close(memory.read(cue), memory.read(cue, known))


@pytest.mark.parametrize(("option", "value"), [("--strings", "0"), ("--seeds", "0"), ("--data-root", "no-such")])
def test_what_cannot_be_done_is_told(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recall", "--images", "mnist", option, value]) == 2
    assert f"{option[2:].replace('-', '_')}: expected" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
