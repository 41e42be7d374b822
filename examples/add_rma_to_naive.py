"""Random memory adaptation in one line: Naive forgets, Naive with a memory does not.

python examples/add_rma_to_naive.py
"""

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

from avalanche_memplugins import RandomMemoryPlugin
from avalanche_memplugins.benchmarks import SplitDigits

benchmark = SplitDigits(n_experiences=5, seed=0)  # real digits of 8 x 8 pixels, nothing to download


def accuracy(plugins: list) -> float:
    """Train on the five experiences one after the other, then test on all ten digits."""
    torch.manual_seed(0)
    model = SimpleMLP(input_size=64, num_classes=10, drop_rate=0)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        train_mb_size=10,
        train_epochs=5,
        eval_mb_size=500,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    (value,) = strategy.eval(benchmark.test_stream).values()
    return 100 * value


memory_plugin = RandomMemoryPlugin(mem_size=500, write_every=4)  # this is the line
print(f"naive                     {accuracy([]):5.1f} %")
print(f"naive + RandomMemoryPlugin {accuracy([memory_plugin]):4.1f} %")
print(memory_plugin.memory.summary())
