"""Probabilistic memory retrieval (Gananath, 2022): as published, at its best, and as latent replay.

    OMP_NUM_THREADS=1 python bench/probabilistic_retrieval.py --data DIR

Everything that is trained is kept in results/retrieval/ and not done again. On a core: VAEs 12 minutes, the published
setting 2, MNIST with 32 numbers a code 8, the streams 7.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from _common import DataOptions, launch
from _retrieval_bank import Bank, check_step
from _retrieval_codes import choose, neighbours, pixels, wide
from _retrieval_data import ARMS, RESULTS, SEEDS, VAE_SEEDS, keep_json, kept, load_vae, mnist, percent, posterior, vaes
from _retrieval_report import report
from _retrieval_stream import stream
from torch import Tensor

from avalanche_memplugins.functional import KeyTable, sample_latents


def latents(code: Tensor, arm: str, generator: torch.Generator) -> Tensor:
    """What an arm's classifier sees of codes ``(N, 2C)``: ``(N, n * C)``."""
    n, spread, noise = ARMS[arm]
    mu, log_variance = code.chunk(2, 1)
    if not noise:
        return mu
    return sample_latents(mu, log_variance, n, alpha_std=spread, generator=generator).flatten(1)


def published(options: DataOptions, seeds: Sequence[int]) -> None:
    """SGD 1e-3 on single rows, 3 epochs of 60,000: every arm, 3 VAEs, 5 seeds each, in one bank of networks."""
    if kept("published"):
        return
    check_step()
    x, y = mnist(options, train=True)
    test_x, test_y = mnist(options, train=False)
    nets = [(30, v, s, arm) for v in VAE_SEEDS for s in SEEDS for arm in ARMS]
    nets += [(5, v, s, arm) for v in VAE_SEEDS for s in SEEDS[:2] for arm in (next(iter(ARMS)), "mean only")]
    codes = {key: posterior(load_vae("mnist", 2, key[1], key[0]), x) for key in {net[:2] for net in nets}}
    test_codes = {key: posterior(load_vae("mnist", 2, key[1], key[0]), test_x) for key in codes}
    widths = [2 * ARMS[net[3]][0] for net in nets]
    bank = Bank([2022 + net[2] for net in nets], widths)
    noise = [torch.Generator().manual_seed(1_000 * net[1] + net[2]) for net in nets]
    orders = [torch.Generator().manual_seed(net[2]) for net in nets]
    began = time.process_time()
    right = torch.zeros(len(nets))
    for epoch in range(3):
        rows = torch.stack([torch.randperm(len(x), generator=g) for g in orders])
        right.zero_()
        for block in rows.split(1_000, dim=1):
            inputs = torch.zeros(block.shape[1], len(nets), 1, 20)
            for m, net in enumerate(nets):
                inputs[:, m, 0, : widths[m]] = latents(codes[net[:2]][block[m]], net[3], noise[m])
            labels = y[block].T.contiguous()
            for i in range(len(inputs)):
                right += bank.step(inputs[i], labels[i], 1e-3) == labels[i]
        print(f"published: epoch {epoch + 1}, {time.process_time() - began:.0f} s", flush=True)
    inputs = torch.zeros(len(nets), len(test_x), 20)
    for m, net in enumerate(nets):
        inputs[m, :, : widths[m]] = latents(test_codes[net[:2]], net[3], noise[m])
    answers = torch.cat([bank.forward(part).argmax(-1) for part in inputs.split(500, dim=1)], 1)
    scores = 100 * (answers == test_y).float().mean(1)
    neighbours = {
        f"{key[1]}-{key[0]}": percent(y[KeyTable(codes[key].chunk(2, 1)[0]).search(
            test_codes[key].chunk(2, 1)[0][:2_000], 1).indices[:, 0]], test_y[:2_000])
        for key in codes
    }  # fmt: skip
    runs = [
        {"vae_epochs": e, "vae": v, "seed": s, "arm": arm, "train": train, "test": test}
        for (e, v, s, arm), train, test in zip(nets, (100 * right / len(x)).tolist(), scores.tolist(), strict=True)
    ]
    keep_json("published", {"runs": runs, "1-NN": neighbours, "seconds": time.process_time() - began})


STEPS: dict[str, Callable[[DataOptions, Sequence[int]], None]] = {
    "vaes": vaes, "published": published, "choose": choose, "wide": wide, "neighbours": neighbours,
    "pixels": pixels, "stream": stream,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """What to run."""

    part: tuple[Literal["vaes", "published", "choose", "wide", "neighbours", "pixels", "stream"], ...] = tuple(STEPS)  # type: ignore[assignment]
    seeds: int = len(SEEDS)
    """Of the parts after `choose`."""


def main(options: Options) -> None:
    """Run what has not run yet, then report."""
    if options.quick:
        os.chdir(options.runs(RESULTS))
    RESULTS.mkdir(parents=True, exist_ok=True)
    for part in options.part:
        STEPS[part](options, SEEDS[: options.least(options.seeds, 1)])
    report(options)


if __name__ == "__main__":
    launch(main, Options, __doc__)
