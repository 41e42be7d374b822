"""What the scripts of this folder have in common: options, a network, digits as tensors, runs that are kept."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from _record import PLOTS, record
from avalanche.benchmarks.utils import as_classification_dataset
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST

T = TypeVar("T", bound="Options")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every script can be told."""

    quick: bool = False
    """As little as shows that everything runs; keeps and records nothing."""
    record: bool = True
    """Write the table into bench/RESULTS.md."""

    def write(self, section: str, markdown: str, command: str) -> None:
        """Print a section, and put it into the results unless it is a quick one."""
        print(markdown, flush=True)
        if self.record and not self.quick:
            record(section, markdown, command)

    def runs(self, folder: str | Path) -> Path:
        """A folder in which runs are kept and not done again; a fresh one if it is quick."""
        kept = Path(tempfile.mkdtemp(prefix="memplugins-quick-")) if self.quick else Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        return kept

    @property
    def plots(self) -> Path:
        """Folder for pictures of the results."""
        return self.runs(PLOTS) if self.record else self.runs(Path(tempfile.gettempdir()) / "memplugins-plots")

    def least(self, most: int, quick: int) -> int:
        """A number, or the one for a quick look."""
        return min(most, quick) if self.quick else most


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """What scripts with data can be told."""

    data: Path = field(default_factory=lambda: Path(os.environ.get("MEMPLUGINS_DATA", "data")))
    """Folder of the data sets, as torchvision lays them out; MEMPLUGINS_DATA if not given."""

    def images(self, kind: type[MNIST] = MNIST) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training images ``(N, 1, 28, 28)`` in [0, 1] and their classes, then those to test on; few if it is quick."""
        every = 30 if self.quick else 1
        train, test = kind(str(self.data), train=True), kind(str(self.data), train=False)
        found = (train.data[:, None] / 255.0, train.targets, test.data[:, None] / 255.0, test.targets)
        return found[0][::every], found[1][::every], found[2][::every], found[3][::every]


def launch(main: Callable[[T], object], options: type[T], description: str | None) -> object:
    """Read the command line, run on one thread, and tell the time that it took; gives what ``main`` gives.

    :param main: takes the options.
    :param options: a dataclass.
    :param description: the script's docstring.
    """
    given = tyro.cli(options, description=description)
    torch.set_num_threads(1)
    if isinstance(given, DataOptions):
        if not given.data.is_dir():
            raise SystemExit(f"data: expected the folder of the data sets, got {given.data}, which is not there")
        given = replace(given, data=given.data.absolute())
        os.environ["MEMPLUGINS_DATA"] = str(given.data)
    outcome = main(given)
    print(f"{time.process_time() / 60:.1f} CPU minutes", file=sys.stderr)  # the standard output is for results
    return outcome


def mlp(inputs: int = 784) -> nn.Sequential:
    """The classifier of most scripts: two hidden layers of 400 and ten classes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )


def pairs_of_classes(seed: int) -> Tensor:
    """``(5, 2)``: ten classes in an order drawn by the seed, two an experience."""
    return torch.randperm(10, generator=torch.Generator().manual_seed(seed)).view(5, 2)


def data_sets(x: Tensor, y: Tensor, parts: Sequence[Tensor]) -> list[Any]:
    """Data sets as Avalanche takes them, of the rows that each part names."""
    found = []
    for rows in parts:
        data = TensorDataset(x[rows], y[rows])
        data.targets = y[rows].tolist()
        found.append(as_classification_dataset(data))
    return found


def rows_of(y: Tensor, classes: Tensor) -> list[Tensor]:
    """Rows of each line of ``classes (experiences, k)``."""
    return [torch.isin(y, one).nonzero().flatten() for one in classes]


@torch.no_grad()
def percent_right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy in evaluation mode, %."""
    model.eval()
    right = torch.cat([model(rows).argmax(1) for rows in x.split(1_000)]) == y
    return 100 * float(right.float().mean())


def once(file: Path, make: Callable[[], Any]) -> Any:
    """What the file keeps as JSON; if there is none, what ``make`` gives, which is then kept, whole or not at all."""
    if not file.exists():
        result = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps(result))
        draft.replace(file)
        print(file.stem, {k: v for k, v in result.items() if isinstance(v, int | float | str)}, flush=True)
    return json.loads(file.read_text())
