"""Latent replay at any layer: store and replay what a layer gives, not the images.

python examples/latent_replay.py

Only the layers above it learn from the memory. What is stored grows stale while the layers below go on learning, so
they are frozen after the first experience here. (Leave them free and see: the replayed rows are still told apart,
the test images, which pass through other layers than the stored rows did, are not.)
"""

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.metrics import memory_metrics

torch.manual_seed(0)
benchmark = SplitDigits(n_experiences=5, seed=0)
model = nn.Sequential()
model.add_module("body", nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()))
model.add_module("head", nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)))

memory = RandomMemory(300, write_policy="class_balanced")
strategy = Naive(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    train_mb_size=10,
    train_epochs=5,
    eval_mb_size=500,
    plugins=[MemoryReplayPlugin(memory, at="body")],
    evaluator=EvaluationPlugin(accuracy_metrics(stream=True), memory_metrics(epoch=True), loggers=[]),
)
for experience in benchmark.train_stream:
    strategy.train(experience)
    model.body.requires_grad_(False)
for name, value in strategy.eval(benchmark.test_stream).items():
    print(f"{name:60s} {value:10.3f}")
print(memory.summary())
