"""Batches that are dicts, rows that are dicts, and targets that are no classes, through the replay plugins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset, ConstantSequence, DataAttribute
from avalanche.evaluation.metrics import loss_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn

from avalanche_memplugins import DarkReplayPlugin, MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.metrics import ReplayAccuracy

N = 64


class Dicts(Naive):
    """Avalanche's own way with batches that are dicts (its tests, and its Hugging Face example)."""

    @property
    def mb_x(self) -> Any:
        return self.mbatch["x"]

    @property
    def mb_y(self) -> Any:
        return self.mbatch["y"]

    def mb_task_id(self) -> Any:
        return self.mbatch["targets_task_labels"]

    def _unpack_minibatch(self) -> None:
        for key in self.mbatch:
            self.mbatch[key] = self.mbatch[key].to(self.device)


class Lists(Naive):
    """Batches [x, y, t] whose columns may be dicts."""

    def _unpack_minibatch(self) -> None:
        self.mbatch = list(self.mbatch)


def collate(rows: list[Any]) -> Any:
    if isinstance(rows[0], dict):
        return {key: collate([row[key] for row in rows]) for key in rows[0]}
    if isinstance(rows[0], tuple | list):
        return [collate(column) for column in zip(*rows, strict=True)]
    return torch.stack([torch.as_tensor(row) for row in rows])


def stream(rows: list[list[Any]], collate_fn: Any = collate) -> Any:
    experiences = []
    for i, data in enumerate(rows):
        tasks = DataAttribute(ConstantSequence(0, len(data)), "targets_task_labels", use_in_getitem=True)
        experience = CLExperience(i, None)
        experience.dataset = AvalancheDataset([data], data_attributes=[tasks], collate_fn=collate_fn)
        experiences.append(experience)
    found = CLStream("train", experiences, None)
    found.benchmark = CLScenario([found])
    return found


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * N, 10, generator=generator)
    return x, (x @ torch.randn(10, 3, generator=generator)).argmax(1)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def train(kind: Any, rows: list[list[Any]], plugin: Any, model: nn.Module, criterion: Any = None, **kwargs: Any) -> Any:
    torch.manual_seed(2)
    strategy = kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=criterion or nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=2,
        plugins=[plugin],
        evaluator=EvaluationPlugin(loss_metrics(epoch=True), ReplayAccuracy("epoch"), loggers=[], strict_checks=False),
        **kwargs,
    )
    for experience in stream(rows):
        strategy.train(experience)
    return strategy


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


PLUGINS: dict[str, Any] = {
    "plain": lambda: MemoryReplayPlugin(RandomMemory(40, seed=0), seed=0),
    "balanced": lambda: MemoryReplayPlugin(RandomMemory(40, write_policy="class_balanced", seed=0), seed=0),
    "replace": lambda: MemoryReplayPlugin(RandomMemory(40, seed=0), batch_policy="replace", seed=0),
    "weight": lambda: MemoryReplayPlugin(RandomMemory(40, seed=0), replay_weight=0.3, seed=0),
    "at the end": lambda: MemoryReplayPlugin(RandomMemory(40, seed=0), write_at="experience", seed=0),
    "hardest": lambda: MemoryReplayPlugin(RandomMemory(40, write_policy="hardest", seed=0), seed=0),
    "hardest at the end": lambda: MemoryReplayPlugin(
        RandomMemory(40, write_policy="hardest", seed=0), write_at="experience", seed=0
    ),
    "logits": lambda: MemoryReplayPlugin(RandomMemory(40, store_logits=True, seed=0), labels="logits", seed=0),
    "der++": lambda: DarkReplayPlugin(RandomMemory(40, store_logits=True, seed=0), beta=0.5, seed=0),
}


@pytest.mark.parametrize("name", PLUGINS)
def test_dict_batches_train_as_list_batches_do_bit_for_bit(name: str) -> None:
    x, y = data()
    lists = [[(a, int(b)) for a, b in zip(x[part], y[part], strict=True)] for part in (slice(N), slice(N, None))]
    dicts = [[{"x": a, "y": b} for a, b in rows] for rows in lists]
    one, two = network(), network()
    by_list = train(Naive, lists, PLUGINS[name](), one)
    by_dict = train(Dicts, dicts, PLUGINS[name](), two)
    assert torch.equal(weights(one), weights(two))
    memory = by_dict.plugins[0].memory
    assert len(memory) == 40
    found = memory.rows(memory.slots())
    assert torch.equal(found.x["x"], by_list.plugins[0].memory.rows(memory.slots()).x)
    for key, value in by_list.evaluator.get_last_metrics().items():
        # A loss with a weight is worked out in one pass where criterion() is Avalanche's own, else in two.
        assert by_dict.evaluator.get_last_metrics()[key] == pytest.approx(value, rel=1e-6)


class Reads(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Linear(10, outputs)

    def forward(self, x: Any) -> Tensor:
        assert set(x) == {"left", "right"}
        return self.head(torch.cat([x["left"], x["right"]], 1))


@pytest.mark.parametrize(
    ("target", "criterion"),
    [
        ("regression", nn.MSELoss()),
        ("multi-label", nn.BCEWithLogitsLoss()),
        ("classes", nn.CrossEntropyLoss()),
    ],
)
def test_rows_that_are_dicts_in_list_batches_train_as_a_loop_by_hand(target: str, criterion: Any) -> None:
    """The same draws from a twin of the memory, and the loss of stream and replayed rows side by side."""
    x, classes = data()
    y = {"regression": x[:, :3] * 2, "multi-label": (x[:, :3] > 0).float(), "classes": classes}[target]
    rows = [[({"left": a[:4], "right": a[4:]}, b) for a, b in zip(x[:N], y[:N], strict=True)]]
    model, twin = Reads(), Reads()
    memory, other = RandomMemory(30, seed=5), RandomMemory(30, seed=5)
    seen: list[Any] = []

    class Look(Lists):
        def _unpack_minibatch(self) -> None:
            super()._unpack_minibatch()
            seen.append(self.mbatch)

    train(Look, rows, MemoryReplayPlugin(memory, replay_size=8, write_at="iteration"), model, criterion)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for i, (a, b, _) in enumerate(seen):
        drawn = other.sample(8) if len(other) else None
        if i < len(seen) // 2:
            other.write(a, b)
        if drawn is not None:
            a = {key: torch.cat([a[key], drawn.x[key]]) for key in a}
            b = torch.cat([b, drawn.y])
        optimizer.zero_grad()
        criterion(twin(a), b).backward()
        optimizer.step()
    assert torch.equal(weights(model), weights(twin))


def test_masks_and_dark_replay() -> None:
    """(B, H, W) masks with outputs (B, C, H, W): dark replay keeps and compares whole maps."""
    x = torch.rand(48, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    rows = [[(a, (a[0] > 0.5).long()) for a in x]]
    torch.manual_seed(0)
    model = nn.Conv2d(1, 2, 3, padding=1)
    memory = RandomMemory(20, store_logits=True, codec={"y": "1bit"}, seed=0)
    strategy = train(Naive, rows, DarkReplayPlugin(memory, alpha=0.5, beta=0.5), model)
    found = memory.sample(5)
    assert found.logits is not None
    assert found.logits.shape == (5, 2, 6, 6)
    assert torch.equal(found.y, (found.x[:, 0] > 0.5).long())
    assert strategy.plugins[0].memory.nbytes == 20 * (36 * 4 + 5 + 72 * 4 + 8)


def test_rows_of_different_lengths_join_in_one_batch() -> None:
    """Token batches, each as long as its longest row; the loss is that of a batch padded by hand."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.embed, self.head = nn.Embedding(20, 6, padding_idx=0), nn.Linear(6, 4)
            self.shapes: list[Any] = []

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            self.shapes.append(tuple(input_ids.shape))
            assert torch.equal(attention_mask.bool(), input_ids > 0)
            return self.head(self.embed(input_ids))

    class Tagging(Dicts):
        @property
        def mb_y(self) -> Any:
            return self.mbatch["labels"]

        def forward(self) -> Any:
            return self.model(input_ids=self.mbatch["input_ids"], attention_mask=self.mbatch["attention_mask"])

        def criterion(self) -> Any:
            assert torch.equal(self.mb_y == -100, self.mbatch["input_ids"] == 0)
            return self._criterion(self.mb_output.flatten(0, 1), self.mb_y.flatten())

    def pad(rows: list[Any]) -> dict[str, Tensor]:
        ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
        labels = nn.utils.rnn.pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=-100)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}

    generator = torch.Generator().manual_seed(0)
    lengths = [n if i % 8 else 2 * n for i, n in enumerate(torch.randint(1, 7, (64,), generator=generator).tolist())]
    rows = [{"input_ids": torch.randint(1, 20, (n,), generator=generator)} for n in lengths]
    rows = [{**row, "labels": row["input_ids"] % 4} for row in rows]
    memory = RandomMemory(
        30, pad={"input_ids": 0, "attention_mask": 0, "y": -100}, codec={"input_ids": "uint8", "y": "int8"}, seed=0
    )
    model = Tagger()
    torch.manual_seed(2)
    strategy = Tagging(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        train_epochs=3,
        plugins=[MemoryReplayPlugin(memory, write_at="iteration")],
        evaluator=None,
    )
    for experience in stream([rows], pad):
        strategy.train(experience)
    assert {rows for rows, _ in model.shapes} == {4, 8}
    assert len({length for _, length in model.shapes}) > 2
    found = memory.sample(30)
    real = found.y != -100
    predicted = model(found.x["input_ids"], found.x["attention_mask"]).argmax(-1)
    assert float((predicted == found.y)[real].float().mean()) > 0.9


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (lambda: MemoryReplayPlugin(RandomMemory(9), labels="old_model"), "labels|targets"),
        (lambda: MemoryReplayPlugin(RandomMemory(9), at="0"), "at: '0' expected batches"),
        (lambda: MemoryReplayPlugin(RandomMemory(9, write_policy="herding")), "x: expected one tensor"),
        (
            lambda: MemoryReplayPlugin(RandomMemory(9, pad={"ids": 0}), write_at="iteration"),
            "pad: expected names among 'x.x'",
        ),
    ],
)
def test_what_means_nothing_for_dicts_is_refused_before_a_weight_changes(plugin: Any, message: str) -> None:
    x, y = data()
    model = network()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        train(Dicts, [[{"x": a, "y": int(b)} for a, b in zip(x, y, strict=True)]], plugin(), model)
    assert torch.equal(weights(model), before)


def test_a_batch_without_targets_or_with_text_is_refused_by_name() -> None:
    class NoTargets(Dicts):
        @property
        def mb_y(self) -> Any:
            return self.mbatch["b"] % 3

    x, y = data()
    rows = [{"x": a, "b": int(b)} for a, b in zip(x, y, strict=True)]
    with pytest.raises(ValueError, match=r"mbatch: expected a dict with the targets .* got the keys \['x', 'b'"):
        train(NoTargets, [rows], MemoryReplayPlugin(RandomMemory(9)), network())
