"""Batches that are dicts, as in Avalanche's Hugging Face example: the plugin takes them as they are.

python examples/dict_batches.py
"""

import torch
from avalanche.benchmarks import CLExperience, CLScenario, CLStream
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training import Naive
from sklearn.datasets import load_digits
from torch import nn

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory

digits = load_digits()
images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
test = torch.arange(len(labels)) % 5 == 0


def rows(mask: torch.Tensor) -> list[dict]:
    """Each image, and beside it whether it was scanned upside down."""
    turned = torch.arange(len(labels)) % 2 == 1
    pixels = torch.where(turned[:, None, None, None], images.flip(2, 3), images)
    return [{"pixel_values": pixels[i], "turned": turned[i], "labels": labels[i]} for i in mask.nonzero().flatten()]


def collate(batch: list[dict]) -> dict:
    return {key: torch.stack([row[key] for row in batch]) for key in batch[0]}


class DictNaive(Naive):
    """What Avalanche's own example changes for batches that are dicts."""

    @property
    def mb_x(self) -> torch.Tensor:
        return self.mbatch["pixel_values"]

    @property
    def mb_y(self) -> torch.Tensor:
        return self.mbatch["labels"]

    def _unpack_minibatch(self) -> None:
        for key in self.mbatch:
            self.mbatch[key] = self.mbatch[key].to(self.device)

    def forward(self) -> torch.Tensor:
        return self.model(pixel_values=self.mb_x, turned=self.mbatch["turned"])


class Classifier(nn.Module):
    """Turns images the right way up first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, pixel_values: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        upright = torch.where(turned[:, None, None, None], pixel_values.flip(2, 3), pixel_values)
        return self.layers(upright)


experiences = []
for number in range(5):
    experience = CLExperience(number, None)
    experience.dataset = AvalancheDataset([rows(~test & (labels // 2 == number))], collate_fn=collate)
    experiences.append(experience)
stream = CLStream("train", experiences, None)
stream.benchmark = CLScenario([stream])


def accuracy(plugins: list) -> float:
    """Train on two digits at a time, then test on all ten."""
    torch.manual_seed(0)
    model = Classifier()
    strategy = DictNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        train_mb_size=10,
        train_epochs=3,
        plugins=plugins,
        evaluator=None,
    )
    for experience in stream:
        strategy.train(experience)
    batch = collate(rows(test))
    with torch.no_grad():
        return 100 * (model(batch["pixel_values"], batch["turned"]).argmax(1) == batch["labels"]).float().mean().item()


memory = RandomMemory(300, codec={"pixel_values": "4bit", "turned": "1bit"}, seed=0)
print(f"naive       {accuracy([]):5.1f} %")
print(f"with replay {accuracy([MemoryReplayPlugin(memory)]):5.1f} %")
print(memory)
