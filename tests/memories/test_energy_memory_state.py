"""EnergyMemory: bytes by hand, that a run goes on exactly, and arguments that are named."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _energy_bank import FLOATS, batches, memory, rows, same, snapshot, tiny
from torch import Tensor, nn

from avalanche_memplugins.codecs.plain import Float16
from avalanche_memplugins.memories import EnergyMemory

# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("precision", "weights"), [("float32", 4 * FLOATS), ("float16", 2 * FLOATS), ("int8", FLOATS + 8)]
)
@pytest.mark.parametrize(("cue", "code"), [(None, 0), (2, 4), (Float16(), 32)])
def test_bytes_by_hand(precision: Any, weights: int, cue: Any, code: int) -> None:
    mine = memory(precision=precision, cue=cue)
    assert mine.nbytes == 0
    mine.write(*rows(10))
    slot = weights + 4 * code + 4 * 1 + 2 * 8
    assert mine.nbytes == 3 * slot + 3 * 4 * 8
    fixed = sum(value.numel() for value in mine.network.parameters()) * 4
    assert mine.nbytes_fixed == mine.summary().nbytes_fixed == fixed
    assert mine.summary().nbytes == mine.nbytes


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("cue", [None, 2, Float16()])
def test_a_budget_is_never_exceeded_and_never_wasted(precision: Any, cue: Any) -> None:
    network = tiny()
    x, y = rows(120)
    for nbytes in (700, 1500, 1501, 2222):
        mine = EnergyMemory.from_budget(
            nbytes, network, shape=(1, 4, 4), classes=3, slot_size=4, precision=precision, cue=cue
        )
        mine.write(x, y)
        assert mine.filled == mine.slots
        slot = (mine.nbytes - 3 * 32) // mine.slots
        assert mine.nbytes <= nbytes < mine.nbytes + slot
    exact = EnergyMemory.from_budget(
        mine.nbytes, network, shape=(1, 4, 4), classes=3, slot_size=4, precision=precision, cue=cue
    )
    assert exact.slots == mine.slots
    with pytest.raises(ValueError, match=r"nbytes: expected at least .* for a slot and 96 for classes, got"):
        EnergyMemory.from_budget(120, network, shape=(1, 4, 4), classes=3)
    with pytest.raises(ValueError, match="classes"):
        EnergyMemory.from_budget(9999, network, shape=(1, 4, 4), classes=0)


def test_stored_weights_are_off_by_half_a_step_at_most() -> None:
    stored = {precision: memory(precision=precision) for precision in ("float32", "float16", "int8")}
    for mine in stored.values():
        mine.write(*rows(16))
    slots = torch.arange(4)
    exact = stored["float32"].weights(slots)
    for i, (weight, initial) in enumerate(zip(exact, stored["float32"].network.initial, strict=True)):
        delta = weight - initial
        largest = delta.abs().flatten(1).amax(1).view(-1, *[1] * (delta.ndim - 1))
        coarse = (stored["int8"].weights(slots)[i] - weight).abs()
        assert bool((coarse <= largest / 254 * 1.001 + 1e-7).all())
        assert float(coarse.max()) > 0
        half = (stored["float16"].weights(slots)[i] - weight).abs()
        assert bool((half <= delta.abs() * 2**-11 * 1.001 + 3e-7).all())


def test_nothing_written_is_nothing_stored_and_too_much_is_cut_off() -> None:
    for precision in ("float16", "int8"):
        mine = memory(tiny(write_steps=0), precision=precision)
        mine.write(*rows(4))
        for got, initial in zip(mine.weights(torch.tensor([0])), mine.network.initial, strict=True):
            assert torch.equal(got, initial)
    network = tiny()
    with torch.no_grad():
        network.write_rates.fill_(1e6)
    mine, exact = memory(copy.deepcopy(network), precision="float16"), memory(network)
    for each in (mine, exact):
        each.write(*rows(4))
    assert max(float(weight.abs().max()) for weight in exact.weights(torch.tensor([0]))) > 65504
    assert bool(mine.read(rows(4)[0]).isfinite().all())


# ---------------------------------------------------------------- state


def by_state_dict(mine: EnergyMemory, make: Callable[[], EnergyMemory], folder: Path) -> EnergyMemory:
    again = make()
    again.load_state_dict(copy.deepcopy(mine.state_dict()))
    return again


def by_folder(mine: EnergyMemory, make: Callable[[], EnergyMemory], folder: Path) -> EnergyMemory:
    mine.save(folder)
    return make().load(folder)


WAYS: dict[str, Callable[..., EnergyMemory]] = {
    "state_dict": by_state_dict,
    "folder": by_folder,
    "pickle": lambda mine, make, folder: pickle.loads(pickle.dumps(mine)),
    "deepcopy": lambda mine, make, folder: copy.deepcopy(mine),
}


KINDS: dict[str, dict[str, Any]] = {
    "int8, thumbnails, hot": {"precision": "int8", "cue": 2, "temperature": 0.01},
    "float16, noise": {"precision": "float16", "by_class": True},
    "float16 cues": {"cue": Float16(), "slot_size": 3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_restored_memory_goes_on_bit_for_bit(way: str, kind: str, tmp_path: Path) -> None:
    def make() -> EnergyMemory:
        return memory(**KINDS[kind])

    def go_on(each: EnergyMemory) -> list[Tensor]:
        each.write(*rows(20, seed=1), 1, origin=4)
        each.consolidate(batches(classes=(3, 1)), origin=5)
        recall = each.sample(9)
        return [*recall[:4], each.novelty(rows(3)[0]), each.labels, each.origins, torch.tensor(each.offered)]

    mine = make()
    for stage in range(2):  # empty, then full
        again = WAYS[way](mine, make, tmp_path / str(stage))
        untouched = snapshot(mine)
        got = go_on(again)
        assert same(snapshot(mine), untouched)
        assert all(torch.equal(a, b) for a, b in zip(got, go_on(mine), strict=True))
        assert same(snapshot(mine), snapshot(again))
        assert (mine.nbytes, len(mine), repr(mine)) == (again.nbytes, len(again), repr(again))


@pytest.mark.parametrize("way", ["state_dict", "folder"])
def test_the_state_of_another_memory_is_refused(way: str, tmp_path: Path) -> None:
    mine = memory(cue=2)
    mine.write(*rows(8))
    for number, other in enumerate(
        (lambda: memory(tiny(seed=1), cue=2), lambda: memory(cue=3), lambda: memory(cue=2, slots=5))
    ):
        target = other()
        target.write(*rows(4, seed=9))
        before = snapshot(target)
        with pytest.raises(ValueError, match="expected that of EnergyMemory"):
            WAYS[way](mine, lambda target=target: target, tmp_path / str(number))  # type: ignore[misc]
        assert same(snapshot(target), before)


def test_a_memory_is_where_its_buffers_are() -> None:
    mine = memory()
    mine.write(*rows(4))
    assert mine.device == mine.sample(2).x.device == torch.device("cpu")
    assert mine.to("meta").device.type == "meta"


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": nn.Linear(2, 2)}, TypeError, "network: expected an EnergyNetwork, got Linear"),
        ({"slots": 0}, ValueError, "slots: expected an integer >= 1, got 0"),
        ({"slot_size": True}, ValueError, "slot_size: expected an integer >= 1, got True"),
        ({"precision": "float8"}, ValueError, "precision: expected one of .*float16"),
        ({"label_bits": 16}, ValueError, "label_bits: expected 0 to 15, got 16"),
        ({"label_bits": 2.5}, ValueError, "label_bits: expected an integer >= 0, got"),
        ({"temperature": -0.1}, ValueError, "temperature: expected a number >= 0, got -0.1"),
        ({"write_steps": 0}, ValueError, "write_steps: expected an integer >= 1, got 0"),
        ({"read_steps": 1.5}, ValueError, "read_steps: expected an integer >= 1, got 1.5"),
        ({"cue": 0}, ValueError, "cue: expected an integer >= 1, got"),
        ({"cue": True}, ValueError, "cue: expected an integer >= 1, got"),
        ({"std": 0.0}, ValueError, "std: expected a finite number > 0, or one a channel, got"),
        ({"codec": Float16()}, TypeError, "codec: expected a learned codec"),
    ],
)
def test_arguments_of_the_memory_are_named(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        memory(**options)
