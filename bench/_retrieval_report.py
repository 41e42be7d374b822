"""What there is of probabilistic_retrieval.py's results, into bench/RESULTS.md."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from _common import DataOptions
from _record import interval, table
from _retrieval_codes import chosen
from _retrieval_data import ARMS, RESULTS, SEEDS, VAE_SEEDS, kept, load_vae
from _retrieval_stream import BUDGETS, STREAM

COMMAND = "OMP_NUM_THREADS=1 python bench/probabilistic_retrieval.py --data DIR"


def over_vaes(runs: list[dict[str, Any]], what: str) -> list[float]:
    """Mean over the classifiers of each VAE: a VAE is what varies most, so it is what the interval is over."""
    return [float(np.mean([r[what] for r in runs if r["vae"] == v])) for v in sorted({r["vae"] for r in runs})]


def report(options: DataOptions) -> None:
    """What there is, into bench/RESULTS.md."""
    if kept("published"):
        report_published(options)
    if kept("choose") and list(RESULTS.glob("wide-*.json")):
        report_wide(options)
    if list(RESULTS.glob("stream-*.json")):
        report_stream(options)


def report_published(options: DataOptions) -> None:
    """The published setting."""
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
    options.write(
        "Probabilistic retrieval as published",
        "Full MNIST; VAE 784-400-400-2 (Adam 1e-3, batch 128), frozen; classifier 4 x 40 over the latents, SGD 1e-3 on "
        "single rows, 3 epochs, latents drawn anew for every row and once for each test image. "
        f"3 VAEs, up to 5 classifiers each; mean ± 95 % t-interval over the VAEs. The VAEs end at "
        f"{np.mean([b[-1] for b in bounds]):.1f} nats an image after 30 epochs ({np.mean([b[4] for b in bounds]):.1f} "
        "after 5). The published figures are floored to whole per cent; how long its VAE was trained is not known.\n\n"
        + text,
        COMMAND,
    )


def report_wide(options: DataOptions) -> None:
    """Codes of 32 numbers."""
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
    options.write(
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


def report_stream(options: DataOptions) -> None:
    """The stream."""
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
    options.write(
        "Probabilistic retrieval as latent replay, Split MNIST",
        "Class-incremental, five experiences of two classes in an order drawn for each seed, one head, 1 epoch, batch "
        "64 and 64 replayed, Adam 1e-3; mean ± 95 % t-interval over seeds, 3 VAEs in turn. VAE 784-400-400-32 trained "
        f"on Omniglot's background set only; its encoder ({fixed / 1e6:.2f} MB) is fixed and comes on top wherever "
        "codes are used. Classifier over codes: 2 x 256 with layer norm. Memories are class-balanced, labels counted. "
        "Settings were not tuned.\n\n"
        + table(["", "stored", "memory", "seeds", "accuracy, %", "CPU ms an iteration"], rows),
        COMMAND,
    )
