"""Split Omniglot, opened from a folder of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avalanche.benchmarks import NCScenario, nc_benchmark
from avalanche.benchmarks.datasets import default_dataset_location
from torchvision.datasets import Omniglot
from torchvision.transforms import Compose, Normalize, ToTensor

from .roots import data_root as find_root

TRAIN_DRAWERS = 16
OMNIGLOT_MEAN, OMNIGLOT_STD = 0.9221, 0.2681


def split_omniglot(n_experiences: int = 4, *, data_root: str | Path | None = None, **options: Any) -> NCScenario:
    """Split Omniglot: the background set's 964 characters, 16 drawings of each to train on, 4 to test on.

    Images ``(1, 105, 105)``, normalised by mean 0.9221, std 0.2681 as in Avalanche. The split is by drawer:
    drawings 1-16 are for training. Avalanche's own ``SplitOmniglot`` tests on the evaluation set instead:
    other characters under the same labels, so its test accuracy means nothing.

    :param n_experiences: number of experiences, a divisor of 964: 1, 2, 4, 241, 482 or 964.
    :param data_root: folder with ``omniglot-py/images_background``; see :func:`.data_root`. The zip file that
        torchvision asks for need not be there.
    :param options: further keywords as of Avalanche's ``SplitOmniglot``: ``seed``, ``return_task_id``, ...
    :raises ValueError: if the folder does not exist.

    >>> benchmark = split_omniglot(4, seed=0)  # from the folder that MEMPLUGINS_DATA names
    >>> len(benchmark.train_stream)
    4
    """
    root = find_root(data_root) or Path(default_dataset_location("omniglot"))
    transform = Compose([ToTensor(), Normalize((OMNIGLOT_MEAN,), (OMNIGLOT_STD,))])
    settings: dict[str, Any] = {"train_transform": transform, "eval_transform": transform, **options}
    return nc_benchmark(
        _Drawings(root, range(1, TRAIN_DRAWERS + 1)),
        _Drawings(root, range(TRAIN_DRAWERS + 1, 21)),
        n_experiences=n_experiences,
        task_labels=settings.pop("return_task_id", False),
        **settings,
    )


class _Drawings(Omniglot):  # type: ignore[misc]
    """The background set, drawings of some drawers only."""

    _flat_character_images: list[tuple[str, int]]  # file name, label

    def __init__(self, root: Path, drawers: range) -> None:
        # Avalanche's dataset nests the folder's name, so what it had downloaded lies one level deeper.
        nested = root / self.folder
        super().__init__(nested if (nested / self.folder).is_dir() else root, background=True, download=True)
        # A file is named 0001_17.png: number of the character, number of the drawer.
        kept = [row for row in self._flat_character_images if int(row[0][-6:-4]) in drawers]
        self._flat_character_images = kept
        self.targets = [label for _, label in kept]

    def _check_integrity(self) -> bool:
        # torchvision looks at the zip's checksum only; pictures unpacked by other means count too.
        return any(Path(self.root, self._get_target_folder()).glob("*/*/*.png")) or super()._check_integrity()
