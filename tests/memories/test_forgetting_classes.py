"""Classes forgotten by memories that keep a model of each class: as if they had never been written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _energy_bank import memory as energy
from torch import Tensor

from avalanche_memplugins import GaussianMemory, MixedMemory, RandomMemory, VAEMemory
from avalanche_memplugins.memories import DynamicKanervaMemory, KanervaMemory, RandomProjectionMemory
from avalanche_memplugins.networks import ConditionalVAE, KanervaMachine

N = 240
GENERATOR = torch.Generator().manual_seed(0)
Y = torch.randint(5, (N,), generator=GENERATOR)
X = (torch.rand(N, 1, 4, 4, generator=GENERATOR) + Y[:, None, None, None]) / 6
ORIGIN = torch.arange(N) // 80
IMAGES = torch.rand(N, 1, 28, 28, generator=GENERATOR)


def kanerva(**options: Any) -> KanervaMemory:
    torch.manual_seed(0)
    return KanervaMemory(KanervaMachine(code_size=4, rows=3, width=4), seed=0, **options)


EXACT: dict[str, Callable[[], Any]] = {
    "rank": lambda: GaussianMemory(rank=3, seed=0),
    "whole": lambda: GaussianMemory(rank=None, seed=0),
    "diagonal": lambda: GaussianMemory(rank=0, seed=0),
    "means": lambda: GaussianMemory(rank=0, tied="unit", seed=0),
    "by experience": lambda: GaussianMemory(rank=2, by="experience", seed=0),
    "packed, open": lambda: GaussianMemory(rank=None, precision=8, seed=0),
    "dynamic Kanerva": lambda: DynamicKanervaMemory(rows=3, seed=0),
    "Kanerva": kanerva,
    "energy": lambda: energy(slots=200, by_class=True),
}


def write(memory: Any, rows: Tensor, origins: Tensor = ORIGIN, *, by_class: bool = False) -> None:
    x = IMAGES if isinstance(memory, KanervaMemory) else X
    for batch in torch.arange(N).split(20):
        for some in [batch[Y[batch] == label] for label in range(5)] if by_class else [batch]:
            some = some[rows[some]]
            if len(some):
                memory.write(x[some], Y[some], origins[some], origin=origins[some])


def state(memory: Any) -> dict[str, Any]:
    own = memory.get_extra_state()
    return {"tensors": memory._own_tensors(), **{name: own[name] for name in own if name != "generator"}}


def products(found: dict[str, Any]) -> dict[str, Any]:
    """A state with F'F for the factors F of low rank, whose signs and turns are arbitrary."""
    spread = found["tensors"].get("spread")
    if spread is None or spread.ndim != 3:
        return found
    return {**found, "tensors": {**found["tensors"], "spread": spread.mT @ spread}}


def assert_same(found: Any, wanted: Any, **tolerance: float) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert_same(found[name], wanted[name], **tolerance)
    elif isinstance(wanted, Tensor):
        torch.testing.assert_close(found, wanted, **tolerance)
    else:
        assert found == wanted


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("gone", [[1, 4], [0, 1, 2, 3, 4], [77]])
def test_it_is_a_memory_that_never_saw_the_classes(name: str, gone: list[int], tmp_path: Path) -> None:
    """Bit for bit, where batches are of one class: how a batch is summed may depend on its other classes."""
    memory, never = EXACT[name](), EXACT[name]()
    stays = ~torch.isin(Y, torch.tensor(gone))
    origins = torch.zeros(N, dtype=torch.int64) if "open" in name else ORIGIN
    write(memory, Y >= 0, origins, by_class=True)
    write(never, stays, origins, by_class=True)
    assert memory.forget(classes=gone) == int((~stays).sum())
    assert_same(state(memory), state(never), atol=0.0, rtol=0.0)
    assert (len(memory), memory.nbytes, memory.nbytes_fixed) == (len(never), never.nbytes, never.nbytes_fixed)
    assert memory.summary().per_class == never.summary().per_class
    memory.save(tmp_path / "saved")
    assert_same(state(EXACT[name]().load(tmp_path / "saved")), state(memory), atol=0.0, rtol=0.0)
    for each in (memory, never):  # forgotten classes may come back
        write(each, Y >= 0, origins, by_class=True)
    assert_same(state(memory), state(never), atol=0.0, rtol=0.0)
    assert set(memory.sample(60).y.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", [name for name in EXACT if name != "energy"])
def test_of_mixed_batches_no_more_stays_than_rounding(name: str) -> None:
    memory, never = EXACT[name](), EXACT[name]()
    origins = torch.zeros(N, dtype=torch.int64) if "open" in name else ORIGIN
    write(memory, Y >= 0, origins)
    write(never, (Y != 1) & (Y != 4), origins)
    memory.forget(classes=[1, 4])
    assert_same(products(state(memory)), products(state(never)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"rank": None}, {"rank": 3}, {"rank": 2, "by": "experience"}])
@pytest.mark.parametrize("open_too", [False, True])
def test_packed_gaussians_keep_no_scale_of_forgotten_classes(options: Any, open_too: bool, tmp_path: Path) -> None:
    """The scales of means are found anew: answers are those of a memory that never saw the class, up to 8 bits."""

    def make() -> GaussianMemory:
        return GaussianMemory(**options, precision=8, shrinkage=0.1, ridge=0.01, seed=0)

    memory, never = make(), make()
    far = X + 3 * (Y == 0)[:, None, None, None]
    for each, rows in ((memory, Y >= 0), (never, Y > 0)):
        for number in range(3):
            some = rows & (number == ORIGIN)
            each.write(far[some], Y[some], origin=number)
        if not open_too:
            each.settle()
    assert memory.packed is not None
    assert never.packed is not None
    gone = int((Y == 0).sum())
    assert memory.forget(classes=[0]) == gone
    assert (len(memory), memory.nbytes) == (N - gone, never.nbytes)
    assert float((memory.packed.centre.float() - never.packed.centre.float()).abs().max()) < 0.05  # of 0.6
    agree = (memory.predict(X[Y > 0]).argmax(1) == never.predict(X[Y > 0]).argmax(1)).float().mean()
    assert float(agree) > 0.95
    memory.save(tmp_path / "saved")
    twin = make().load(tmp_path / "saved")
    for each in (memory, twin):
        each.write(X, Y, origin=5)
        each.settle()
    assert torch.equal(memory.predict(X), twin.predict(X))


@pytest.mark.parametrize("settled", [False, True])
def test_mixtures_let_go_of_all_parts_of_a_class(settled: bool, tmp_path: Path) -> None:
    memory = GaussianMemory(rank=2, components=3, by="experience", shrinkage=0, ridge=0, seed=0)
    write(memory, Y >= 0)
    if settled:
        memory.settle()
    before = memory.predict(X)
    memory.forget(classes=[1])
    assert_same(memory.predict(X)[:, [0, 2, 3, 4]].softmax(1), before[:, [0, 2, 3, 4]].softmax(1))
    assert bool(memory.predict(X)[:, 1].isneginf().all())
    memory.save(tmp_path / "saved")
    twin = GaussianMemory(rank=2, components=3, by="experience", shrinkage=0, ridge=0, seed=0).load(tmp_path / "saved")
    for each in (memory, twin):
        each.settle()
        write(each, Y == 1)
        each.settle()
    assert torch.equal(memory.predict(X), twin.predict(X))


def test_a_receipt_of_another_class_is_still_good() -> None:
    memory, never = (DynamicKanervaMemory(rows=3, seed=0) for _ in range(2))
    receipts = {label: memory.write_items(X[label == Y], Y[label == Y]) for label in range(4)}
    for label in (1, 2):
        never.write(X[label == Y], Y[label == Y])
    memory.forget(classes=[0])
    assert receipts[3] is not None
    assert receipts[0] is not None
    memory.unwrite(receipts[3])
    assert_same(memory.mean[:2], never.mean, atol=0.0, rtol=0.0)
    assert memory.summary().per_class == {**never.summary().per_class, 3: 0}
    with pytest.raises(ValueError, match=r"written: expected items of classes that this memory holds, got some of \[0"):
        memory.unwrite(receipts[0])


def test_an_energy_memory_that_was_full_forgets_slots_offered_in_proportion(tmp_path: Path) -> None:
    memory = energy(slots=12, by_class=True)
    write(memory, Y >= 0)
    offered, held = memory.offered, memory.filled
    kept = memory.classes_held[memory.classes_held != 3]
    assert memory.forget(classes=[3]) > 0
    assert memory.classes_held.tolist() == kept.tolist()
    assert memory.offered == max(memory.filled, round(offered * memory.filled / held))
    memory.save(tmp_path / "saved")
    twin = energy(slots=12, by_class=True).load(tmp_path / "saved")
    assert torch.equal(memory.sample(8).x, twin.sample(8).x)


def test_both_parts_of_a_mixed_memory_forget_or_neither() -> None:
    def make(policy: Any = "reservoir") -> MixedMemory:
        return MixedMemory(RandomMemory(300, write_policy=policy, seed=0), GaussianMemory(rank=2, seed=0))

    memory, never = make(), make()
    write(memory, Y >= 0)
    write(never, Y != 2)
    assert memory.forget(classes=[2]) == int((Y == 2).sum())
    assert torch.equal(memory.predict(X), never.predict(X))
    assert torch.equal(memory.sample(20).x, never.sample(20).x)
    assert 2 not in memory.summary().per_class
    stubborn = make("herding")
    write(stubborn, Y >= 0)
    before = copy.deepcopy(stubborn.state_dict())
    with pytest.raises(ValueError, match="write_policy: expected one that can forget"):
        stubborn.forget(classes=[2])
    assert_same(dict(stubborn.state_dict()), dict(before), atol=0.0, rtol=0.0)


def vae() -> VAEMemory:
    return VAEMemory(ConditionalVAE((1, 4, 4), code_size=2, hidden=(4,)), steps=1, seed=0)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: GaussianMemory(rank=0, tied=True), {"classes": [1]}, "forget: .*a covariance that classes share"),
        (lambda: RandomProjectionMemory(width=4), {"classes": [1]}, "forget: .*a Gram matrix summed over all classes"),
        (lambda: DynamicKanervaMemory(rows=3, share="all"), {"classes": [1]}, "forget: .*one posterior for all"),
        (vae, {"classes": [1]}, "forget: .*got VAEMemory, .*make a new memory, and write the rows that are to stay"),
        (lambda: energy(), {"classes": [1]}, r"forget: .*slots of several classes \(by_class=False\)"),
        (GaussianMemory, {}, "forget: expected classes, got none"),
        (GaussianMemory, {"origins": [1]}, "origins: expected None, as GaussianMemory keeps no single rows"),
        (GaussianMemory, {"classes": 3}, "classes: expected a collection of integers"),
        (GaussianMemory, {"classes": [-1]}, "classes: expected"),
    ],
)
def test_what_cannot_be_forgotten_is_told_and_nothing_has_changed(make: Any, options: Any, message: str) -> None:
    memory = make()
    if isinstance(memory, VAEMemory):
        memory.consolidate([(X, Y, torch.zeros(N).long())], origin=0)
    else:
        write(memory, Y >= 0)
    before = copy.deepcopy(memory.state_dict())
    with pytest.raises((TypeError, ValueError), match=message):
        memory.forget(**options)
    assert_same(dict(memory.state_dict()), dict(before), atol=0.0, rtol=0.0)


def test_the_earlier_call_of_a_kanerva_memory_is_taken_with_a_warning() -> None:
    memory, other = kanerva(), kanerva()
    for each in (memory, other):
        each.write(IMAGES[:40], Y[:40])
    with pytest.warns(DeprecationWarning, match=r"forget\(x, y\) is now unwrite_rows"):
        assert memory.forget(IMAGES[:9], Y[:9]) == 9
    other.unwrite_rows(IMAGES[:9], Y[:9])
    assert torch.equal(memory.mean, other.mean)
    with pytest.raises(ValueError, match="forget: expected classes, or x and y"):
        memory.forget(IMAGES[:9])
