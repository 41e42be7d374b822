"""Kanerva memories against the posterior in NumPy, and as memories among memories."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avalanche_memplugins.functional import unpack_triangle
from avalanche_memplugins.memories import DynamicKanervaMemory, KanervaMemory
from avalanche_memplugins.memories._kanerva import KanervaBase
from avalanche_memplugins.memories._kanerva_posteriors import Written
from avalanche_memplugins.networks import DynamicKanervaMachine, KanervaMachine

WIDTH, NOISE = 6, 0.1


def stream(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of three classes, labels 5, 6, 7, each around its own mean and along two directions of its own."""
    g = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    means, turns = 2 * torch.randn(3, WIDTH, generator=fixed), torch.randn(3, 2, WIDTH, generator=fixed)
    y = torch.randint(3, (rows,), generator=g)
    along = torch.einsum("nk,nkc->nc", torch.randn(rows, 2, generator=g), turns[y])
    return means[y] + along + 0.05 * torch.randn(rows, WIDTH, generator=g), y + 5


def images(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(rows, 1, 28, 28, generator=g), torch.arange(rows) % 3 + 5


def kanerva(**options: Any) -> KanervaMemory:
    torch.manual_seed(0)
    return KanervaMemory(KanervaMachine(code_size=WIDTH, rows=4, width=4), **options)


def fed(memory: KanervaBase, rows: int = 300, *, step: int = 45, seed: int = 0) -> list[Written]:
    x, y = images(rows, seed) if isinstance(memory, KanervaMemory) else stream(rows, seed)
    receipts = [memory.write_items(a, b, 1) for a, b in zip(x.split(step), y.split(step), strict=True)]
    return [receipt for receipt in receipts if receipt is not None]


def joined(receipts: list[Written], slot: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Addresses and codes of all items of a posterior; labels that were not known yet stand at zero."""
    address = torch.cat([r.address[r.slot == slot] for r in receipts])
    pad = torch.nn.functional.pad
    code = torch.cat([pad(r.code[r.slot == slot], (0, width - r.code.shape[1])) for r in receipts])
    return address.numpy(), code.numpy()


@pytest.mark.parametrize("share", ["class", "all"])
@pytest.mark.parametrize("kind", ["dynamic", "amortised"])
def test_state_is_the_posterior_of_everything_written(kind: str, share: Any) -> None:
    memory = DynamicKanervaMemory(rows=4, share=share, seed=3) if kind == "dynamic" else kanerva(share=share)
    if share == "all":  # a class that comes late must find its label's column as if it had been there all along
        x, y = images(60) if kind == "amortised" else stream(60)
        late = (y == 6).nonzero().flatten()
        early = (y != 6).nonzero().flatten()
        receipts = [memory.write_items(x[i], y[i]) for i in (early, late)]
        prior = torch.cat([memory._prior_mean(WIDTH), memory._label_prior(3)], 1)
    else:
        receipts = fed(memory)
        prior = memory._prior_mean(WIDTH)
    r0 = prior.double().numpy()
    for slot in range(len(memory.mean)):
        address, code = joined([r for r in receipts if r is not None], slot, memory.mean.shape[-1])
        precision = np.eye(4) / memory.prior_var
        cov = np.linalg.inv(precision + address.T @ address / memory.noise_var)
        mean = cov @ (precision @ r0 + address.T @ code / memory.noise_var)
        np.testing.assert_allclose(memory.mean[slot].numpy(), mean, atol=2e-4)
        np.testing.assert_allclose(unpack_triangle(memory.row_cov[slot], 4).numpy(), cov, atol=1e-5)


def test_addresses_to_draw_from_are_fitted_to_those_written_without_a_second_pass() -> None:
    memory = DynamicKanervaMemory(rows=4)
    receipts = fed(memory)
    means, factors = memory._address_statistics()
    for slot in range(3):
        address, _ = joined(receipts, slot, WIDTH)
        np.testing.assert_allclose(means[slot].numpy(), address.mean(0), atol=1e-4)
        want = np.cov(address.T, bias=True)
        np.testing.assert_allclose((factors[slot].T @ factors[slot]).numpy(), want, atol=2e-3 * want.max())


def test_what_is_replayed_has_the_moments_of_what_was_written() -> None:
    memory = DynamicKanervaMemory(rows=5)
    fed(memory, 3000, step=100)
    x, y = stream(3000)
    recall = memory.sample(9000)
    for label in (5, 6, 7):
        real, drawn = x[y == label], recall.x[recall.y == label]
        assert len(drawn) == 3000
        scale = real.std(0).max()
        torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=0.1 * float(scale), rtol=0)
        gap = (drawn.T.cov() - real.T.cov()).norm() / real.T.cov().norm()
        assert float(gap) < 0.15


def test_a_shared_memory_replays_each_classs_mean_and_about_its_spread() -> None:
    memory = DynamicKanervaMemory(rows=WIDTH + 3, share="all")
    fed(memory, 3000, step=100)
    x, y = stream(3000)
    recall = memory.sample(9000)
    for label in (5, 6, 7):
        drawn = recall.x[recall.y == label]
        torch.testing.assert_close(drawn.mean(0), x[y == label].mean(0), atol=0.25, rtol=0)
        own = x[y == label].var(0).sum()
        assert abs(float(drawn.var(0).sum() / own) - 1) < 0.25


def test_the_models_own_prior_is_another_distribution() -> None:
    fitted, prior = DynamicKanervaMemory(rows=5, seed=0), DynamicKanervaMemory(rows=5, address="prior", seed=0)
    for memory in (fitted, prior):
        fed(memory, 600)
    assert torch.equal(fitted.mean, prior.mean)
    x, y = stream(600)
    means = [m.sample(3000) for m in (fitted, prior)]
    off = [float((r.x[r.y == 5].mean(0) - x[y == 5].mean(0)).norm()) for r in means]
    assert off[0] < 0.3 < 1 < off[1]


def test_the_models_own_prior_is_as_wide_as_told() -> None:
    memory = DynamicKanervaMemory(rows=3, address="prior", address_std=0.5)
    fed(memory, 60)
    recall = memory.sample(12_000)
    drawn = recall.x[recall.y == memory.classes[0]].double().numpy()
    mean = memory.mean[0].double().numpy()
    np.testing.assert_allclose(np.cov(drawn.T), 0.25 * mean.T @ mean, atol=0.06 * float((mean.T @ mean).max() / 4))


@pytest.mark.parametrize("share", ["class", "all"])
def test_items_taken_out_leave_the_memory_as_without_them(share: Any) -> None:
    memory = DynamicKanervaMemory(rows=4, share=share, seed=0)
    x, y = stream(120)
    memory.write(x[:60], y[:60])
    receipt = memory.write_items(x[60:90], y[60:90])
    twin = copy.deepcopy(memory)
    later = memory.write_items(x[90:], y[90:])
    assert receipt is not None
    assert later is not None
    memory.unwrite(receipt)
    twin.unwrite(receipt)
    kept = DynamicKanervaMemory(rows=4, share=share, seed=0)
    kept.write(x[:60], y[:60])
    torch.testing.assert_close(twin.mean, kept.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twin.row_cov, kept.row_cov, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(twin.by_class, kept.by_class, atol=1e-3, rtol=1e-3)
    assert len(memory) == 90
    assert twin.summary().per_class == kept.summary().per_class
    # What was written later is still there: taking that out as well gives the same.
    memory.unwrite(later)
    torch.testing.assert_close(memory.mean, kept.mean, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("share", ["class", "all"])
def test_a_kanerva_memory_forgets_from_the_image_alone(share: Any) -> None:
    memory = kanerva(share=share)
    x, y = images(60)
    memory.write(x[:30], y[:30])
    mean, row_cov = memory.mean.clone(), memory.row_cov.clone()
    memory.write(x[30:], y[30:])
    assert float((memory.mean - mean).abs().max()) > 1e-3
    memory.unwrite_rows(x[30:], y[30:])
    torch.testing.assert_close(memory.mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(memory.row_cov, row_cov, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"y: expected classes that were written, got \[9\]"):
        memory.unwrite_rows(x[:1], torch.tensor([9]))


@pytest.mark.parametrize("balance", ["class", "count"])
@pytest.mark.parametrize("share", ["class", "all"])
@pytest.mark.parametrize("kind", ["dynamic", "amortised"])
def test_a_class_whose_items_are_all_taken_out_is_not_replayed(kind: str, share: Any, balance: Any) -> None:
    options: dict[str, Any] = {"share": share, "balance": balance, "seed": 4}
    memory = DynamicKanervaMemory(rows=4, **options) if kind == "dynamic" else kanerva(**options)
    x, y = stream(60) if kind == "dynamic" else images(60)
    receipts = [memory.write_items(x[y == label], y[y == label]) for label in (5, 6, 7)]
    assert receipts[1] is not None
    memory.unwrite(receipts[1])
    held = {label: int((y == label).sum()) for label in (5, 7)}
    recall = memory.sample(40)
    assert bool(recall.x.isfinite().all())
    drawn = {label: int((recall.y == label).sum()) for label in (5, 6, 7)}
    assert drawn[6] == 0
    if balance == "class":
        assert drawn[5] == drawn[7] == 20
    elif kind == "dynamic":
        assert abs(drawn[5] - 40 * held[5] / (held[5] + held[7])) < 12
    if share == "class":  # posteriors do not know of each other: as if the class had never come
        without = DynamicKanervaMemory(rows=4, **options) if kind == "dynamic" else kanerva(**options)
        for label in held:
            without.write(x[y == label], y[y == label])
        want = without.sample(40)
        assert torch.equal(recall.y, want.y)
        assert torch.equal(recall.x, want.x)


@pytest.mark.parametrize("balance", ["class", "count"])
@pytest.mark.parametrize("share", ["class", "all"])
def test_a_memory_from_which_all_is_taken_out_is_empty_and_may_be_written_again(share: Any, balance: Any) -> None:
    memory = DynamicKanervaMemory(rows=4, share=share, balance=balance)
    receipts = fed(memory, 60)
    for receipt in receipts:
        memory.unwrite(receipt)
    assert len(memory) == 0
    prior = memory._prior_mean(WIDTH)
    prior = torch.cat([prior, memory._label_prior(3)], 1) if share == "all" else prior
    assert torch.equal(memory.mean, prior.expand_as(memory.mean))
    assert torch.equal(unpack_triangle(memory.row_cov, 4), torch.eye(4).expand(len(memory.mean), -1, -1))
    assert not any(sums.any() for sums in (memory.address_sum, memory.residual, memory.by_class))
    with pytest.raises(ValueError, match="nothing has been written"):
        memory.sample(3)
    with pytest.raises(ValueError, match="nothing has been written"):
        memory.read(torch.zeros(1, WIDTH))
    x, y = stream(60, seed=8)
    memory.write(x[y == 6], y[y == 6])
    recall = memory.sample(30)
    assert recall.y.tolist() == [6] * 30
    assert bool(recall.x.isfinite().all())


@pytest.mark.parametrize("share", ["class", "all"])
def test_some_of_the_items_are_taken_out(share: Any) -> None:
    memory, kept = (DynamicKanervaMemory(rows=4, share=share, seed=0) for _ in range(2))
    x, y = stream(60)
    for each in (memory, kept):
        each.write(x[:40], y[:40])
    receipt = memory.write_items(x[40:], y[40:])
    assert receipt is not None
    memory.unwrite(receipt.rows(torch.arange(5, 12)))
    memory.unwrite(receipt.rows(torch.arange(20) < 5))
    memory.unwrite(receipt.rows(torch.arange(12, 20)))
    torch.testing.assert_close(memory.mean, kept.mean, atol=1e-3, rtol=1e-3)
    assert memory.summary().per_class == kept.summary().per_class
    with pytest.raises(TypeError, match=r"written: expected a receipt of write_items or its rows\(index\), got"):
        memory.unwrite(receipt[:2])  # type: ignore[arg-type]


@pytest.mark.parametrize("share", ["class", "all"])
def test_items_that_are_not_there_cannot_be_taken_out(share: Any) -> None:
    memory = kanerva(share=share)
    x, y = images(30)
    receipt = memory.write_items(x, y)
    assert receipt is not None
    memory.unwrite(receipt)
    mean = memory.mean.clone()
    message = "written: expected items that this memory holds; of class 5 it holds 0, got 10 to take out"
    with pytest.raises(ValueError, match="written: expected items not taken out before, each once; got 30 of 30 again"):
        memory.unwrite(receipt)
    with pytest.raises(ValueError, match=message):
        memory.unwrite_rows(x, y)
    assert len(memory) == 0
    assert torch.equal(memory.mean, mean)


@pytest.mark.parametrize("share", ["class", "all"])
def test_an_item_is_taken_out_once_though_others_of_its_class_are_held(share: Any) -> None:
    memory = DynamicKanervaMemory(rows=4, share=share)
    fed(memory, 90)
    x, y = stream(30, seed=7)
    receipt = memory.write_items(x, y)
    assert receipt is not None
    twin, state = copy.deepcopy(memory), copy.deepcopy(memory.state_dict())
    memory.unwrite(receipt.rows(torch.arange(10)))
    before = copy.deepcopy(memory.state_dict())
    for again, many in (
        (receipt, "10 of 30"),
        (receipt.rows(torch.arange(8, 12)), "2 of 4"),
        (receipt.rows(torch.tensor([20, 20])), "1 of 2"),
    ):
        with pytest.raises(
            ValueError, match=f"written: expected items not taken out before, each once; got {many} again"
        ):
            memory.unwrite(again)
    after = memory.state_dict()
    assert torch.equal(after["mean"], before["mean"])
    assert torch.equal(after["row_cov"], before["row_cov"])
    assert len(memory) == 110
    memory.unwrite(receipt.rows(torch.arange(10, 30)))
    # A copy holds them still, and so does the memory when it goes back to before.
    twin.unwrite(receipt)
    memory.load_state_dict(state)
    memory.unwrite(pickle.loads(pickle.dumps(receipt)))
    memory.load_state_dict(state)
    memory.unwrite(receipt)
    torch.testing.assert_close(memory.mean, twin.mean)


def test_a_read_pulls_a_distorted_row_to_what_was_written() -> None:
    memory = DynamicKanervaMemory(rows=4)
    fed(memory, 600)
    x, y = stream(200, seed=5)
    cue = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    before = (cue - x).square().sum(1).mean()
    after = (memory.read(cue, y=y) - x).square().sum(1).mean()
    assert float(after) < 0.75 * float(before)
    assert (
        float((memory._nearest_slot(x).cpu() == torch.tensor([memory.classes.index(c) for c in y])).float().mean())
        > 0.9
    )


def test_generation_follows_the_address() -> None:
    memory = DynamicKanervaMemory(rows=WIDTH)
    fed(memory, 600)
    x, y = stream(4)
    slot = memory.classes.index(int(y[0]))
    there = memory.generate(memory.weights(x[:1], y=y[:1]), slot=slot)
    torch.testing.assert_close(there, x[:1], atol=0.2, rtol=0.1)
    with pytest.raises(ValueError, match=r"weights: expected \(B, 6\), got \(1, 5\)"):
        memory.generate(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="slot: expected 0 to 2, got 3"):
        memory.generate(torch.zeros(1, 6), slot=3)


def test_a_machines_memory_reads_as_the_machine_does() -> None:
    torch.manual_seed(1)
    machine = DynamicKanervaMachine(code_size=8, rows=4, width=4).eval()
    memory = DynamicKanervaMemory.from_machine(machine, share="all", label_scale=1e-6)
    x, y = images(20)
    memory.write(x, torch.zeros_like(y))
    with torch.no_grad():
        code = machine.encode(x)
        mean, _ = machine.write(code)
        want = torch.sigmoid(machine.read(mean[None], x[None], steps=2)[-1][0])
    torch.testing.assert_close(memory.read(x, steps=2), want, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("share", ["class", "all"])
@pytest.mark.parametrize("kind", ["dynamic", "amortised"])
def test_goes_on_exactly_from_its_state(kind: str, share: Any, tmp_path: Path) -> None:
    def make() -> KanervaBase:
        return DynamicKanervaMemory(rows=4, share=share) if kind == "dynamic" else kanerva(share=share)

    memory = make()
    fed(memory)
    memory.sample(5)
    loaded = make()
    loaded.load_state_dict(memory.state_dict())
    memory.save(tmp_path / "memory")
    others = [loaded, make().load(tmp_path / "memory"), copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))]
    fed(memory, 40, seed=2)
    want = memory.sample(50)
    for other in others:
        fed(other, 40, seed=2)
        got = other.sample(50)
        assert torch.equal(got.x, want.x)
        assert torch.equal(got.y, want.y)


def test_bytes_are_those_of_its_tensors_and_a_budget_is_kept() -> None:
    memory = DynamicKanervaMemory.from_budget(20_000, classes=3, shape=(WIDTH * 10,))
    x = torch.randn(90, WIDTH * 10)
    memory.write(x, torch.arange(90) % 3)
    k, c = memory.rows, WIDTH * 10
    assert memory.nbytes == 3 * (4 * (k * c + k * (k + 1) // 2 + k + c) + 32)
    assert memory.nbytes <= 20_000 < memory.nbytes + 3 * 4 * (c + k + 2)
    shared = DynamicKanervaMemory.from_budget(5_000, classes=3, shape=(WIDTH * 10,), share="all")
    shared.write(x, torch.arange(90) % 3)
    assert shared.nbytes <= 5_000
    with pytest.raises(ValueError, match="nbytes: expected at least the 264 bytes that one memory row takes, got"):
        DynamicKanervaMemory.from_budget(100, classes=3, shape=(WIDTH,))


def test_a_class_may_come_with_one_row_and_the_global_generator_is_left_alone() -> None:
    memory = DynamicKanervaMemory(rows=4)
    state = torch.get_rng_state()
    memory.write(torch.ones(1, WIDTH), torch.tensor([2]), 7, origin=4)
    recall = memory.sample(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert recall.y.tolist() == [2, 2, 2]
    assert recall.t.tolist() == [7, 7, 7]
    assert recall.origin.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows: expected an integer >= 1, got 0"),
        ({"noise_var": 0.0}, "noise_var: expected a number > 0, got"),
        ({"address_std": -1.0}, "address_std: expected a number > 0, got"),
        ({"share": "none"}, "share: expected one of 'class', 'all', got 'none'"),
        ({"address": "best"}, "address: expected one of 'fitted', 'prior', got 'best'"),
        ({"read_steps": -1}, "read_steps: expected an integer >= 0, got -1"),
        ({"prior": torch.zeros(16, 4)}, r"prior: expected finite numbers \(16, C\), not all of them zero, got"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicKanervaMemory(**options)


def test_a_failed_write_changes_nothing() -> None:
    memory = DynamicKanervaMemory(rows=4)
    fed(memory)
    before = {k: v.clone() if isinstance(v, Tensor) else v for k, v in memory.state_dict().items()}
    for x, message in (
        (torch.zeros(2, WIDTH + 1), "x: expected rows of shape"),
        (torch.full((2, WIDTH), torch.nan), "x: expected finite"),
    ):
        with pytest.raises(ValueError, match=message):
            memory.write(x, torch.tensor([5, 8]))
    assert memory.classes == sorted(memory.classes, key=memory.classes.index)
    assert 8 not in memory.classes
    assert torch.equal(before["mean"], memory.mean)
    misfit = DynamicKanervaMemory(rows=4, prior=torch.ones(4, WIDTH))
    with pytest.raises(ValueError, match=r"prior: expected \(4, 7\), got \(4, 6\)"):
        misfit.write(torch.zeros(2, WIDTH + 1), torch.tensor([5, 8]))
    assert (len(misfit), misfit.classes) == (0, [])
    fed(misfit, 20)
    empty = DynamicKanervaMemory(rows=4)
    with pytest.raises(ValueError, match="nothing has been written"):
        empty.sample(1)
    with pytest.raises(ValueError, match="nothing has been written"):
        empty.read(torch.zeros(1, WIDTH))


def test_a_state_of_another_memory_is_refused() -> None:
    memory = DynamicKanervaMemory(rows=4)
    fed(memory)
    with pytest.raises(ValueError, match="expected that of"):
        DynamicKanervaMemory(rows=4, noise_var=0.2).load_state_dict(memory.state_dict())
