"""The guide "A memory of your own": its memory keeps every promise, and trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_memplugins.testing import check_memory, check_plugin

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_memory.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "examples" / "own_memory.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    torch.manual_seed(0)
    given: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, given)
    return given


def test_the_page_runs_and_its_strategy_has_trained(page: dict[str, Any]) -> None:
    assert len(page["memory"]) == 200
    assert len(set(page["memory"].labels[2].tolist())) >= 3


def test_the_checks_of_the_page_pass(page: dict[str, Any]) -> None:
    for mark in page["test_promise"].pytestmark:
        assert len(mark.args[1]) >= 20
    memory, plugin = page["CASES"]
    assert check_memory(memory).broken == []
    assert check_plugin(plugin).broken == []


def test_the_hardest_rows_stay(page: dict[str, Any]) -> None:
    """Against sorting all losses."""
    memory, losses = page["HardestMemory"](30), []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        logits, x = torch.randn(17, 4, generator=generator), torch.randn(17, 8, generator=generator)
        y = torch.arange(17) % 4
        memory.write(x, y, logits=logits)
        losses.append(torch.nn.functional.cross_entropy(logits, y, reduction="none"))
    torch.testing.assert_close(memory.loss.sort().values, torch.cat(losses).sort().values[-30:])


def test_the_budget_of_the_door_is_kept(page: dict[str, Any]) -> None:
    memory = page["hardest"](None, budget=20_000, codec="raw", shape=(1, 8, 8), classes=10, experiences=5, seed=0)
    assert 19_500 < memory.nbytes <= 20_000
    assert page["hardest"](7, budget=None, shape=(8,), seed=0).capacity == 7


def test_page_and_example_have_the_same_class_of_under_60_lines() -> None:
    start, end = EXAMPLE.index("class HardestMemory"), EXAMPLE.index("\n\n\nif __name__")
    for part in EXAMPLE[start:end].split("\n\n\n"):
        assert part in PAGE
    assert EXAMPLE[start : EXAMPLE.index("\n\n\ndef hardest")].count("\n") < 60


def test_the_error_of_the_page_is_the_one_that_comes(page: dict[str, Any]) -> None:
    (told,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    code = EXAMPLE[: EXAMPLE.index("\n\n\nif __name__")].replace(" or not x.isfinite().all():", ":")
    careless: dict[str, Any] = {"__name__": "careless"}
    exec(code, careless)
    with pytest.raises(AssertionError) as error:
        check_memory(careless["HardestMemory"])
    assert str(error.value) == told.strip()
