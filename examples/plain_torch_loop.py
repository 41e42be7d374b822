"""A memory in a training loop of one's own: no Avalanche, one line a batch.

python examples/plain_torch_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from avalanche_memplugins import RandomMemory, Rehearsal

digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
test = torch.arange(len(x)) % 5 == 0


def accuracy(rehearsal: Rehearsal | None) -> float:
    """Train on two digits at a time, then test on all ten."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for experience in range(5):
        mine = (~test & (y // 2 == experience)).nonzero().flatten()
        if rehearsal is not None:
            rehearsal.experience = experience
        for _ in range(5):
            for rows in mine[torch.randperm(len(mine))].split(10):
                batch = x[rows], y[rows]
                if rehearsal is not None:
                    batch = rehearsal.mix(batch)  # this is the line
                optimizer.zero_grad()
                cross_entropy(model(batch[0]), batch[1]).backward()
                optimizer.step()
    with torch.no_grad():
        return 100 * (model(x[test]).argmax(1) == y[test]).float().mean().item()


memory = RandomMemory(500, write_policy="class_balanced", codec="4bit", seed=0)
print(f"alone          {accuracy(None):5.1f} %")
print(f"with rehearsal {accuracy(Rehearsal(memory)):5.1f} %")
print(memory)
