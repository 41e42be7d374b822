"""The gallery: its pictures are there, and show what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from avalanche_memplugins.cli import main
from avalanche_memplugins.gallery import _two_of_each, grid_figure, load_images, occlude


def test_the_command_draws_every_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.get_rng_state()
    assert main(["gallery", "--out", str(tmp_path / "pictures"), "--budget", "20KB"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == ["interpolation.png", "reads.png", "replay.png", "weights.png"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in found)
    for name in found:
        picture = imread(tmp_path / "pictures" / name)
        assert min(picture.shape[:2]) > 150
        assert float(picture[..., :3].std()) > 0.1


def test_a_budget_that_holds_nothing_is_an_error_in_plain_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", "--out", str(tmp_path / "pictures"), "--budget", "10"]) == 2
    assert "nbytes: expected at least" in capsys.readouterr().err
    assert not (tmp_path / "pictures").exists()


def test_a_missing_folder_is_told_by_the_options_name(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--data-root", "--data"):
        assert main(["gallery", "--images", "mnist", option, "/not/there"]) == 2
        assert "data_root: expected an existing folder, got '/not/there'" in capsys.readouterr().err


def test_digits_stand_as_those_of_mnist_do() -> None:
    x, y = load_images("digits", seed=0)
    assert x.shape == (1797, 1, 28, 28)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    assert not x[:, :, :4].any()
    assert not x[:, :, :, -4:].any()
    assert sorted(set(y.tolist())) == list(range(10))


def test_two_of_each_class_in_order_and_none_where_there_are_fewer() -> None:
    y = torch.tensor([3, 0, 3, 3, 9])
    x = (y + 1.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    shown = _two_of_each(x, y)[:, 0, 0, 0].nan_to_num(-1).tolist()
    assert shown == [1, -1, *[-1] * 4, 4, 4, *[-1] * 10, 10, -1]


def test_a_tile_without_a_row_is_marked_and_said_and_a_black_image_is_neither() -> None:
    grid = torch.zeros(2, 3, 1, 28, 28)
    plain = grid_figure(grid, ["a", "b"], "title")
    assert list(plain.axes[0].patches) == []
    assert [text.get_text() for text in plain.texts] == ["title"]
    grid[1, 2] = torch.nan
    figure = grid_figure(grid, ["a", "b"], "title")
    (patch,) = figure.axes[0].patches
    assert patch.get_hatch()
    assert (patch.get_x(), patch.get_y(), patch.get_width()) == (2 * 30 - 0.5, 30 - 0.5, 28)
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    assert not canvas[:28, 60:].any()
    assert bool((canvas[30:, 60:] == 0.35).all())
    assert "hatched: the memory holds no further row of that class" in [text.get_text() for text in figure.texts]


def test_occlusion_blackens_one_square_and_nothing_else() -> None:
    x = torch.ones(50, 1, 28, 28)
    out = occlude(x, 14, torch.Generator().manual_seed(0))
    assert (out == 0).flatten(1).sum(1).tolist() == [196] * 50
    corners = {tuple((image[0] == 0).nonzero()[0].tolist()) for image in out}
    assert len(corners) > 30
    for image in out:
        rows, columns = (image[0] == 0).nonzero().unbind(1)
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 13
