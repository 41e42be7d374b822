"""Probabilistic retrieval as latent replay: class-incremental Split MNIST, arm by arm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from _common import DataOptions, data_sets, mlp, pairs_of_classes, percent_right, rows_of
from _retrieval_data import keep_json, kept, load_vae, mnist
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.training import Naive
from torch import Tensor, nn

from avalanche_memplugins import EpisodicMemory, LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin
from avalanche_memplugins.networks import (
    FrozenEncoder,
    ProbabilisticRetrievalClassifier,
    RetrievalClassifier,
    retrieval_mlp,
)

BUDGETS = (39_250, 157_000)  # bytes of 50 and 200 uint8 images with a byte for the label
STREAM = {
    "naive, pixels": "no memory",
    "ER, uint8 pixels": "uint8 images",
    "ER, uint8 pixels, encoder in front": "uint8 images",
    "latent replay, means": "float16 means",
    "latent replay, latents drawn, alpha 0.5": "float16 means and log-variances",
    "latent replay, latents drawn, alpha = 1": "float16 means and log-variances",
    "latent replay, means, and 10 neighbours": "float16 means",
    "joint, means": "all data at once",
}


def stream(options: DataOptions, seeds: Sequence[int]) -> None:
    """Split MNIST, five experiences of two classes; codes of VAEs that saw Omniglot only."""
    x, y = mnist(options, train=True)
    test_x, test_y = mnist(options, train=False)
    x, test_x = x.float() / 255, test_x.float() / 255
    for seed in seeds:
        parts = rows_of(y, pairs_of_classes(seed))
        for arm in STREAM:
            for budget in BUDGETS if STREAM[arm] not in ("no memory", "all data at once") else BUDGETS[:1]:
                name = f"stream-{seed}-{budget}-{arm.replace(' ', '_').replace('=', '')}"
                if kept(name):
                    continue
                pieces = [torch.cat(parts)] if STREAM[arm] == "all data at once" else parts
                benchmark = benchmark_from_datasets(train=data_sets(x, y, pieces))
                result = run_stream(arm, budget, seed, benchmark, test_x, test_y)
                keep_json(name, {"arm": arm, "budget": budget, "seed": seed, **result})
                print(name, result, flush=True)


def run_stream(arm: str, budget: int, seed: int, benchmark: Any, test_x: Tensor, test_y: Tensor) -> dict[str, float]:
    """Train one arm through the stream; accuracy on all ten classes, bytes, rows and time an iteration."""
    vae = load_vae("omniglot", 32, seed % 3, 20)
    torch.manual_seed(seed)
    memory: RandomMemory | None = None
    at: str | None = "encoder"
    model: nn.Module = nn.Sequential()
    settings: dict[str, Any] = {"write_policy": "class_balanced", "labels": "uint8", "store_tasks": False, "seed": seed}
    if "pixels" in arm:
        at = None
        if "encoder" in arm:
            model.add_module("encoder", FrozenEncoder(vae))
            model.add_module("head", retrieval_mlp(32, 10, hidden=256, layers=2))
        else:
            model = mlp()
        if "ER" in arm:
            memory = RandomMemory.from_budget(budget, shape=(1, 28, 28), codec="uint8", **settings)
    elif "drawn" in arm:
        spread = 0.5 if "0.5" in arm else 0.0
        model = ProbabilisticRetrievalClassifier(vae, alpha_std=spread, hidden=256, layers=2, draws=10, seed=seed)
        memory = RandomMemory.from_budget(budget, shape=(64,), codec="float16", **settings)
    elif "neighbours" in arm:
        memory = EpisodicMemory.from_budget(budget, shape=(32,), codec="float16", **settings)
        model = RetrievalClassifier(vae, memory, hidden=256, layers=2)
    else:
        model.add_module("encoder", FrozenEncoder(vae))
        model.add_module("head", retrieval_mlp(32, 10, hidden=256, layers=2))
        if "joint" not in arm:
            memory = RandomMemory.from_budget(budget, shape=(32,), codec="float16", **settings)
    replay = [] if memory is None else [MemoryReplayPlugin(memory, at=at, write_at="iteration", seed=seed)]
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3),
        train_mb_size=64,
        train_epochs=1,
        eval_mb_size=1_000,
        evaluator=None,
        plugins=[TensorLoaderPlugin(seed=seed), LeanStepPlugin(), *replay],
    )
    began = time.process_time()
    for one in benchmark.train_stream:
        strategy.train(one)
    spent = time.process_time() - began
    return {
        "accuracy": percent_right(model, test_x, test_y),
        "bytes": memory.nbytes if memory is not None else 0,
        "rows": len(memory) if memory is not None else 0,
        "ms": 1e3 * spent / strategy.clock.train_iterations,
    }
