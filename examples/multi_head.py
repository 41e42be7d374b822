"""Task-incremental: one head a task, and every replayed row goes through the head of its own task.

python examples/multi_head.py

The memory keeps the task label of each row, and shares its rows and its replay equally among the tasks.
"""

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP, as_multitask
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
from avalanche_memplugins.benchmarks import SplitDigits

benchmark = SplitDigits(n_experiences=5, return_task_id=True, seed=0)


def accuracy(plugins: list) -> float:
    """Mean accuracy over the five tasks after the last."""
    torch.manual_seed(0)
    model = as_multitask(SimpleMLP(input_size=64, num_classes=10, drop_rate=0), "classifier")
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


memory = RandomMemory(100, write_policy="task_balanced", read_policy="task_balanced")
print(f"naive, multi-head          {accuracy([]):5.1f} %")
print(f"with a task-balanced memory {accuracy([MemoryReplayPlugin(memory)]):4.1f} %")
print(memory.summary())
