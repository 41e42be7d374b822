"""Probabilistic retrieval on MNIST with 32 numbers a code: classifiers over latents, neighbours and pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from _common import DataOptions, mlp
from _retrieval_data import ARMS, keep_json, kept, load_vae, mnist, percent, posterior
from torch import Tensor, nn

from avalanche_memplugins import EpisodicMemory
from avalanche_memplugins.functional import KeyTable, sample_latents
from avalanche_memplugins.networks import RetrievalClassifier, retrieval_mlp

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


def choose(options: DataOptions, seeds: Sequence[int]) -> None:
    """Size of the classifier and alpha's spread, on the last 5,000 of 60,000 training images."""
    found = kept("choose") or {}
    x, y = mnist(options, train=True)
    most = len(x) * 11 // 12
    code = posterior(load_vae("mnist", 32, 0, 15), x)
    for net, spread in (("40 x 4", 0.5), ("256 x 3", 0.5), ("256 x 3", 0.2)):
        name = f"{net}, alpha {spread}"
        if name in found:
            continue
        arm = (10, spread, True)
        head = classifier(code[:most], y[:most], arm, net, seed=100)
        found[name] = {str(draws): percent(answers(head, code[most:], arm, draws), y[most:]) for draws in (0, 1, 10)}
        print(name, found[name], flush=True)
        keep_json("choose", found)


def chosen() -> tuple[str, float, int]:
    """Network, alpha's spread and draws that did best on the images held back."""
    found = kept("choose")
    best = max(((score, name, draws) for name in found for draws, score in found[name].items()), key=lambda b: b[0])
    net, spread = best[1].split(", alpha ")
    return net, float(spread), int(best[2])


def wide(options: DataOptions, seeds: Sequence[int]) -> None:
    """All arms with the chosen classifier on all 60,000 training images, then on the test images."""
    net, spread, _ = chosen()
    arms = {**ARMS, **({} if spread == 0.5 else {f"n = 10, alpha {spread}": (10, spread, True)})}
    x, y = mnist(options, train=True)
    test_x, test_y = mnist(options, train=False)
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


class Codes(nn.Module):
    """An auto-encoder whose images are codes already."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.code_size = size

    def encode(self, x: Tensor) -> Tensor:
        return x


def neighbours(options: DataOptions, seeds: Sequence[int]) -> None:
    """The retrieval variant: 10,000 codes in the memory, 10 neighbours, against voting by the same neighbours."""
    net = WIDE[chosen()[0]]
    x, y = mnist(options, train=True)
    test_x, test_y = mnist(options, train=False)
    for seed in seeds:
        if kept(f"neighbours-{seed}"):
            continue
        vae = load_vae("mnist", 32, seed % 3, 15)
        code, test_code = (posterior(vae, images).chunk(2, 1)[0].contiguous() for images in (x, test_x))
        held = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:10_000]
        memory = EpisodicMemory(10_000, write_policy="ring", seed=0)
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


def pixels(options: DataOptions, seeds: Sequence[int]) -> None:
    """The plain control: an MLP 784-400-400-10 on pixels, Adam as above."""
    x, y = mnist(options, train=True)
    test_x, test_y = mnist(options, train=False)
    for seed in seeds[:3]:
        if kept(f"pixels-{seed}"):
            continue
        torch.manual_seed(seed)
        net = mlp()
        fit(net, lambda rows: x[rows].float() / 255, y, seed, epochs=6)
        with torch.no_grad():
            keep_json(f"pixels-{seed}", percent(net(test_x.float() / 255).argmax(1), test_y))
