"""A memory whose codec learns from the stream: bytes, re-encoding, resume; the codec alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avalanche_memplugins import RandomMemory
from avalanche_memplugins.codecs import Codec, StreamCodec
from avalanche_memplugins.memories import LatentMemory
from avalanche_memplugins.networks import MLPVAE


class Tiny(nn.Module):
    """Rows of six pixels as two numbers."""

    code_size = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2))
        self.up = nn.Linear(2, 6)

    def encode(self, x: Tensor) -> Tensor:
        return self.down(x)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.up(z))


WEIGHTS = (6 * 8 + 8) + (8 * 2 + 2) + (2 * 6 + 6) + 2 * 2  # and the statistics of the codes


class Experience:
    """Batches of rows on a line between two corners, told apart by their class; another line for each experience."""

    def __init__(self, number: int, batches: int = 4, rows: int = 10) -> None:
        generator = torch.Generator().manual_seed(number)
        where = torch.rand(batches, rows, 1, generator=generator)
        ends = torch.randint(0, 2, (2, 6), generator=generator).float()
        self.x = ends[0] * where + ends[1] * (1 - where)
        self.number = number
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self.passes += 1
        for x in self.x:
            yield x, torch.full((len(x),), self.number), torch.zeros(len(x), dtype=torch.int64)


def make(capacity: int = 30, steps: int = 20, **options: Any) -> LatentMemory:
    codec = StreamCodec(Tiny(), **{"steps": steps, "lr": 0.02, "precision": "float32", **options.pop("codec", {})})
    return LatentMemory(capacity, codec=codec, **{"seed": 3, **options})


def test_it_learns_what_it_keeps_and_old_rows_survive_new_weights() -> None:
    memory = make(steps=300)
    first, second = Experience(1), Experience(2)
    memory.consolidate(first, origin=0)
    untrained = StreamCodec(Tiny(), precision="float32")
    x = first.x.flatten(0, 1)

    def error(codec: StreamCodec, rows: Tensor) -> float:
        return float((codec.decode(codec.encode(rows), rows.shape[1:], rows.dtype) - rows).square().mean())

    assert error(memory.codec, x) < 0.1 * error(untrained, x)
    weights = copy.deepcopy(memory.codec.state_dict())
    memory.consolidate(second, origin=1)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights.values(), memory.codec.state_dict().values(), strict=True)
        if isinstance(a, Tensor)
    )
    held = memory.rows(torch.arange(len(memory)))
    assert set(held.origin.tolist()) == {0, 1}
    assert torch.equal(held.y, held.origin + 1)
    ends = {number: Experience(number).x.flatten(0, 1) for number in (1, 2)}
    for number, rows in ends.items():
        mine = held.x[held.y == number]
        # Each row decoded lies near the line of its own experience.
        assert float(torch.cdist(mine, rows).min(1).values.square().mean()) / 6 < 0.02


def test_stored_codes_are_those_of_the_old_decoder_under_the_new_encoder() -> None:
    memory = make(20, write_policy="ring")
    memory.consolidate(Experience(1, batches=2), origin=0)
    old = copy.deepcopy(memory)
    memory.consolidate(Experience(2, batches=1), origin=1)  # ten of twenty slots are overwritten
    kept = memory.store["labels"][:, 2] == 0
    assert int(kept.sum()) == 10
    decoded = old.rows(torch.arange(20)).x
    assert torch.equal(memory.store["codes"][kept], memory.codec.encode(decoded)[kept])
    assert not torch.equal(memory.store["codes"][kept], old.store["codes"][kept])


def test_the_statistics_are_of_the_new_rows_and_of_those_held() -> None:
    memory = make(20, write_policy="ring")
    memory.consolidate(Experience(1, batches=2), origin=0)
    held = memory.rows(torch.arange(20)).x
    memory.consolidate(Experience(2, batches=2), origin=1)
    rows = torch.cat([held, *Experience(2, batches=2).x])
    z = memory.codec.to_latent(rows).numpy()
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)


def test_rows_offered_are_chosen_by_the_write_policy() -> None:
    memory, plain = make(25, write_policy="ring"), RandomMemory(25, write_policy="ring")
    for number in range(3):
        memory.consolidate(Experience(number), origin=number)
        for x, y, t in Experience(number):
            plain.write(x, y, t, origin=number)
    assert torch.equal(memory.store["labels"], plain.store["labels"])
    assert memory.seen == plain.seen == 120


@pytest.mark.parametrize(("precision", "row"), [("int8", 2 + 1), ("float16", 4 + 1), ("float32", 8 + 1)])
def test_the_weights_count_as_bytes_of_the_stream(precision: Any, row: int) -> None:
    options = {"codec": StreamCodec(Tiny(), precision=precision, steps=1), "labels": "uint8", "store_tasks": False}
    assert isinstance(options["codec"], Codec)
    for budget, capacity in ((4 * WEIGHTS + 30 * row, 30), (4 * WEIGHTS + 31 * row - 1, 30)):
        memory = LatentMemory.from_budget(budget, shape=(6,), **options)
        memory.consolidate(Experience(1), origin=0)
        assert memory.capacity == capacity
        assert (
            memory.nbytes == 4 * WEIGHTS + 30 * row == sum(t.nbytes for t in (*memory.parameters(), *memory.buffers()))
        )
        assert memory.nbytes_fixed == 0
    with pytest.raises(ValueError, match=f"the {row} bytes that one row takes, beside {4 * WEIGHTS} of the codec"):
        LatentMemory.from_budget(4 * WEIGHTS + row - 1, shape=(6,), **options)


@pytest.mark.parametrize("way", ["state_dict", "folder", "pickle", "deepcopy"])
@pytest.mark.parametrize("read", ["uniform", "cycle"])
def test_a_restored_memory_goes_on_exactly(way: str, read: str, tmp_path: Path) -> None:
    memory = make(read_policy=read)
    memory.consolidate(Experience(1), origin=0)
    memory.sample(7)
    if way == "state_dict":
        restored = make(read_policy=read)
        restored.load_state_dict(copy.deepcopy(memory.state_dict()))
    elif way == "folder":
        memory.save(tmp_path / "m")
        restored = make(read_policy=read).load(tmp_path / "m")  # type: ignore[assignment]
    else:
        restored = pickle.loads(pickle.dumps(memory)) if way == "pickle" else copy.deepcopy(memory)
    for m in (memory, restored):
        m.consolidate(Experience(2), origin=1)
    assert torch.equal(memory.sample(9).x, restored.sample(9).x)
    for a, b in zip(memory.codec.parameters(), restored.codec.parameters(), strict=True):
        assert torch.equal(a, b)
    assert restored.codec.fits == 2


def test_seeds_decide_and_the_global_generator_is_left_alone() -> None:
    memories = [make(seed=seed) for seed in (1, 1, 2)]
    state = torch.get_rng_state()
    for number, memory in enumerate(memories):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        memory.consolidate(Experience(1), origin=0)
        assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (memory.codec.autoencoder.up.weight for memory in memories)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)  # dropout's masks


def test_an_empty_experience_of_a_saved_memory(tmp_path: Path) -> None:
    make().save(tmp_path / "m")
    memory = make()
    memory.consolidate(Experience(1), origin=0)
    assert len(memory.load(tmp_path / "m")) == 0
    with pytest.raises(ValueError, match="x: expected a codec that has learned, got"):
        memory.write(torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64))


class Broken(Experience):
    """An experience whose last batch is not like the others, from a certain pass on."""

    def __init__(self, last: tuple[Any, ...], from_pass: int = 1) -> None:
        super().__init__(2)
        self.last, self.from_pass = last, from_pass

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        if self.passes >= self.from_pass:
            yield self.last


ROWS, LABELS = torch.zeros(3, 6), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            Broken((ROWS[:, :5], LABELS, 0)),
            r"x: expected torch\.float32 rows of shape \(6,\), as this memory holds, got",
        ),
        (Broken((ROWS - 1, LABELS, 0)), "x: the codec StreamCodec expected values from 0 to 1, got"),
        (Broken((ROWS + float("nan"), LABELS, 0)), "x: expected finite values"),
        (Broken((ROWS, LABELS[:2], 0)), "y: expected shape"),
        (Broken((ROWS, LABELS - 1, 0)), "y: expected integers"),
        (Broken((ROWS[:, :5], LABELS, 0), from_pass=2), "[Ss]izes of tensors"),  # in the midst of training
        ([], "expected the rows of an experience, got none"),
        (iter(Experience(2)), "got what is used up after once"),
    ],
)
def test_a_bad_batch_changes_nothing(batches: Any, message: str) -> None:
    memory, before = make(read_policy="cycle"), make(read_policy="cycle")
    for m in (memory, before):
        m.consolidate(Experience(1), origin=0)
    with pytest.raises((ValueError, RuntimeError), match=message):
        memory.consolidate(batches, origin=1)
    for m in (memory, before):
        m.consolidate(Experience(3), origin=1)
    assert torch.equal(memory.sample(20).x, before.sample(20).x)


def test_the_codec_is_frozen_between_fits_and_its_own() -> None:
    codec = StreamCodec(Tiny(), steps=3)
    memories = [LatentMemory(10, codec=codec, seed=seed) for seed in (0, 1)]
    memories[0].consolidate(Experience(1), origin=0)
    assert codec.fits == memories[1].codec.fits == 0
    mine = memories[0].train().codec
    assert not any(module.training for module in mine.modules())
    assert not any(p.requires_grad or p.grad is not None for p in mine.parameters())
    weight = mine.autoencoder.up.weight.clone()
    assert torch.equal(memories[0].half().codec.autoencoder.up.weight, weight)


def test_statistics_are_those_of_the_codes() -> None:
    codec = StreamCodec(Tiny(), steps=1, precision="float32")
    parts = [torch.rand(7, 6), torch.rand(50, 6)]
    codec.fit(iter([torch.rand(4, 6)]), parts, seed=0)
    raw = codec.autoencoder.encode(torch.cat(parts)).detach().double().numpy()
    z = codec.to_latent(torch.cat(parts)).numpy()
    np.testing.assert_allclose(z, (raw - raw.mean(0)) / raw.std(0), atol=1e-4)


def test_the_loss_is_the_bound_of_a_vae_or_your_own() -> None:
    vae, seen = MLPVAE(2, hidden=5, size=3), []
    rows = torch.rand(8, 1, 3, 3)

    def own(network: Any, pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return network.bound(pixels).total.mean()

    codecs = [StreamCodec(vae, steps=4), StreamCodec(vae, steps=4, loss=own, mean=0.5, std=2.0)]
    for codec, x in zip(codecs, (rows, (rows - 0.5) / 2), strict=True):
        codec.fit(iter([x] * 4), [x], seed=5)
    torch.testing.assert_close(seen[0], rows)  # pixels, whatever Normalize made of them
    for a, b in zip(*(codec.autoencoder.parameters() for codec in codecs), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_changes_nothing() -> None:
    memories = [make(), make()]
    memories[0].consolidate(Experience(1), origin=0)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        memories[1].consolidate(Experience(1), origin=0)
    assert torch.equal(memories[0].sample(9).x, memories[1].sample(9).x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StreamCodec(Tiny(), steps=0), ValueError, "steps: expected an integer >= 1, got 0"),
        (lambda: StreamCodec(Tiny(), lr=0.0), ValueError, "lr: expected a number > 0, got 0"),
        (lambda: StreamCodec(nn.Linear(2, 2)), TypeError, "got Linear without"),
        (lambda: LatentMemory(3, codec="raw"), TypeError, "codec: expected a StreamCodec, got"),
        (
            lambda: make(store_logits=True),
            ValueError,
            "store_logits: expected none: a LatentMemory keeps codes and labels only, got",
        ),
        (
            lambda: make(embedding=nn.Linear(6, 2)),
            ValueError,
            "embedding: expected none: a LatentMemory keeps codes and labels only, got",
        ),
        (lambda: make(capacity=0), ValueError, "capacity: expected an integer >= 1, got"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
