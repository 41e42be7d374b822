"""A folder of images, torchvision's ResNet18, and a memory of 50 kB. Draws its images, unless told a folder.

python examples/image_folder_resnet18.py [DIR]   # one folder a class, as torchvision's ImageFolder
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import Compose, Resize, ToTensor

from avalanche_memplugins import RandomMemory, Rehearsal

SIZE, EACH = 32, 20


def draw(folder: Path, classes: int = 4) -> Path:
    """Small images with a blob whose colour and place tell the class."""
    noise = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class-{label}").mkdir(parents=True)
        for k in range(EACH):
            pixels = noise.integers(0, 90, (SIZE, SIZE, 3))
            row, column = noise.integers(0, 4, 2) + np.array([4 + 12 * (label // 2), 4 + 12 * (label % 2)])
            pixels[row : row + 8, column : column + 8, label % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class-{label}" / f"{k:03}.png")
    return folder


def accuracy(data: ImageFolder, rehearsal: Rehearsal | None) -> float:
    """Train on two classes at a time, then test on all."""
    torch.manual_seed(0)
    labels = torch.tensor(data.targets)
    test = torch.arange(len(data)) % 5 == 0
    model = resnet18(num_classes=len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for experience in range(len(data.classes) // 2):
        mine = (~test & (labels // 2 == experience)).nonzero().flatten().tolist()
        loader = DataLoader(Subset(data, mine), batch_size=8, shuffle=True)
        if rehearsal is not None:
            rehearsal.experience = experience
        for _ in range(3):
            for x, y in loader if rehearsal is None else rehearsal.over(loader):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
    model.eval()
    rows = DataLoader(Subset(data, test.nonzero().flatten().tolist()), batch_size=64)
    with torch.no_grad():
        return 100 * torch.cat([model(x).argmax(1) == y for x, y in rows]).float().mean().item()


with tempfile.TemporaryDirectory() as drawn:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else draw(Path(drawn) / "images")
    images = ImageFolder(str(folder), Compose([Resize((SIZE, SIZE)), ToTensor()]))
    memory = RandomMemory.from_budget(
        "50kB", shape=(3, SIZE, SIZE), codec="4bit", write_policy="class_balanced", seed=0
    )
    print(f"alone          {accuracy(images, None):5.1f} %")
    print(f"with rehearsal {accuracy(images, Rehearsal(memory)):5.1f} %")
    print(memory)
