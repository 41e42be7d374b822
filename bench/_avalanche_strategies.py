"""Tests of the kind that Avalanche's test_strategies.py has, of strategies and plugins that it leaves out.

Run by bench/avalanche_tests.py. What a strategy learns is not looked at: it must run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, split_online_stream
from avalanche.benchmarks.utils import AvalancheDataset, make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.detection_dataset import make_detection_dataset
from avalanche.models import IncrementalClassifier, SCRModel, SimpleMLP
from avalanche.models.generator import Generator
from avalanche.training.plugins import (
    EWCPlugin,
    FromScratchTrainingPlugin,
    GenerativeReplayPlugin,
    LwFPlugin,
    RARPlugin,
)
from avalanche.training.supervised import AR1, SCR, GSS_greedy, LearningToPrompt, Naive, VAETraining, ar1
from avalanche.training.supervised.lamaml_v2 import LaMAML
from avalanche.training.supervised.naive_object_detection import ObjectDetectionTemplate
from avalanche.training.supervised.strategy_wrappers import GenerativeReplay
from avalanche.training.templates import SupervisedTemplate
from tests.unit_tests_utils import get_fast_benchmark
from torch import nn
from torch.optim import SGD

USUAL = {"train_mb_size": 16, "train_epochs": 2, "eval_mb_size": 50, "evaluator": None}


def run(strategy: Any, benchmark: Any) -> None:
    """Train on three experiences, evaluate after each."""
    for experience in list(benchmark.train_stream)[:3]:
        strategy.train(experience, num_workers=0)
        strategy.eval(benchmark.test_stream)


def parts() -> dict[str, Any]:
    """A model and its optimizer."""
    model = SimpleMLP(input_size=6, hidden_size=10)
    return {"model": model, "optimizer": SGD(model.parameters(), lr=0.01)}


class ForwardByHand(SupervisedTemplate):
    """As AR1 does: the model is called directly, and so is the criterion; no forward(), no criterion()."""

    def training_epoch(self, **kwargs: Any) -> None:
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self.optimizer.zero_grad()
            self._before_forward(**kwargs)
            self.mb_output = self.model(self.mb_x)
            self._after_forward(**kwargs)
            self.loss = self._criterion(self.mb_output, self.mb_y)
            self._before_backward(**kwargs)
            self.loss.backward()
            self._after_backward(**kwargs)
            self._before_update(**kwargs)
            self.optimizer.step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


class OwnCriterion(SupervisedTemplate):
    """A loss of its own, reduced by itself: Brier's."""

    def criterion(self) -> torch.Tensor:
        targets = nn.functional.one_hot(self.mb_y, self.mb_output.shape[1])
        return (self.mb_output.softmax(1) - targets).square().sum(1).mean()


class CountingCriterion(nn.Module):
    """Counts its calls in training."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        self.calls += output.requires_grad
        return nn.functional.cross_entropy(output, target)


class TinyGenerator(Generator, nn.Module):
    """A generator of rows of six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 2), nn.Linear(2, 6)

    def get_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)

    def generate(self, batch_size: int | None = None, condition: Any = None) -> torch.Tensor:
        with torch.no_grad():
            return self.decoder(torch.randn(batch_size or 1, 2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = self.encoder(x)
        return self.decoder(code), code


class TinyLatent(nn.Module):
    """In the place of AR1's MobileNet."""

    def __init__(self, pretrained: bool, latent_layer_num: int) -> None:
        super().__init__()
        self.lat_features = nn.Sequential(nn.Linear(6, 10), nn.ReLU())
        self.end_features = nn.Sequential(nn.Linear(10, 10), nn.ReLU())
        self.output = nn.Linear(10, 10, bias=False)

    def forward(self, x: torch.Tensor, latent_input: Any = None, return_lat_acts: bool = False) -> Any:
        own = self.lat_features(x)
        acts = own if latent_input is None else torch.cat((own, latent_input), 0)
        logits = self.output(self.end_features(acts))
        return (logits, own) if return_lat_acts else logits


class TinyDetector(nn.Module):
    """Losses in training, boxes in evaluation, as torchvision's detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> Any:
        boxes = [self.layer(image.mean((1, 2))) for image in images]
        if self.training:
            return {"loss": sum(box.square().mean() for box in boxes)}
        return [{"boxes": b[None], "labels": torch.ones(1).long(), "scores": torch.ones(1)} for b in boxes]


def test_scr() -> None:
    features = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10))
    model = SCRModel(features, nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 5)))
    strategy = SCR(model=model, optimizer=SGD(model.parameters(), lr=0.01), batch_size_mem=8, **USUAL)
    run(strategy, get_fast_benchmark())


def test_lamaml() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = SimpleMLP(input_size=6, hidden_size=10)

        def forward(self, x: torch.Tensor, t: Any = None) -> Any:
            return self.body(x)

    model = Single()
    strategy = LaMAML(model=model, optimizer=SGD(model.parameters(), lr=0.01), **USUAL)
    run(strategy, get_fast_benchmark())


def test_gss() -> None:
    criterion = nn.CrossEntropyLoss()
    strategy = GSS_greedy(**parts(), criterion=criterion, mem_strength=2, input_size=[6], mem_size=200, **USUAL)
    run(strategy, get_fast_benchmark())


def test_generative_replay() -> None:
    generator = TinyGenerator()

    def loss(x: torch.Tensor, output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return nn.functional.mse_loss(output[0], x)

    inner = VAETraining(
        model=generator, optimizer=SGD(generator.parameters(), lr=0.01), criterion=loss,
        plugins=[GenerativeReplayPlugin()], train_mb_size=16, train_epochs=1, eval_mb_size=50, evaluator=None,
    )  # fmt: skip
    run(GenerativeReplay(**parts(), generator_strategy=inner, **USUAL), get_fast_benchmark())


def test_ar1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ar1, "MobilenetV1", TinyLatent)
    strategy = AR1(
        train_epochs=2, train_mb_size=16, eval_mb_size=50, rm_sz=20, freeze_below_layer="end_features.0", evaluator=None
    )
    run(strategy, get_fast_benchmark())


def test_l2p_with_its_mask() -> None:
    strategy = LearningToPrompt(
        model_name="simpleMLP", criterion=nn.CrossEntropyLoss(), num_classes=10, use_cls_features=False, use_mask=True,
        use_vit=False, **{**USUAL, "train_mb_size": 10},
    )  # fmt: skip
    run(strategy, get_fast_benchmark())
    assert all(p.isfinite().all() for p in strategy.model.parameters())


def test_detection() -> None:
    images = [torch.rand(3, 8, 8) for _ in range(20)]
    boxes = [
        {"boxes": torch.rand(1, 4), "labels": torch.ones(1).long(), "image_id": torch.tensor([i])} for i in range(20)
    ]
    data = make_detection_dataset(list(zip(images, boxes, strict=True)), targets=boxes, task_labels=0)
    benchmark = benchmark_from_datasets(train=[data, data], test=[data])
    model = TinyDetector()
    strategy = ObjectDetectionTemplate(
        model=model, optimizer=SGD(model.parameters(), lr=0.01), train_mb_size=5, evaluator=None
    )
    run(strategy, benchmark)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [RARPlugin(batch_size_mem=8, mem_size=40)],
        lambda: [FromScratchTrainingPlugin()],
        lambda: [LwFPlugin(), EWCPlugin(0.1)],
        lambda: [EWCPlugin(0.1, mode="online", decay_factor=0.1), LwFPlugin()],
    ],
    ids=["rar", "from_scratch", "lwf_ewc", "ewc_lwf"],
)
def test_plugins(make: Callable[[], list[Any]]) -> None:
    run(Naive(**parts(), plugins=make(), **USUAL), get_fast_benchmark())


@pytest.mark.parametrize("strategy", [ForwardByHand, OwnCriterion], ids=lambda one: one.__name__)
def test_own_loop(strategy: Any) -> None:
    run(strategy(**parts(), **USUAL), get_fast_benchmark())


def test_criterion_with_state() -> None:
    criterion = CountingCriterion()
    strategy = Naive(**parts(), criterion=criterion, **USUAL)
    run(strategy, get_fast_benchmark())
    # One call for all rows; where replayed rows have a weight or a loss of their own, one for the stream's and one for
    # the others. (That no row is asked about twice is tested in tests/plugins.)
    assert strategy.clock.train_iterations <= criterion.calls < 2 * strategy.clock.train_iterations


def test_growing_head() -> None:
    model = SimpleMLP(input_size=6, hidden_size=10)
    model.classifier = IncrementalClassifier(10)
    run(Naive(model=model, optimizer=SGD(model.parameters(), lr=0.01), **USUAL), get_fast_benchmark())


@pytest.mark.parametrize("boundaries", [False, True])
def test_online_stream(boundaries: bool) -> None:
    benchmark = get_fast_benchmark()
    stream = split_online_stream(benchmark.train_stream[:2], experience_size=20, access_task_boundaries=boundaries)
    strategy = Naive(**parts(), train_mb_size=10, eval_mb_size=50, evaluator=None)
    strategy.train(stream)
    strategy.eval(benchmark.test_stream)


def test_no_task_labels() -> None:
    def data() -> AvalancheDataset:
        x, y = torch.randn(60, 6), torch.arange(60) % 4
        held = torch.utils.data.TensorDataset(x, y)
        return make_avalanche_dataset(held, data_attributes=[DataAttribute(y.tolist(), "targets")])

    benchmark = benchmark_from_datasets(train=[data(), data(), data()], test=[data()])
    run(Naive(**parts(), **USUAL), benchmark)
