"""Regression on a stream that drifts: y is a number, and rows are replayed as any others.

python examples/regression.py
"""

import torch
from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training import Naive
from sklearn.datasets import load_diabetes
from torch.utils.data import TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory

data = load_diabetes()  # ten measurements of 442 patients, and how far their disease had gone a year later
x = torch.tensor(data.data, dtype=torch.float32)
y = torch.tensor(data.target, dtype=torch.float32)[:, None]
x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
test = torch.arange(len(x)) % 5 == 0
by_age = x[:, 0].argsort()  # the stream brings young patients first


def stream(parts: int) -> CLStream:
    """One experience for each age group."""
    experiences = []
    for number, rows in enumerate(by_age[~test[by_age]].chunk(parts)):
        experience = CLExperience(number, None)
        experience.dataset = AvalancheDataset([TensorDataset(x[rows], y[rows])])
        experiences.append(experience)
    found = CLStream("train", experiences, None)
    found.benchmark = CLScenario([found])
    return found


def explained(plugins: list) -> float:
    """Share of the variance that the model explains on patients of all ages, in per cent."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.02),
        criterion=torch.nn.MSELoss(),
        train_mb_size=8,
        train_epochs=10,
        plugins=plugins,
        evaluator=None,
    )
    for experience in stream(5):
        strategy.train(experience)
    with torch.no_grad():
        error = (model(x[test]) - y[test]).square().mean() / y[test].var()
    return 100 * (1 - error.item())


def by_level(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Low, middle and high targets, for a policy that balances classes where there are none."""
    return torch.bucketize(y[:, 0].contiguous(), torch.tensor([-0.5, 0.5]))


memory = RandomMemory(100, write_policy="class_balanced", group=by_level, seed=0)
print(f"naive       {explained([]):6.1f} % of the variance")
print(f"with replay {explained([MemoryReplayPlugin(memory)]):6.1f} %")
print(memory.summary())
