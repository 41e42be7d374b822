"""LwF on class-incremental Split MNIST: the distillation of Avalanche 0.6, and that of its beginnings.

    python bench/lwf_losses.py --data DIR

Everything else as in continual-learning-baselines, ``experiments/split_mnist/lwf.py``: 784-256-10, SGD 0.001, batches
of 128, ten epochs, alpha 1, temperature 1; a loop in plain torch. With old classes :math:`O`:

.. math:: \\text{0.6: } \\mathrm{KL}(\\mathrm{softmax}(p_O) \\| \\mathrm{softmax}(o_O)) \\qquad
    \\text{earlier: } \\mathrm{KL}(\\mathrm{softmax}(p)_O \\| \\mathrm{softmax}(o)_O)

Earlier: Avalanche at commit 080e769, ``training/plugins/lwf.py``. About 12 CPU seconds a run.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from _common import DataOptions, launch, pairs_of_classes, rows_of
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """How many orders of the classes."""

    seeds: int = 3


def distillation(out: Tensor, teacher: Tensor, old: list[int], earlier: bool) -> Tensor:
    """KL divergence over the old classes, which are parted from the others before or after the softmax."""
    if earlier:
        log_p, q = out.log_softmax(1)[:, old], teacher.softmax(1)[:, old]
    else:
        log_p, q = out[:, old].log_softmax(1), teacher[:, old].softmax(1)
    return nn.functional.kl_div(log_p, q, reduction="batchmean")


def run(data: tuple[Tensor, Tensor, Tensor, Tensor], earlier: bool, seed: int) -> float:
    """Mean accuracy over the five pairs of classes at the end, %."""
    x, y, test_x, test_y = data
    pairs = pairs_of_classes(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    teacher: nn.Module | None = None
    old: list[int] = []
    for pair in pairs:
        (rows,) = rows_of(y, pair[None])
        for _ in range(10):
            for batch in rows[torch.randperm(len(rows))].split(128):
                out = model(x[batch])
                loss = nn.functional.cross_entropy(out, y[batch])
                if teacher is not None:
                    with torch.no_grad():
                        known = teacher(x[batch])
                    loss = loss + distillation(out, known, old, earlier)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        teacher, old = copy.deepcopy(model), old + pair.tolist()
    with torch.no_grad():
        right = (model(test_x).argmax(1) == test_y).float()
    return 100 * sum(right[torch.isin(test_y, pair)].mean().item() for pair in pairs) / len(pairs)


def main(options: Options) -> None:
    """Print an accuracy for each loss and seed."""
    x, y, test_x, test_y = options.images()
    data = (((x - 0.1307) / 0.3081).flatten(1), y, ((test_x - 0.1307) / 0.3081).flatten(1), test_y)
    for seed in range(options.least(options.seeds, 1)):
        for earlier in (False, True):
            print(f"{'earlier' if earlier else '0.6'}, seed {seed}: {run(data, earlier, seed):.1f} %", flush=True)


if __name__ == "__main__":
    launch(main, Options, __doc__)
