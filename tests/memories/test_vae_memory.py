"""VAEMemory: what it generates, what it remembers, and that a run can be stopped and go on exactly."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from avalanche_memplugins.memories import Recall, VAEMemory
from avalanche_memplugins.networks import VAE, ConditionalVAE

MEAN, STD = 0.25, 0.5


def images(classes: tuple[int, ...], rows: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """4 x 4 images, normalised: class c lights row c, with a little noise."""
    g = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes).repeat(rows // len(classes) + 1)[:rows]
    x = 0.05 + 0.1 * torch.rand(rows, 1, 4, 4, generator=g)
    x[torch.arange(rows), 0, y % 4] += 0.8
    return (x - MEAN) / STD, y


def brightest(x: Tensor) -> Tensor:
    """The class that an image shows."""
    return x[:, 0].mean(2).argmax(1)


class Fresh:
    """Batches that count their passes."""

    def __init__(self, x: Tensor, y: Tensor, t: Tensor | int = 0, size: int = 20) -> None:
        self.x, self.y, self.t, self.size, self.passes = x, y, t, size, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | int]]:
        self.passes += 1
        for first in range(0, len(self.x), self.size):
            part = slice(first, first + self.size)
            yield self.x[part], self.y[part], self.t


def memory(classes: int | None = 4, *, likelihood: str = "bernoulli", **options: Any) -> VAEMemory:
    torch.manual_seed(0)
    shape = (1, 4, 4) if likelihood == "bernoulli" else (6,)
    network = ConditionalVAE(shape, code_size=4, hidden=(32, 32), classes=classes, likelihood=likelihood)  # type: ignore[arg-type]
    defaults = {"steps": 150, "batch_size": 32, "lr": 5e-3, "seed": 3}
    normalise = {"mean": MEAN, "std": STD} if likelihood == "bernoulli" else {}
    return VAEMemory(network, **{**defaults, **normalise, **options})


def trained(experiences: int = 2, **options: Any) -> VAEMemory:
    out = memory(**options)
    for e in range(experiences):
        out.consolidate(Fresh(*images((2 * e, 2 * e + 1), seed=e), t=e), origin=e + 10)
    return out


@pytest.mark.parametrize("classes", [None, 4])
def test_it_generates_the_classes_of_all_experiences_and_labels_them(classes: int | None) -> None:
    mine = trained(classes=classes, steps=150 if classes else 500)
    recall = mine.sample(400)
    assert torch.bincount(recall.y).tolist() == [100] * 4
    assert float((brightest(recall.x) == recall.y).float().mean()) > 0.9
    assert recall.t.tolist() == (recall.y // 2).tolist()
    assert recall.origin.tolist() == (recall.y // 2 + 10).tolist()
    pixels = recall.x * STD + MEAN
    assert recall.x.shape == (400, 1, 4, 4)
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1
    assert len(mine) == 192
    assert mine.summary().per_class == {0: 48, 1: 48, 2: 48, 3: 48}
    assert mine.summary().per_experience == {10: 96, 11: 96}


def test_the_standard_prior_of_deep_generative_replay() -> None:
    told = trained(classes=4, prior="standard").sample(400)
    assert float((brightest(told.x) == told.y).float().mean()) > 0.8
    guessed = trained(classes=None, prior="standard").sample(400)
    assert float((brightest(guessed.x) == guessed.y).float().mean()) > 0.4  # a guess at 25 is no guess
    assert set(guessed.y.tolist()) <= {0, 1, 2, 3}


def test_without_its_own_replay_it_forgets() -> None:
    """Control of the test above: the same bounds on the first experience, with w = 0."""
    x, y = images((0, 1), seed=7)
    kept, forgot = trained(), trained(replay=None)
    assert float(kept.bound(x, y).mean()) + 1 < float(forgot.bound(x, y).mean())


def test_the_weight_of_replay_is_that_of_the_formula() -> None:
    """One step of plain descent is too small to see in Adam, so the loss's gradient is put together by hand."""
    seen: list[Tensor] = []

    class Spy(VAEMemory):
        def _nelbo(self, network: Any, codes: Tensor, index: Tensor, noise: Any) -> Tensor:
            out = super()._nelbo(network, codes, index, noise)
            if out.requires_grad:
                out.register_hook(lambda gradient: seen.append(gradient.clone()))
            return out

    mine = trained(2)
    spy = Spy(mine.network, steps=1, batch_size=32, replay_size=8, mean=MEAN, std=STD)
    spy.codes, spy._table, spy.shape, spy.consolidations = mine.codes, mine._table, mine.shape, 2
    spy.consolidate(Fresh(*images((0, 1))), origin=2)
    gradient = seen[0]
    torch.testing.assert_close(gradient[:32], torch.full((32,), (1 / 3) / 32))
    torch.testing.assert_close(gradient[32:], torch.full((8,), (2 / 3) / 8))


def test_vectors_with_a_gaussian_likelihood() -> None:
    centres = 3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    y = torch.arange(300) % 3 + 5
    x = centres[y - 5] + 0.3 * torch.randn(300, 6, generator=torch.Generator().manual_seed(6))
    mine = memory(likelihood="gaussian", steps=400)
    mine.consolidate([(x, y, 0)], origin=0)
    recall = mine.sample(600)
    assert recall.x.shape == (600, 6)
    for label in (5, 6, 7):
        rows = recall.x[recall.y == label]
        torch.testing.assert_close(rows.mean(0), x[y == label].mean(0), rtol=0, atol=0.25)
        # Without the noise of the observation rows would lie far closer together.
        assert 0.2 < float(rows.std(0).mean()) < 1  # the centres are 3 apart


class Halves(torch.nn.Module):
    """A codec whose latent space is the first six pixels."""

    code_size, nbytes_fixed = 6, 77

    def check(self, x: Tensor) -> None:
        pass

    def to_latent(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :6]

    def from_latent(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.cat([z, z.new_zeros(len(z), 10)], 1).view(-1, 1, 4, 4).to(dtype)


def test_over_the_codes_of_a_codec() -> None:
    mine = memory(likelihood="gaussian", codec=Halves())
    mine.consolidate(Fresh(*images((0, 1))), origin=0)
    x = mine.sample(10).x
    assert x.shape == (10, 1, 4, 4)
    assert not x.flatten(1)[:, 6:].any()
    assert mine.nbytes_fixed == 77
    with pytest.raises(ValueError, match="network: expected likelihood='gaussian', as codes are not pixels, got"):
        memory(codec=Halves())


def test_a_convolutional_vae_serves_too() -> None:
    torch.manual_seed(0)
    mine = VAEMemory(VAE(code_size=4, width=2), steps=3, batch_size=8)
    mine.consolidate([(torch.rand(16, 1, 28, 28), torch.arange(16) % 2, 0)], origin=0)
    assert mine.sample(5).x.shape == (5, 1, 28, 28)
    assert mine.bound(torch.rand(3, 1, 28, 28)).shape == (3,)
    assert not mine.conditional


def test_rows_that_do_not_fit_the_cache_are_read_anew_each_pass() -> None:
    x, y = images((0, 1), rows=90)
    small, large = Fresh(x, y), Fresh(x, y)
    mine = memory(steps=30, cache_bytes=1_000)
    mine.consolidate(large, origin=0)
    memory(steps=30).consolidate(small, origin=0)
    assert small.passes == 1
    assert large.passes > 10  # 30 steps of 32 rows of 90 each
    assert len(mine) == 90
    assert torch.bincount(mine.sample(10).y).tolist() == [5, 5]
    few = memory(steps=5)
    few.consolidate([(x[:3], y[:3], 0)], origin=0)  # fewer than a batch
    assert len(few) == 3


def equal(mine: Recall, theirs: Recall) -> bool:
    return all(torch.equal(getattr(mine, n), getattr(theirs, n)) for n in ("x", "y", "t", "origin"))


@pytest.mark.parametrize("classes", [None, 4])
@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy", "folder"])
def test_a_copy_goes_on_exactly(way: str, classes: int | None, tmp_path: Path) -> None:
    mine = trained(1, classes=classes, steps=20)
    mine.sample(3)
    if way == "state_dict":
        other = memory(classes, steps=20)
        other.load_state_dict(copy.deepcopy(mine.state_dict()))
    elif way == "folder":
        mine.save(tmp_path / "memory")
        other = memory(classes, steps=20).load(tmp_path / "memory")
    else:
        other = pickle.loads(pickle.dumps(mine)) if way == "pickle" else copy.deepcopy(mine)
    assert equal(mine.sample(9), other.sample(9))
    for m in (mine, other):
        m.consolidate(Fresh(*images((2, 3))), origin=1)
    assert equal(mine.sample(9), other.sample(9))
    assert len(other) == 192
    x, y = images((0, 3))
    assert torch.equal(mine.bound(x, y), other.bound(x, y))


def test_the_global_generators_and_autocast_leave_no_trace() -> None:
    mine = trained(2, steps=5)
    recall = mine.sample(10)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    mine.consolidate(Fresh(*images((0, 1))), origin=2)
    mine.sample(4)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():  # gradients off, as in evaluation
        assert equal(trained(2, steps=5).sample(10), recall)


def test_a_consolidation_that_fails_changes_nothing() -> None:
    mine = trained(1, steps=20)
    before, weights = copy.deepcopy(mine).sample(5), [p.clone() for p in mine.network.parameters()]

    def interrupted() -> Iterator[tuple[Tensor, Tensor, int]]:
        yield (*images((2, 3)), 0)
        raise KeyboardInterrupt

    x, y = images((2, 3))
    bad: list[tuple[Any, type[BaseException], str]] = [
        ([(x, y, 0), (x * float("nan"), y, 0)], ValueError, "x: expected finite values"),
        ([(*images((0, 1)), 0), (x * float("nan"), y, 0)], ValueError, "x: expected finite values"),
        ([(x, y, 0), (x + 3, y, 0)], ValueError, "x: .* pixels from 0 to 1"),
        ([(x, y - 3, 0)], ValueError, "y: expected integers from 0"),
        ([(x[..., :3], y, 0)], ValueError, r"x: expected rows of shape \(1, 4, 4\)"),
        ([(*images((2, 3, 4)), 0)], ValueError, "y: expected at most 4 classes, all that the network has, got 5"),
        ([], ValueError, "batches: expected the rows of an experience, got"),
        (interrupted(), KeyboardInterrupt, "^$"),
    ]
    for batches, error, message in bad:
        with pytest.raises(error, match=message):
            mine.consolidate(batches, origin=1)
    mine.lr = 1e30
    with pytest.raises(ValueError, match=r"lr: expected a rate at which the generator learns, got .*: it diverged"):
        mine.consolidate([(x, y, 0)], origin=1)
    assert all(torch.equal(p, q) for p, q in zip(mine.network.parameters(), weights, strict=True))
    assert (len(mine), mine.consolidations, mine.classes) == (96, 1, [0, 1])
    assert equal(mine.sample(5), before)


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    mine, other = trained(1, steps=5), trained(1, steps=5, classes=None)
    before = copy.deepcopy(mine).sample(5)
    other.save(tmp_path / "memory")
    for action in (lambda: mine.load_state_dict(other.state_dict()), lambda: mine.load(tmp_path / "memory")):
        with pytest.raises(ValueError, match="expected that of ConditionalVAE"):
            action()
    assert equal(mine.sample(5), before)


@pytest.mark.parametrize("conditional", [True, False])
def test_bytes_and_budget(conditional: bool) -> None:
    mine = VAEMemory.from_budget(
        60_000,
        shape=(1, 4, 4),
        classes=4,
        conditional=conditional,
        code_size=4,
        steps=2,
        batch_size=8,
        mean=MEAN,
        std=STD,
    )
    mine.consolidate([(*images((0, 1, 2, 3)), 0)], origin=0)
    weights = sum(p.numel() for p in mine.network.parameters())
    assert mine.nbytes == 4 * weights + 4 * (4 * (4 + 10) + 2 * 32)
    wider = 2 * (2 * 16 + 4 * 64 + 4 * 64) * 4  # more than one unit more in each of four layers takes
    assert 60_000 - wider < mine.nbytes <= 60_000
    with pytest.raises(ValueError, match=r"nbytes: expected at least the .* bytes that layers of one unit take, got"):
        VAEMemory.from_budget(100, shape=(1, 4, 4), classes=4)


def test_bad_arguments() -> None:
    for options, message in [
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
        ({"replay": 1.0}, "replay: expected a weight 0 <= w < 1"),
        ({"prior": "fit"}, "prior: expected one of 'fitted', 'standard', got 'fit'"),
        ({"lr": 0.0}, "lr: expected a number > 0"),
        ({"std": 0.0}, "std: expected a finite number > 0, or one a channel, got"),
    ]:
        with pytest.raises(ValueError, match=message):
            memory(**options)
    with pytest.raises(TypeError, match="network: expected a VAE, got"):
        VAEMemory(torch.nn.Linear(2, 2))
    parts = {"posterior": None, "decode": None, "bound": None, "code_size": 2}
    with pytest.raises(TypeError, match=r"network: expected a VAE that is an nn.Module, got SimpleNamespace"):
        VAEMemory(SimpleNamespace(**parts))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="network: expected an instance, got the class ConditionalVAE"):
        VAEMemory(ConditionalVAE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n: nothing has been written"):
        memory().sample(3)
    mine = trained(1, steps=2)
    x, y = images((0, 1))
    with pytest.raises(ValueError, match="y: expected the classes of the rows, as the network is conditional"):
        mine.bound(x)
    with pytest.raises(ValueError, match=r"y: expected classes that were written, got \[2\]"):
        mine.bound(x, y + 1)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        mine.sample(0)
