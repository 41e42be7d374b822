"""MbPA: the model forgets, but adapts to each query's nearest remembered rows before it answers.

python examples/mbpa.py
"""

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

from avalanche_memplugins import MemoryReplayPlugin
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.memories import EpisodicMemory
from avalanche_memplugins.plugins import LocalAdaptationPlugin

benchmark = SplitDigits(n_experiences=5, seed=0)


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


print(f"naive         {accuracy([]):5.1f} %")
memory = EpisodicMemory(200)
print(f"MbPA          {accuracy([LocalAdaptationPlugin(memory, writes=True)]):5.1f} %")
memory = EpisodicMemory(200)
print(f"replay        {accuracy([MemoryReplayPlugin(memory)]):5.1f} %")
memory = EpisodicMemory(200)  # one memory for both; replay writes it
print(f"replay + MbPA {accuracy([MemoryReplayPlugin(memory), LocalAdaptationPlugin(memory)]):5.1f} %")

query, label = next(iter(benchmark.test_stream[0].dataset))[:2]
found = memory.nearest(query[None], k=5)
print(f"a {int(label)}: the classes of its five nearest rows are {found.rows.y.tolist()}")
