"""Does the memory know what it has seen? Energy as a novelty score on class-incremental Split MNIST.

    OMP_NUM_THREADS=1 python bench/energy_novelty.py --data DIR

After each of the first four experiences (two classes each, in an order drawn for each seed) every score tells test
images of classes seen from test images of classes to come; the area under the ROC curve is averaged over the four. And,
after the first: images that were written from other images of the same classes. Scores: slope and energy of an
EnergyMemory with the network omniglot-28; how far its reads move the image; distance to the nearest stored image
(14 x 14 at 4 bits) in the same bytes; max-softmax of a classifier; bound of a VAE trained with replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from _common import DataOptions, launch, pairs_of_classes
from _record import interval, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from avalanche_memplugins.codecs import Bits, Downsampled
from avalanche_memplugins.functional.ranking import auroc
from avalanche_memplugins.memories import EnergyMemory, RandomMemory, VAEMemory
from avalanche_memplugins.networks import ConditionalVAE
from avalanche_memplugins.pretrained import load_energy

COMMAND = "OMP_NUM_THREADS=1 python bench/energy_novelty.py --data DIR"
TESTED = 100  # test images of each class


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to measure."""

    seeds: int = 3
    slots: int = 16
    """Slots of the energy memory, 16 images each."""
    vae_steps: int = 400


def classifier(x: Tensor, y: Tensor) -> nn.Module:
    """An MLP, one pass over the rows."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for rows in torch.randperm(len(x)).split(128):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def nearest(x: Tensor, stored: Tensor) -> Tensor:
    """Distance to the nearest stored image."""
    return torch.cdist(x.flatten(1), stored.flatten(1)).amin(1)


def one_seed(options: Options, seed: int) -> dict[str, tuple[float, float]]:
    """Area for unseen classes, mean over four stages; area for unseen images of seen classes, after the first."""
    torch.manual_seed(seed)
    x, y, test_x, test_y = options.images()
    classes = pairs_of_classes(seed)
    rows = torch.cat([(test_y == label).nonzero()[:TESTED, 0] for label in range(10)])
    tx, ty = test_x[rows], test_y[rows]
    found = load_energy("omniglot-28")
    memory = EnergyMemory(found.network, slots=options.slots, slot_size=found.patterns, seed=seed)
    control = RandomMemory.from_budget(
        memory.slot_bytes((1, 28, 28)) * options.slots, shape=(1, 28, 28), codec=Downsampled(14, Bits(4)),
        labels="uint8", store_tasks=False, seed=seed,
    )  # fmt: skip
    vae = VAEMemory(ConditionalVAE((1, 28, 28), hidden=(400, 400), code_size=32), steps=options.vae_steps, seed=seed)
    areas: dict[str, list[float]] = {}
    exact: dict[str, float] = {}
    for stage in range(4):
        here = torch.isin(y, classes[stage]).nonzero()[:, 0]
        batches = [(x[part], y[part], torch.zeros(len(part), dtype=torch.long)) for part in here.split(500)]
        drawn = here[torch.randperm(len(here), generator=torch.Generator().manual_seed(seed))]
        written = drawn[: options.slots // 4 * found.patterns]  # a quarter of the slots for each of four experiences
        memory.write(x[written], y[written], 0, origin=stage)
        more = drawn[: control.capacity // 4]  # the same and as many more as fit
        control.write(x[more], y[more], 0, origin=stage)
        vae.consolidate(batches, origin=stage)
        seen = torch.isin(y, classes[: stage + 1]).nonzero()[:, 0]
        model = classifier(x[seen], y[seen])
        kept = control.rows(torch.arange(len(control))).x
        scores: dict[str, Callable[[Tensor], Tensor]] = {
            "slope of the energy": memory.novelty,
            "energy": lambda z: memory.novelty(z, score="energy"),
            "move of the read": lambda z: (memory.read(z) - z).square().flatten(1).sum(1),
            "energy before any write": lambda z: memory._reads.unwritten(z.flatten(1)),
            "nearest stored image, 4 bits": lambda z, kept=kept: nearest(z, kept),
            "max-softmax, trained on all rows so far": lambda z, model=model: -model(z).softmax(1).amax(1),
            "bound of a VAE": lambda z: vae.network.bound(z, generator=torch.Generator().manual_seed(0)).total,
        }
        unseen = ~torch.isin(ty, classes[: stage + 1])
        with torch.no_grad():
            for name, score in scores.items():
                areas.setdefault(name, []).append(auroc(score(tx), unseen))
            if stage == 0:
                fresh = tx[~unseen]
                both = torch.cat([x[written], fresh])
                new = torch.arange(len(both)) >= len(written)
                exact = {name: auroc(score(both), new) for name, score in scores.items()}
    return {name: (sum(values) / 4, exact[name]) for name, values in areas.items()}


def main(options: Options) -> None:
    """Measure and record."""
    if options.quick:
        options = replace(options, seeds=1, vae_steps=5)
    runs = [one_seed(options, seed) for seed in range(options.seeds)]
    rows: list[list[object]] = []
    for name in runs[0]:
        rows.append([name, *(interval([100 * run[name][i] for run in runs]) for i in range(2))])
    text = table(["score", "classes to come", "other images of the same classes"], rows)
    options.write("Energy memory: novelty on Split MNIST", f"{REMARK}\n\n{text}", COMMAND)


REMARK = """Area under the ROC curve in per cent, mean ± 95 % interval over seeds; 50 is chance. `classes to come`: 100
test images of each class, of classes seen against the others, mean over the first four of five experiences. `other
images of the same classes`: images that are written against test images of the same classes, after the first
experience. The energy memory holds 64 images an experience in 16 slots of 16, float16; in the same bytes the stored
images are these and some 770 more an experience; classifier and VAE saw all rows. That the
slope is the score was chosen on training images."""

if __name__ == "__main__":
    launch(main, Options, __doc__)
