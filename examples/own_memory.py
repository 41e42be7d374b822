"""A memory of your own: it keeps the rows on which the model's loss was largest. See docs/own_memory.md.

python examples/own_memory.py
"""

from typing import Any

import torch
from torch import Tensor, nn

from avalanche_memplugins import Recall


class HardestMemory(nn.Module):
    """Keeps the rows on which the loss was largest when they came."""

    store_logits = True  # so that write() is given the model's outputs
    nbytes_fixed = 0

    def __init__(self, capacity: int, *, shape: tuple[int, ...] = (8,), seed: int = 0) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("x", torch.zeros(capacity, *shape))
        self.register_buffer("labels", torch.zeros(3, capacity, dtype=torch.int64))  # y, t, origin
        self.register_buffer("loss", torch.full((capacity,), -torch.inf))  # of an empty slot
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return int(self.loss.isfinite().sum())

    def __bool__(self) -> bool:
        return True

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    @torch.no_grad()
    def write(self, x: Tensor, y: Tensor, t: Any = 0, *, origin: Any = None, logits: Tensor) -> None:
        if x.dtype != self.x.dtype or x.shape[1:] != self.x.shape[1:] or not x.isfinite().all():
            raise ValueError(f"x: expected finite {self.x.dtype} rows of {tuple(self.x.shape[1:])}, got {x}")
        if y.shape != x.shape[:1] or y.min() < 0:
            raise ValueError(f"y: expected {len(x)} classes >= 0, got {y}")
        if torch.as_tensor(t).min() < 0:
            raise ValueError(f"t: expected task labels >= 0, got {t}")
        loss = nn.functional.cross_entropy(logits, y, reduction="none")
        k = min(len(x), self.capacity)
        # The hardest new row meets the easiest old one, and so on.
        hardest, easiest = loss.topk(k), self.loss.topk(k, largest=False)
        better = hardest.values > easiest.values
        rows, slots = hardest.indices[better], easiest.indices[better]
        self.x[slots], self.loss[slots] = x[rows], loss[rows]
        for column, value in zip(self.labels, (y, t, t if origin is None else origin), strict=True):
            column[slots] = value[rows] if isinstance(value, Tensor) else value

    @torch.no_grad()
    def sample(self, n: int) -> Recall:
        filled = self.loss.isfinite().nonzero().flatten()
        if not len(filled):
            raise ValueError("n: nothing has been written to this memory yet")
        slots = filled[torch.randperm(len(filled), generator=self._generator)[:n].to(filled.device)]
        return Recall(self.x[slots], *self.labels[:, slots])

    def get_extra_state(self) -> Tensor:
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self._generator.set_state(state.cpu())


def hardest(
    capacity: int | None, *, budget: int | None, shape: tuple[int, ...], seed: int, **more: Any
) -> HardestMemory:
    """What ``memplugins`` calls, given ``examples/own_memory.py:hardest``."""
    one, two = (HardestMemory(rows, shape=shape).nbytes for rows in (1, 2))
    return HardestMemory(capacity or (budget or 0) // (two - one), shape=shape, seed=seed)


if __name__ == "__main__":
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.models import SimpleMLP
    from avalanche.training import Naive
    from avalanche.training.plugins import EvaluationPlugin

    from avalanche_memplugins import MemoryReplayPlugin
    from avalanche_memplugins.benchmarks import SplitDigits
    from avalanche_memplugins.testing import check_memory

    print(str(check_memory(HardestMemory)).splitlines()[0])
    memory = HardestMemory(200, shape=(1, 8, 8))
    for name, plugins in (("nothing", []), ("the hardest rows", [MemoryReplayPlugin(memory, replay_size=32)])):
        torch.manual_seed(0)
        benchmark = SplitDigits(n_experiences=5, seed=0)
        model = SimpleMLP(input_size=64, num_classes=10, drop_rate=0)
        strategy = Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            train_mb_size=10,
            train_epochs=3,
            eval_mb_size=500,
            plugins=plugins,
            evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)
        (accuracy,) = strategy.eval(benchmark.test_stream).values()
        print(f"{name}: accuracy on all ten digits {100 * accuracy:.1f} %")
