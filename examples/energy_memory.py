"""Energy-based memory: write digits, restore them from a block erased, tell what has been seen, rehearse.

Digits come with scikit-learn, enlarged to 28 x 28; the energy networks come with the library and were trained on other
characters (Omniglot).
"""

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training import Naive
from torch import nn
from torch.nn.functional import interpolate, pad
from torch.utils.data import TensorDataset

from avalanche_memplugins.benchmarks import digits
from avalanche_memplugins.functional.ranking import auroc
from avalanche_memplugins.memories import EnergyMemory
from avalanche_memplugins.plugins import EnergyReplayPlugin

torch.set_num_threads(1)
torch.manual_seed(0)
data = digits()
# As the networks know characters: thin strokes within a margin.
x, test_x = (
    pad(interpolate(images, size=(20, 20), mode="bicubic", align_corners=False), (4, 4, 4, 4)).clamp(0, 1).square()
    for images in (data.x_train, data.x_test)
)

# Restore: 64 digits in four slots, a block of 14 x 14 erased.
memory = EnergyMemory.from_pretrained("omniglot-28", slots=4)
memory.write(x[:64], data.y_train[:64])
damaged = x[:64].clone()
damaged[:, :, 7:21, 7:21] = 0
restored = memory.read(damaged)
for name, image in (("damaged", damaged), ("restored", restored)):
    print(f"squared error of an image, {name}: {(image - x[:64]).square().flatten(1).sum(1).mean():.1f}")

# What has been seen: these very images against other images of the same digits; where they lie, the energy is flat.
scores = torch.cat([memory.novelty(x[:64]), memory.novelty(test_x[:64])])
print(f"written images told from others: AUROC {auroc(scores, torch.arange(128) >= 64):.2f}")

# Rehearse: five experiences of two digits.
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
memory = EnergyMemory.from_pretrained("rehearsal-28", slots=10, cue=7, precision="int8")
experiences = []
for first in range(0, 10, 2):
    rows = ((data.y_train == first) | (data.y_train == first + 1)).nonzero()[:, 0]
    dataset = TensorDataset(x[rows], data.y_train[rows])
    dataset.targets = data.y_train[rows].tolist()
    experiences.append(as_classification_dataset(dataset))
benchmark = benchmark_from_datasets(train=experiences)
strategy = Naive(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    train_mb_size=16,
    train_epochs=4,
    evaluator=None,
    plugins=[EnergyReplayPlugin(memory, replay_weight="growing")],
)
for experience in benchmark.train_stream:
    strategy.train(experience, num_workers=0)
print(memory.summary())
with torch.no_grad():
    right = model.eval()(test_x).argmax(1) == data.y_test
print(f"accuracy over all digits: {100 * right.float().mean():.1f} %")
