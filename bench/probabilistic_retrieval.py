"""Probabilistic memory retrieval (Gananath, 2022): as published, at its best, and as latent replay.

    python bench/probabilistic_retrieval.py --data DIR     everything that has not run yet, then the report
    python bench/probabilistic_retrieval.py --report       the report of what there is

Everything that is trained is kept in results/retrieval/ and not done again. On a core: VAEs 12 minutes, the published
setting 2, MNIST with 32 numbers a code 8, the streams 7.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import record, table
from _retrieval_bank import Bank, check_step
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training import Naive
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST

from avalanche_memplugins import EpisodicMemory, LeanStepPlugin, MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin
from avalanche_memplugins.functional import KeyTable, sample_latents
from avalanche_memplugins.networks import (
    MLPVAE,
    FrozenEncoder,
    ProbabilisticRetrievalClassifier,
    RetrievalClassifier,
    retrieval_mlp,
    train_vae,
)

COMMAND = "OMP_NUM_THREADS=1 python bench/probabilistic_retrieval.py --data DIR"
RESULTS = Path("results/retrieval")
# data, C, epochs, epochs after which it is kept
VAES = (("mnist", 2, 30, (5, 30)), ("omniglot", 32, 20, (20,)), ("mnist", 32, 15, (15,)))
VAE_SEEDS, SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)

# name -> n, alpha's spread, whether the code's own noise is added
ARMS: dict[str, tuple[int, float, bool]] = {
    "n = 10, alpha 0.5 (published)": (10, 0.5, True),
    "n = 1, alpha 0.5": (1, 0.5, True),
    "n = 10, alpha = 1": (10, 0.0, True),
    "n = 1, alpha = 1": (1, 0.0, True),
    "mean only": (1, 0.0, False),
}


# ---------------------------------------------------------------- data and VAEs


def mnist(data: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 28, 28)`` uint8 and classes."""
    found = MNIST(str(data), train=train)
    return found.data[:, None], found.targets


def omniglot(data: Path) -> Tensor:
    """The background set, white on black, reduced to 28x28."""
    files = sorted((data / "omniglot-py" / "images_background").glob("*/*/*.png"))
    rows = [255 - np.array(Image.open(f).convert("L").resize((28, 28), Image.Resampling.BOX)) for f in files]
    return torch.from_numpy(np.stack(rows))[:, None]


def vae_file(kind: str, size: int, seed: int, epochs: int) -> Path:
    """Where a VAE is kept."""
    return RESULTS / f"vae-{kind}-{size}-{seed}-{epochs}.safetensors"


def load_vae(kind: str, size: int, seed: int, epochs: int) -> MLPVAE:
    """A VAE that :func:`vaes` trained."""
    vae = MLPVAE(size)
    vae.load_state_dict(load_file(vae_file(kind, size, seed, epochs)))
    return vae.eval()


def vaes(data: Path, seeds: Sequence[int]) -> None:
    """Train all VAEs; images of the training sets only, no labels."""
    for seed in VAE_SEEDS:
        for kind, size, epochs, marks in VAES:
            if vae_file(kind, size, seed, epochs).exists():
                continue
            x = mnist(data, train=True)[0] if kind == "mnist" else omniglot(data)
            torch.manual_seed(seed)
            vae = MLPVAE(size)
            began = time.process_time()
            files = {epoch: vae_file(kind, size, seed, epoch) for epoch in marks}
            bounds = train_vae(vae, x, epochs=epochs, seed=seed, after_epoch=partial(keep_vae, vae, files))
            keep_json(f"vae-{kind}-{size}-{seed}", {"bounds": bounds, "seconds": time.process_time() - began})


def keep_vae(vae: MLPVAE, files: dict[int, Path], epoch: int, bound: float) -> None:
    """Keep a VAE after the epochs that have a file."""
    if epoch in files:
        print(f"{files[epoch].stem}: {bound:.2f} nats", flush=True)
        save_file(vae.state_dict(), files[epoch])


@torch.no_grad()
def posterior(vae: MLPVAE, x: Tensor) -> Tensor:
    """Codes ``(N, 2C)``, mean and log-variance."""
    encoder = FrozenEncoder(vae, code="posterior")
    return torch.cat([encoder(rows.float() / 255) for rows in x.split(2_000)])


def keep_json(name: str, value: Any) -> None:
    """Keep a result under its name, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    draft = RESULTS / f"{name}.part"
    draft.write_text(json.dumps(value))
    draft.rename(RESULTS / f"{name}.json")


def kept(name: str) -> Any:
    """What :func:`keep_json` kept, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


# ---------------------------------------------------------------- the published setting


def latents(code: Tensor, arm: str, generator: torch.Generator) -> Tensor:
    """What an arm's classifier sees of codes ``(N, 2C)``: ``(N, n * C)``."""
    n, spread, noise = ARMS[arm]
    mu, log_variance = code.chunk(2, 1)
    if not noise:
        return mu
    return sample_latents(mu, log_variance, n, alpha_std=spread, generator=generator).flatten(1)


def published(data: Path, seeds: Sequence[int]) -> None:
    """SGD 1e-3 on single rows, 3 epochs of 60,000: every arm, 3 VAEs, 5 seeds each, in one bank of networks."""
    if kept("published"):
        return
    check_step()
    x, y = mnist(data, train=True)
    test_x, test_y = mnist(data, train=False)
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


# ---------------------------------------------------------------- MNIST with 32 numbers a code

WIDE = {"40 x 4": (40, 4), "256 x 3": (256, 3)}


def fit(head: nn.Module, inputs: Callable[[Tensor], Tensor], y: Tensor, seed: int, epochs: int = 8) -> None:
    """Adam 1e-3 falling to zero as a cosine, batch 128; ``inputs(rows)`` makes what the head sees."""
    optimizer = torch.optim.Adam(head.parameters(), 1e-3, fused=True)
    steps = epochs * -(-len(y) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=order).split(128):
            loss = nn.functional.cross_entropy(head(inputs(rows)), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def percent(answers: Tensor, y: Tensor) -> float:
    """Of the answers that are right."""
    return 100 * float((answers == y).float().mean())


@torch.no_grad()
def answers(head: nn.Module, code: Tensor, arm: tuple[int, float, bool], draws: int) -> Tensor:
    """Classes by the mean probability of ``draws`` sets of latents; of the means themselves for 0."""
    n, spread, noise = arm
    mu, log_variance = code.chunk(2, 1)
    if draws == 0 or not noise:
        return head(mu.repeat(1, n)).argmax(1)
    g = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for _ in range(draws):
        total = total + head(sample_latents(mu, log_variance, n, alpha_std=spread, generator=g).flatten(1)).softmax(1)
    return total.argmax(1)


def classifier(code: Tensor, y: Tensor, arm: tuple[int, float, bool], net: str, seed: int) -> nn.Module:
    """A classifier over an arm's latents of codes ``(N, 2C)``, trained."""
    n, spread, noise = arm
    torch.manual_seed(seed)
    head = retrieval_mlp(n * code.shape[1] // 2, 10, hidden=WIDE[net][0], layers=WIDE[net][1])
    g = torch.Generator().manual_seed(seed)

    def inputs(rows: Tensor) -> Tensor:
        mu, log_variance = code[rows].chunk(2, 1)
        if not noise:
            return mu
        return sample_latents(mu, log_variance, n, alpha_std=spread, generator=g).flatten(1)

    fit(head, inputs, y, seed)
    return head.eval()


def choose(data: Path, seeds: Sequence[int]) -> None:
    """Size of the classifier and alpha's spread, on 5,000 training images held back."""
    found = kept("choose") or {}
    x, y = mnist(data, train=True)
    code = posterior(load_vae("mnist", 32, 0, 15), x)
    for net, spread in (("40 x 4", 0.5), ("256 x 3", 0.5), ("256 x 3", 0.2)):
        name = f"{net}, alpha {spread}"
        if name in found:
            continue
        arm = (10, spread, True)
        head = classifier(code[:55_000], y[:55_000], arm, net, seed=100)
        found[name] = {
            str(draws): percent(answers(head, code[55_000:], arm, draws), y[55_000:]) for draws in (0, 1, 10)
        }
        print(name, found[name], flush=True)
        keep_json("choose", found)


def chosen() -> tuple[str, float, int]:
    """Network, alpha's spread and draws that did best on the images held back."""
    found = kept("choose")
    best = max(((score, name, draws) for name in found for draws, score in found[name].items()), key=lambda b: b[0])
    net, spread = best[1].split(", alpha ")
    return net, float(spread), int(best[2])


def wide(data: Path, seeds: Sequence[int]) -> None:
    """All arms with the chosen classifier on all 60,000 training images, then on the test images."""
    net, spread, _ = chosen()
    arms = {**ARMS, **({} if spread == 0.5 else {f"n = 10, alpha {spread}": (10, spread, True)})}
    x, y = mnist(data, train=True)
    test_x, test_y = mnist(data, train=False)
    for seed in seeds:
        code = test_code = None
        for name, arm in arms.items():
            file = f"wide-{seed}-{name.replace(' ', '')}"
            if kept(file):
                continue
            if code is None:
                vae = load_vae("mnist", 32, seed % 3, 15)
                code, test_code = posterior(vae, x), posterior(vae, test_x)
            began = time.process_time()
            head = classifier(code, y, arm, net, seed)
            scores = {str(d): percent(answers(head, test_code, arm, d), test_y) for d in (0, 1, 10)}
            keep_json(file, {"arm": name, "seconds": time.process_time() - began, **scores})
            print(file, scores, flush=True)


# ---------------------------------------------------------------- neighbours from stored codes


class Codes(nn.Module):
    """An auto-encoder whose images are codes already."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.code_size = size

    def encode(self, x: Tensor) -> Tensor:
        return x


def neighbours(data: Path, seeds: Sequence[int]) -> None:
    """The retrieval variant: 10,000 codes in the memory, 10 neighbours, against voting by the same neighbours."""
    net = WIDE[chosen()[0]]
    x, y = mnist(data, train=True)
    test_x, test_y = mnist(data, train=False)
    for seed in seeds:
        if kept(f"neighbours-{seed}"):
            continue
        vae = load_vae("mnist", 32, seed % 3, 15)
        code, test_code = (posterior(vae, images).chunk(2, 1)[0].contiguous() for images in (x, test_x))
        held = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:10_000]
        memory = EpisodicMemory(10_000, policy="ring")
        memory.write(code[held], y[held])
        began = time.process_time()
        found: dict[str, float] = {}
        all_near = KeyTable(code).search(test_code, 1).indices
        found["1-NN, all 60,000 codes"] = percent(y[all_near[:, 0]], test_y)
        near = memory.nearest(test_code, 10).rows.y.view(-1, 10)
        found["1-NN, 10,000 codes"] = percent(near[:, 0], test_y)
        found["vote of 10"] = percent(nn.functional.one_hot(near).sum(1).argmax(1), test_y)
        torch.manual_seed(seed)
        model = RetrievalClassifier(Codes(32), memory, hidden=net[0], layers=net[1])
        retrieved = torch.cat([model.retrieve(rows) for rows in code.split(1_000)])
        test_retrieved = torch.cat([model.eval().retrieve(rows) for rows in test_code.split(1_000)])
        torch.manual_seed(seed)
        without = retrieval_mlp(32 + 320, 10, hidden=net[0], layers=net[1])
        fit(model.head, lambda r: torch.cat([code[r], retrieved[r]], 1), y, seed, epochs=6)  # noqa: B023
        fit(without, lambda r: torch.cat([code[r], retrieved[r, :320]], 1), y, seed, epochs=6)  # noqa: B023
        with torch.no_grad():
            seen = torch.cat([test_code, test_retrieved], 1)
            found["classifier over code, neighbours and labels"] = percent(model.head(seen).argmax(1), test_y)
            found["the same without labels"] = percent(without(seen[:, :352]).argmax(1), test_y)
        keep_json(f"neighbours-{seed}", {**found, "seconds": time.process_time() - began})
        print("neighbours", seed, found, flush=True)


def pixels(data: Path, seeds: Sequence[int]) -> None:
    """The plain control: an MLP 784-400-400-10 on pixels, Adam as above."""
    x, y = mnist(data, train=True)
    test_x, test_y = mnist(data, train=False)
    for seed in seeds[:3]:
        if kept(f"pixels-{seed}"):
            continue
        torch.manual_seed(seed)
        net = pixel_mlp()
        fit(net, lambda rows: x[rows].float() / 255, y, seed, epochs=6)
        with torch.no_grad():
            keep_json(f"pixels-{seed}", percent(net(test_x.float() / 255).argmax(1), test_y))


def pixel_mlp() -> nn.Sequential:
    """784-400-400-10."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )


# ---------------------------------------------------------------- class-incremental streams

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


def stream(data: Path, seeds: Sequence[int]) -> None:
    """Split MNIST, five experiences of two classes; codes of VAEs that saw Omniglot only."""
    x, y = mnist(data, train=True)
    test_x, test_y = mnist(data, train=False)
    x, test_x = x.float() / 255, test_x.float() / 255
    for seed in seeds:
        classes = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).view(5, 2)
        parts = [torch.isin(y, pair).nonzero().flatten() for pair in classes]
        for arm in STREAM:
            for budget in BUDGETS if STREAM[arm] not in ("no memory", "all data at once") else BUDGETS[:1]:
                name = f"stream-{seed}-{budget}-{arm.replace(' ', '_').replace('=', '')}"
                if kept(name):
                    continue
                pieces = [torch.cat(parts)] if STREAM[arm] == "all data at once" else parts
                train = [experience(x[rows], y[rows]) for rows in pieces]
                benchmark = benchmark_from_datasets(train=train, test=[experience(test_x, test_y)])
                result = run_stream(arm, budget, seed, benchmark, test_x, test_y)
                keep_json(name, {"arm": arm, "budget": budget, "seed": seed, **result})
                print(name, result, flush=True)


def experience(x: Tensor, y: Tensor) -> Any:
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    return as_classification_dataset(data)


def run_stream(arm: str, budget: int, seed: int, benchmark: Any, test_x: Tensor, test_y: Tensor) -> dict[str, float]:
    """Train one arm through the stream; accuracy on all ten classes, bytes, rows and time an iteration."""
    vae = load_vae("omniglot", 32, seed % 3, 20)
    torch.manual_seed(seed)
    memory: RandomMemory | None = None
    at: str | None = "encoder"
    model: nn.Module = nn.Sequential()
    settings: dict[str, Any] = {"policy": "class_balanced", "labels": "uint8", "store_tasks": False, "seed": seed}
    if "pixels" in arm:
        at = None
        if "encoder" in arm:
            model.add_module("encoder", FrozenEncoder(vae))
            model.add_module("head", retrieval_mlp(32, 10, hidden=256, layers=2))
        else:
            model = pixel_mlp()
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
    replay = [] if memory is None else [MemoryReplayPlugin(memory, at=at)]
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
    model.eval()
    with torch.no_grad():
        score = percent(torch.cat([model(rows).argmax(1) for rows in test_x.split(1_000)]), test_y)
    return {
        "accuracy": score,
        "bytes": memory.nbytes if memory is not None else 0,
        "rows": len(memory) if memory is not None else 0,
        "ms": 1e3 * spent / strategy.clock.train_iterations,
    }


# ---------------------------------------------------------------- report


def interval(values: list[float], digits: int = 1) -> str:
    """Mean and half the 95 % interval (Student's t)."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "-"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def over_vaes(runs: list[dict[str, Any]], what: str) -> list[float]:
    """Mean over the classifiers of each VAE: a VAE is what varies most, so it is what the interval is over."""
    return [float(np.mean([r[what] for r in runs if r["vae"] == v])) for v in sorted({r["vae"] for r in runs})]


def report() -> None:
    """What there is, into bench/RESULTS.md."""
    if kept("published"):
        report_published()
    if kept("choose") and list(RESULTS.glob("wide-*.json")):
        report_wide()
    if list(RESULTS.glob("stream-*.json")):
        report_stream()


def report_published() -> None:
    found = kept("published")
    rows: list[list[object]] = [["*published: n = 10, alpha 0.5, one run*", "", 1, 74, 73, ""]]
    for epochs in (30, 5):
        for arm in ARMS:
            runs = [r for r in found["runs"] if r["vae_epochs"] == epochs and r["arm"] == arm]
            if runs:
                test = [r["test"] for r in runs]
                cells = [interval(over_vaes(runs, what)) for what in ("train", "test")]
                rows.append([arm, epochs, len(runs), *cells, f"{min(test):.1f}-{max(test):.1f}"])
    near = {e: interval([s for key, s in found["1-NN"].items() if key.endswith(f"-{e}")]) for e in (30, 5)}
    for epochs, text in near.items():
        rows.append(["control: nearest of the 60,000 mean codes, first 2,000 test images", epochs, 3, "", text, ""])
    bounds = [kept(f"vae-mnist-2-{v}")["bounds"] for v in VAE_SEEDS]
    text = table(["% correct", "epochs of the VAE", "runs", "training (third epoch)", "test", "test, range"], rows)
    record(
        "Probabilistic retrieval as published",
        "Full MNIST; VAE 784-400-400-2 (Adam 1e-3, batch 128), frozen; classifier 4 x 40 over the latents, SGD 1e-3 on "
        "single rows, 3 epochs, latents drawn anew for every row and once for each test image. "
        f"3 VAEs, up to 5 classifiers each; mean ± 95 % t-interval over the VAEs. The VAEs end at "
        f"{np.mean([b[-1] for b in bounds]):.1f} nats an image after 30 epochs ({np.mean([b[4] for b in bounds]):.1f} "
        "after 5). The published figures are floored to whole per cent; how long its VAE was trained is not known.\n\n"
        + text,
        COMMAND,
    )


def report_wide() -> None:
    net, spread, draws = chosen()
    held_back = "; ".join(f"{name}: {s['0']:.2f} / {s['1']:.2f} / {s['10']:.2f}" for name, s in kept("choose").items())
    runs = [json.loads(f.read_text()) for f in sorted(RESULTS.glob("wide-*.json"))]
    rows: list[list[object]] = []
    for arm in dict.fromkeys([*ARMS, f"n = 10, alpha {spread}"]):
        mine = [r for r in runs if r["arm"] == arm]
        if mine:
            cells = [interval([r[d] for r in mine], 2) for d in ("0", "1", "10")]
            rows.append([arm, len(mine), *(cells if arm != "mean only" else [cells[0], "-", "-"])])
    others = [json.loads(f.read_text()) for f in sorted(RESULTS.glob("neighbours-*.json"))]
    for name in others[0] if others else ():
        if name != "seconds":
            rows.append([name, len(others), interval([o[name] for o in others], 2), "-", "-"])
    plain = [v for s in SEEDS if (v := kept(f"pixels-{s}")) is not None]
    if plain:
        rows.append(["MLP 784-400-400-10 on pixels", len(plain), interval(plain, 2), "-", "-"])
    record(
        "Probabilistic retrieval on MNIST, 32 numbers a code",
        f"VAE 784-400-400-32, 15 epochs, frozen; classifier {net} over the latents, Adam 1e-3 with cosine, 8 epochs, "
        "batch 128; mean ± 95 % t-interval over runs, of 3 VAEs in turn. Classifier, alpha and draws were chosen on "
        f"5,000 training images held back (% with means / 1 draw / 10 draws: {held_back}); the choice is {net}, alpha "
        f"{spread}, {'means' if draws == 0 else f'{draws} draw(s)'} at test time. Rows below the latents': nearest "
        "neighbours of the mean codes, and a classifier over a code with its 10 nearest of 10,000 stored ones (6 "
        "epochs; no row finds itself in training).\n\n"
        + table(["% correct on test", "runs", "means at test time", "1 draw", "10 draws averaged"], rows),
        COMMAND,
    )


def report_stream() -> None:
    runs = [json.loads(f.read_text()) for f in sorted(RESULTS.glob("stream-*.json"))]
    rows: list[list[object]] = []
    for budget in BUDGETS:
        for arm, what in STREAM.items():
            mine = [r for r in runs if r["arm"] == arm and r["budget"] == budget]
            if mine:
                size = f"{mine[0]['bytes'] / 1000:.1f} kB, {mine[0]['rows']} rows" if mine[0]["bytes"] else "-"
                cost = f"{np.median([r['ms'] for r in mine]):.1f}"
                rows.append([arm, what, size, len(mine), interval([r["accuracy"] for r in mine]), cost])
    encoder = load_vae("omniglot", 32, 0, 20)
    parts = (encoder.trunk, encoder.mean, encoder.log_variance)
    fixed = sum(p.nbytes for part in parts for p in part.parameters())
    record(
        "Probabilistic retrieval as latent replay, Split MNIST",
        "Class-incremental, five experiences of two classes in an order drawn for each seed, one head, 1 epoch, batch "
        "64 and 64 replayed, Adam 1e-3; mean ± 95 % t-interval over seeds, 3 VAEs in turn. VAE 784-400-400-32 trained "
        f"on Omniglot's background set only; its encoder ({fixed / 1e6:.2f} MB) is fixed and comes on top wherever "
        "codes are used. Classifier over codes: 2 x 256 with layer norm. Memories are class-balanced, labels counted. "
        "Settings were not tuned.\n\n"
        + table(["", "stored", "memory", "seeds", "accuracy, %", "CPU ms an iteration"], rows),
        COMMAND,
    )


def main() -> None:
    """Run what has not run yet, then report."""
    steps = {
        "vaes": vaes, "published": published, "choose": choose, "wide": wide, "neighbours": neighbours,
        "pixels": pixels, "stream": stream,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MEMPLUGINS_DATA"), help="holds MNIST/raw")
    parser.add_argument("--part", nargs="+", default=list(steps), choices=list(steps))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of the parts after 'choose'")
    parser.add_argument("--report", action="store_true", help="only write the report")
    args = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not args.report:
        if args.data is None:
            parser.error("--data: wants the folder that holds MNIST/raw")
        for part in args.part:
            steps[part](Path(args.data), args.seeds)
    report()


if __name__ == "__main__":
    main()
