"""Several labels a row: each image shows two digits, and y says which of the ten are there.

python examples/multi_label.py
"""

import torch
from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training import Naive
from sklearn.datasets import load_digits
from torch.nn.functional import one_hot
from torch.utils.data import TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory

digits = load_digits()
images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)


def pairs(classes: list[int], count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two digits of these classes side by side, and the ten yes or no of each image."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.isin(labels, torch.tensor(classes)).nonzero().flatten()
    left, right = pool[torch.randint(len(pool), (2, count), generator=generator)]
    shown = one_hot(labels[left], 10) | one_hot(labels[right], 10)
    return torch.cat([images[left], images[right]], 2)[:, None], shown.float()


experiences = []
for number in range(5):
    experience = CLExperience(number, None)
    experience.dataset = AvalancheDataset([TensorDataset(*pairs([2 * number, 2 * number + 1], 400, number))])
    experiences.append(experience)
stream = CLStream("train", experiences, None)
stream.benchmark = CLScenario([stream])
x, y = pairs(list(range(10)), 500, 99)


def accuracy(plugins: list) -> float:
    """How many of the ten labels are right on images of all digits."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(128, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)
    )
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-3),
        criterion=torch.nn.BCEWithLogitsLoss(),
        train_mb_size=16,
        train_epochs=3,
        plugins=plugins,
        evaluator=None,
    )
    for experience in stream:
        strategy.train(experience)
    with torch.no_grad():
        return 100 * ((model(x) > 0) == y.bool()).float().mean().item()


memory = RandomMemory(300, codec={"x": "4bit", "y": "1bit"}, seed=0)
print(f"naive       {accuracy([]):5.1f} % of the labels")
print(f"with replay {accuracy([MemoryReplayPlugin(memory)]):5.1f} %")
print(memory)
