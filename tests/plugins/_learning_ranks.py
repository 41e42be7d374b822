"""What a rank does in the test of memories that learn; started as a script, which forks the ranks, or alone."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

import torch
from _ranks import Doubled, accuracy
from avalanche.distributed import DistributedHelper
from avalanche.models import IncrementalClassifier
from avalanche.training import Naive
from torch import Tensor, nn

from avalanche_memplugins import MemoryReplayPlugin
from avalanche_memplugins.benchmarks import SplitDigits
from avalanche_memplugins.checkpointing import load_run_state, save_run_state
from avalanche_memplugins.codecs import StreamCodec
from avalanche_memplugins.memories import (
    DynamicKanervaMemory,
    EnergyMemory,
    GaussianMemory,
    LatentMemory,
    Recall,
    VAEMemory,
)
from avalanche_memplugins.networks import MLPVAE, ConditionalVAE
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.plugins import EnergyReplayPlugin, GradientAveragingPlugin
from avalanche_memplugins.strategies import VAEReplay

Batches = Iterable[tuple[Tensor, Tensor, Tensor | int]]
# One of each kind trains for long enough to tell accuracies; the others for what ranks have in common.
BATCH = 60  # of which no experience leaves a single row, which batch norm would refuse


class NotedVAE(VAEMemory):
    """Remembers which rows it was to learn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given: list[list[float]] = []

    def consolidate(self, batches: Batches, *, origin: int) -> None:
        """As it does, after a look."""
        for x, _, _ in batches:
            self.given += x.flatten(1).tolist()
        super().consolidate(batches, origin=origin)


def vae(rank: int, ranks: int, labels: Any) -> dict[str, Any]:
    """Generative replay with growing weights, and a model whose running means differ from rank to rank."""
    torch.manual_seed(0)
    network = ConditionalVAE((1, 8, 8), code_size=16, hidden=(64,), classes=10 if labels == "memory" else None)
    learns = labels == "memory"
    memory = NotedVAE(network, steps=80 if learns else 10, batch_size=64 // ranks, lr=3e-3, seed=rank)
    plugin = MemoryReplayPlugin(memory, replay_weight="growing", labels=labels)
    return {**trained(rank, ranks, plugin, normed=True, epochs=2 if learns else 1), "given": memory.given}


def strategy(rank: int, ranks: int) -> dict[str, Any]:
    """Generative replay in one line."""
    model = network_of(rank, normed=True)
    one_line = VAEReplay(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 3e-3),
        shape=(1, 8, 8),
        network=ConditionalVAE((1, 8, 8), code_size=8, hidden=(16,)),
        labels="soft",
        steps=5,
        train_mb_size=BATCH // ranks,
        seed=rank,
        plugins=[GradientAveragingPlugin()],
        evaluator=None,
    )
    one_line.train(SplitDigits(n_experiences=5, seed=0).train_stream)
    return {"model": state(model), "per_class": counts(one_line.memory)}


def gaussians(rank: int, ranks: int, write_at: Any) -> dict[str, Any]:
    """A Gaussian a class, with the class that the old model sees."""
    memory = GaussianMemory(rank=None, seed=rank)
    plugin = MemoryReplayPlugin(memory, write_at=write_at, replay_weight="growing", labels="old_model")
    epochs = 4 if write_at == "experience" else 1
    return {**trained(rank, ranks, plugin, epochs=epochs), "classes": memory.classes, "mean": memory.mean.tolist()}


def kanerva(rank: int, ranks: int, share: Any) -> dict[str, Any]:
    """Distributed memories; written as the model sees the rows, and when the experience has ended."""
    memory = DynamicKanervaMemory(rows=16 if share == "class" else 48, share=share, seed=rank)
    if share == "class":
        return trained(rank, ranks, MemoryReplayPlugin(memory, write_at="iteration"))
    return trained(rank, ranks, MemoryReplayPlugin(memory, write_at="experience"), epochs=4)


def energy(rank: int, ranks: int) -> dict[str, Any]:
    """Slots with room for all rows of the shard."""
    torch.manual_seed(0)
    network = GatedEnergy((1, 8, 8), writable=4, width=16, write_steps=1, read_steps=1)
    memory = EnergyMemory(network, slots=250 // ranks, slot_size=8, cue=4, seed=rank)
    return trained(rank, ranks, EnergyReplayPlugin(memory))


def latent(rank: int, ranks: int) -> dict[str, Any]:
    """Codes of an auto-encoder that each rank trains on its shard, with room for all of it."""
    torch.manual_seed(0)
    codec = StreamCodec(MLPVAE(8, hidden=32, size=8), steps=5)
    return trained(rank, ranks, MemoryReplayPlugin(LatentMemory(1_438, codec=codec, seed=rank)))


def resumed(rank: int, ranks: int, folder: Path) -> dict[str, Any]:
    """A run that goes on from where it was saved, by each rank for itself."""
    stream = SplitDigits(n_experiences=5, seed=0).train_stream
    for first in (0, 2):
        memory = VAEMemory(ConditionalVAE((1, 8, 8), code_size=8, hidden=(16,)), steps=5, seed=rank)
        plugin = MemoryReplayPlugin(memory, replay_weight="growing", labels="soft")
        run = naive(network_of(rank, normed=True), ranks, [plugin, GradientAveragingPlugin()])
        if first:
            load_run_state(run, folder / f"rank-{rank}")
        for experience in stream[first:]:
            if experience.current_experience == 2 and not first:
                save_run_state(run, folder / f"rank-{rank}")
            run.train(experience)
        if not first:
            whole = state(run.model)
    return {"model": state(run.model), "whole": whole, "per_class": counts(memory)}


class Bank:
    """Gives the same rows whenever it is asked: a rank its share of those that a single process gets."""

    def __init__(self, rank: int, ranks: int) -> None:
        rows = list(SplitDigits(n_experiences=5, seed=0).test_stream[4].dataset)
        rows += list(SplitDigits(n_experiences=5, seed=0).test_stream[3].dataset)
        self.x = torch.stack([row[0] for row in rows]).repeat(4, 1, 1, 1)[rank::ranks]
        self.full = False

    def __len__(self) -> int:
        return len(self.x) if self.full else 0

    def to(self, device: torch.device) -> Bank:
        """Nothing."""
        return self

    def consolidate(self, batches: Batches, *, origin: int) -> None:
        """From now on there are rows."""
        self.full = True

    def sample(self, n: int) -> Recall:
        """The first ``n`` rows, all of class 0."""
        zeros = torch.zeros(n, dtype=torch.int64)
        return Recall(self.x[:n], zeros, zeros, zeros)


def full_batches(rank: int, ranks: int, labels: Any) -> dict[str, Any]:
    """A step of gradient descent on each experience and on rows of the bank, in shares of equal size."""
    stream = SplitDigits(n_experiences=5, seed=0).train_stream[:3]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    plugin = MemoryReplayPlugin(cast(Any, Bank(rank, ranks)), replay_weight="growing", labels=labels)
    run = Naive(
        model=Doubled(model),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=10_000,
        plugins=[plugin, GradientAveragingPlugin()],
        evaluator=None,
    )
    for experience in stream:
        rows = len(experience.dataset)
        experience.dataset = experience.dataset.subset(range(rows - rows % 2))  # a single process leaves none out
        run.train(experience)
    return {"model": state(model)}


def too_few(rank: int, ranks: int) -> str:
    """An experience of one row."""
    experience = SplitDigits(n_experiences=5, seed=0).train_stream[0]
    experience.dataset = experience.dataset.subset(range(1))
    try:
        naive(network_of(rank), ranks, [GradientAveragingPlugin()]).train(experience)
    except ValueError as problem:
        return str(problem)
    return ""


def trained(
    rank: int, ranks: int, plugin: MemoryReplayPlugin, *, normed: bool = False, epochs: int = 1
) -> dict[str, Any]:
    """What a stream with this replay leaves."""
    benchmark = SplitDigits(n_experiences=5, seed=0)
    model = network_of(rank, normed=normed)
    naive(model, ranks, [plugin, GradientAveragingPlugin()], epochs=epochs).train(benchmark.train_stream)
    teacher = None if plugin.targets.teacher is None else plugin.targets.teacher.model
    return {
        "model": state(model),
        "teacher": teacher and state(teacher),
        "per_class": counts(plugin.memory),
        "accuracy": accuracy(model, benchmark),
    }


def network_of(rank: int, *, normed: bool = False) -> nn.Module:
    """A classifier that grows, with first weights of its own on each rank."""
    torch.manual_seed(100 * rank)
    norm = [nn.BatchNorm1d(64)] if normed else []
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), *norm, nn.ReLU(), IncrementalClassifier(64))


def naive(model: nn.Module, ranks: int, plugins: list[Any], epochs: int = 1) -> Naive:
    return Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH // ranks,
        train_epochs=epochs,
        eval_mb_size=256,
        plugins=plugins,
        evaluator=None,
    )


def state(model: nn.Module) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}


def counts(memory: Any) -> dict[str, int]:
    return {str(label): rows for label, rows in memory.summary().per_class.items()}


PARTS: dict[str, Callable[[int, int], Any]] = {
    "vae memory": lambda rank, ranks: vae(rank, ranks, "memory"),
    "vae old_model": lambda rank, ranks: vae(rank, ranks, "old_model"),
    "vae soft": lambda rank, ranks: vae(rank, ranks, "soft"),
    "strategy": strategy,
    "gaussians iteration": lambda rank, ranks: gaussians(rank, ranks, "iteration"),
    "gaussians experience": lambda rank, ranks: gaussians(rank, ranks, "experience"),
    "kanerva class": lambda rank, ranks: kanerva(rank, ranks, "class"),
    "kanerva all": lambda rank, ranks: kanerva(rank, ranks, "all"),
    "energy": energy,
    "latent": latent,
    "full memory": lambda rank, ranks: full_batches(rank, ranks, "memory"),
    "full old_model": lambda rank, ranks: full_batches(rank, ranks, "old_model"),
    "full soft": lambda rank, ranks: full_batches(rank, ranks, "soft"),
    "too few": too_few,
}


def main(rank: int, ranks: int, port: int, folder: Path) -> None:
    """Be a rank."""
    torch.set_num_threads(1)
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    if not DistributedHelper.init_distributed(0, backend="gloo", use_cuda=False):
        raise SystemExit("no ranks")
    out = {name: part(rank, ranks) for name, part in PARTS.items()}
    out["resumed"] = resumed(rank, ranks, folder)
    (folder / f"{rank}.json").write_text(json.dumps(out))


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, so that Avalanche is imported once.
    context = get_context("fork")
    processes = [context.Process(target=main, args=(rank, 2, port, Path(sys.argv[1]))) for rank in range(2)]
    for process in processes:
        process.start()
    left = list(processes)
    while left:
        ended = wait([process.sentinel for process in left])
        left = [process for process in left if process.sentinel not in ended]
        if any(process.exitcode for process in processes):
            # The other would wait for it.
            for process in left:
                process.kill()
    sys.exit(any(process.exitcode for process in processes))
