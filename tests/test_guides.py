"""The code in README and in the guides that have no test of their own runs as it is printed."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.distributed import DistributedHelper
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import lab
from avalanche_memplugins.benchmarks import SplitDigits

ROOT = Path(__file__).parents[1]


def code(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def stream(x: torch.Tensor) -> Any:
    dataset = TensorDataset(x, torch.arange(len(x)) % 2)
    dataset.targets = dataset.tensors[1].tolist()
    return benchmark_from_datasets(train=[as_classification_dataset(dataset)] * 2).train_stream


@pytest.fixture
def given() -> dict[str, Any]:
    """What a reader has: images, a model with a body to name, its optimiser."""
    torch.manual_seed(0)
    images = (255 * torch.rand(32, 1, 28, 28)).round() / 255
    body = nn.Sequential(nn.Flatten(), nn.Linear(784, 8))
    model = nn.Sequential(OrderedDict(features=body, head=nn.Linear(8, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return {"images": images, "model": model, "optimizer": optimizer}


def train(strategy: Any, x: torch.Tensor) -> None:
    before = [p.detach().clone() for p in strategy.model.parameters() if p.requires_grad]
    for experience in stream(x):
        strategy.train(experience, num_workers=0)
    after = [p.detach() for p in strategy.model.parameters() if p.requires_grad]
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("page", "blocks"),
    [("docs/mbpa.md", 3), ("docs/speed.md", 2)],
)
def test_a_strategy_as_printed_trains(page: str, blocks: int, given: dict[str, Any]) -> None:
    found = code(page)
    assert len(found) == blocks
    exec("\n".join(found), given)
    train(given["strategy"], given["images"])
    assert len(given["memory"]) == 64


def test_the_readme_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = code("README.md")
    exec(block, {})
    told = re.search(r"# (\d+)%, memory ([\d,]+) bytes", block)
    found = re.search(r"(\d+)%, memory ([\d,]+) bytes", capsys.readouterr().out)
    assert told is not None
    assert found is not None
    assert abs(int(found[1]) - int(told[1])) <= 2  # other versions of torch may round otherwise
    assert found[2] == told[2]


def test_memories() -> None:
    block, structures, own, agent = code("docs/memories.md")
    given: dict[str, Any] = {"benchmark": SplitDigits(n_experiences=2, seed=0)}
    exec(structures, {})
    exec(block, given)
    exec(own, dict(given))
    exec(agent, given)
    assert len(given["agent"].memory) == 500
    text = (ROOT / "docs/memories.md").read_text(encoding="utf-8")
    assert f"A million bytes hold {given['memory'].capacity:,} MNIST images" in text
    raw = given["RandomMemory"].from_budget(1_000_000, shape=(1, 28, 28))
    assert f"and {raw.capacity} as float32 under a reservoir" in text


def test_replay(given: dict[str, Any]) -> None:
    first, *others = code("docs/replay.md")
    assert len(others) == 4
    for block in (first, next(block for block in others if "DarkReplayPlugin" in block)):
        exec(block, given)
        train(given["strategy"], given["images"])
    for line in "\n".join(others).splitlines():  # each plugin that stands alone in a line becomes one to train with
        if "MemoryReplayPlugin(" in line and "import" not in line and "labels=" in line:
            plugin = eval(line, given)
            train(given["Naive"](model=given["model"], optimizer=given["optimizer"], plugins=[plugin]), given["images"])
    exec("\n".join(others), given)


def test_kanerva(given: dict[str, Any]) -> None:
    blocks = code("docs/kanerva.md")
    assert len(blocks) == 2
    exec(blocks[0], given)
    x = (given["images"] - 0.1307) / 0.3081
    train(given["strategy"], x)
    held = given["memory"].summary().per_class
    given |= {"x": x[:4], "y": torch.tensor([0, 1, 0, 1])}
    exec(blocks[1], given)
    assert given["memory"].summary().per_class == held


def test_retrieval(given: dict[str, Any]) -> None:
    first, second, third = code("docs/retrieval.md")
    given["torch"] = torch
    exec(first.replace("train_vae(vae, images)", "train_vae(vae, images, epochs=1)"), given)
    for block in (second, third):
        exec(block.replace("optimizer=optimizer", "optimizer=torch.optim.SGD(model.parameters(), lr=0.05)"), given)
        train(given["strategy"], given["images"])


def test_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lab, "LocalProcesses", lambda jobs, settings: lab.InProcess(settings))
    first, _ = code("docs/runner.md")
    given: dict[str, Any] = {}
    exec(first.replace("range(5)", "range(1)").replace("epochs=10", "epochs=1"), given)
    (result,) = given["results"]
    assert result.error is None
    assert list((tmp_path / "results" / "runs").glob("*.json"))


def test_the_distributed_guide(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process here; two ranks are in test_distributed.py."""
    monkeypatch.setattr(DistributedHelper, "init_distributed", lambda **kwargs: None)
    exec(code("docs/runner.md")[1], given)
    train(given["strategy"], given["images"])


def test_links_and_pictures_are_there() -> None:
    def anchor(heading: str) -> str:
        return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")

    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "RESULTS.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if link.startswith("http"):
                continue
            path, _, part = link.partition("#")
            target = (page.parent / path) if path else page
            assert target.exists(), f"{page.name}: {link}"
            if part:
                headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert part in map(anchor, headings), f"{page.name}: {link}"


def test_the_site_has_every_guide_and_every_public_package() -> None:
    docs = ROOT / "docs"
    index, reference = ((docs / name).read_text(encoding="utf-8") for name in ("index.rst", "api.rst"))
    pages = [str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.md")]
    assert [page for page in pages if f"\n   {page}\n" not in index] == []
    packages = [folder.parent.name for folder in (ROOT / "avalanche_memplugins").glob("[a-z]*/__init__.py")]
    assert {"memories", "plugins", "testing"} <= set(packages)
    expected = ["strategies", *packages]
    assert [name for name in expected if f".. automodule:: avalanche_memplugins.{name}\n" not in reference] == []


def test_the_readme_links_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


@pytest.mark.parametrize(("page", "blocks"), [("docs/loops.md", 1), ("docs/forgetting.md", 2)])
def test_a_page_runs_from_top_to_bottom(page: str, blocks: int) -> None:
    found = code(page)
    assert len(found) == blocks
    exec("\n".join(found), {})
