"""An online stream: ten samples at a time, each seen once, and a reservoir beside it.

python examples/online_stream.py

Avalanche's own ReplayPlugin freezes on such a stream with its default buffer: it ends holding the first experiences
only. A reservoir is a uniform sample of all there was, and its cost stays the same however long the stream gets.
"""

import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training.plugins import EvaluationPlugin

from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.strategies import ExperienceReplay

torch.manual_seed(0)
benchmark = SplitDigits(n_experiences=5, seed=0)
model = SimpleMLP(input_size=64, num_classes=10, drop_rate=0)
strategy = ExperienceReplay(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
    mem_size=200,
    replay_size=30,
    train_mb_size=10,
    eval_mb_size=500,
    evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
)
pieces = split_online_stream(benchmark.train_stream, experience_size=10, access_task_boundaries=True, seed=0)
for piece in pieces:
    strategy.train(piece)
(accuracy,) = strategy.eval(benchmark.test_stream).values()
print(f"{strategy.clock.train_exp_counter} experiences, accuracy on all ten digits {100 * accuracy:.1f} %")
print(strategy.memory.summary())
