"""Rows and Gaussians as one memory: what each part is given, what both take, and their state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from torch import Tensor, nn

from avalanche_memplugins import CodedMemory, GaussianMemory, MixedMemory, RandomMemory
from avalanche_memplugins.codecs import Bits, EntropyCoded
from avalanche_memplugins.memories import EpisodicMemory
from avalanche_memplugins.networks import RandomProjection

SHAPE = (1, 8, 8)


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()


def filled(memory: Any, rows: int = 600) -> Any:
    x, y = digits()
    for number, part in enumerate(torch.arange(rows).split(rows // 2)):
        for few in part.split(32):
            memory.write(x[few], y[few], origin=number)
    memory.settle() if hasattr(memory, "settle") else None
    return memory


@pytest.mark.parametrize("by", ["class", "experience"])
@pytest.mark.parametrize("codec", ["4bit", EntropyCoded(Bits(1))], ids=["rows of one length", "coded rows"])
@pytest.mark.parametrize("budget", [6_000, 20_000])
def test_the_budget_is_kept_and_what_gaussians_leave_goes_to_rows(budget: int, codec: Any, by: Any) -> None:
    sizes = {"classes": 10, "shape": SHAPE, "experiences": 2, "by": by}
    memory = filled(MixedMemory.from_budget(budget, codec=codec, share=0.6, seed=0, **sizes), 1_700)
    width = memory.gaussians._bank.width
    settled = memory.gaussians.settled_nbytes(classes=10, width=width, experiences=2)
    assert memory.gaussians.nbytes == settled <= 0.6 * budget
    assert memory.nbytes == memory.rows.nbytes + settled <= budget
    if memory.rows.summary().filled < 1_700:
        assert memory.nbytes > budget - 80  # less than another row
    assert memory.summary().nbytes == memory.nbytes


def test_more_numbers_and_a_higher_rank_where_there_is_more_room() -> None:
    made = [MixedMemory.from_budget(b, classes=10, shape=(784,), codec="1bit", seed=0) for b in (6_000, 20_000)]
    small, large = (memory.gaussians for memory in made)
    assert large.rank > small.rank
    assert large.embedding.numbers > small.embedding.numbers
    for memory, budget in zip((small, large), (6_000, 20_000), strict=True):
        numbers = memory.embedding.numbers
        assert memory.settled_nbytes(classes=10, width=numbers) <= 0.75 * budget
        assert memory.settled_nbytes(classes=10, width=numbers + 7) > 0.75 * budget
    assert made[0].gaussians.nbytes_fixed == 0  # the projection is made anew from its seed


def test_an_embedding_of_the_users_own() -> None:
    embedding = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    memory = MixedMemory.from_budget(9_000, classes=10, shape=SHAPE, embedding=embedding, seed=0)
    filled(memory)
    assert memory.predict(torch.rand(3, *SHAPE)).shape == (3, 10)
    assert memory.nbytes <= 9_000
    with pytest.raises(ValueError, match="embedding: expected a vector for each row"):
        MixedMemory.from_budget(9_000, classes=10, shape=SHAPE, embedding=nn.Flatten(0), seed=0)


def test_each_part_is_what_it_would_be_alone() -> None:
    rows, gaussians = filled(RandomMemory(40, seed=3)), filled(GaussianMemory(rank=None, precision=8, seed=3))
    both = filled(MixedMemory(RandomMemory(40, seed=3), GaussianMemory(rank=None, precision=8, seed=3)))
    assert all(torch.equal(a, b) for a, b in zip(rows.sample(9)[:4], both.sample(9)[:4], strict=True))
    x = digits()[0][-50:]
    assert torch.equal(both.predict(x, classes=10), gaussians.predict(x, classes=10))
    assert (len(both), both.nbytes) == (40, rows.nbytes + gaussians.nbytes)
    assert both.summary().per_class == rows.summary().per_class


def test_it_answers_as_scikit_learns_discriminant_over_the_same_projection() -> None:
    x, y = digits()
    project = RandomProjection(SHAPE, 20, seed=0)
    gaussians = GaussianMemory(rank=None, shrinkage=0.0, ridge=0.0, embedding=project, seed=0)
    memory = filled(MixedMemory(RandomMemory(10, seed=0), gaussians), 1_000)
    z = x.flatten(1).double().numpy() @ project.matrix.double().numpy()
    peer = QuadraticDiscriminantAnalysis(priors=[0.1] * 10).fit(z[:1_000], y[:1_000])
    agree = memory.predict(x[1_000:], classes=10).argmax(1).numpy() == peer.predict(z[1_000:])
    assert agree.mean() > 0.97  # scikit-learn divides by n - 1


def test_a_class_without_rows_is_still_known() -> None:
    memory = MixedMemory(RandomMemory(5, write_policy="ring", seed=0), GaussianMemory(rank=2, seed=0))
    memory.write(torch.rand(20, 4), torch.arange(20) // 10)
    assert memory.summary().per_class == {0: 0, 1: 5}
    assert memory.predict(torch.rand(2, 4)).shape == (2, 2)


def test_a_batch_that_either_part_refuses_changes_nothing() -> None:
    memory = filled(MixedMemory.from_budget(9_000, classes=10, shape=SHAPE, codec="4bit", seed=0))
    before = {name: value for name, value in memory.state_dict().items() if isinstance(value, Tensor)}
    before = {name: value.clone() for name, value in before.items()}
    for x, y in (
        (torch.full((2, *SHAPE), 2.0), [0, 1]),
        (torch.rand(2, 1, 4, 4), [0, 1]),
        (torch.rand(2, *SHAPE), [0, -1]),
    ):
        with pytest.raises(ValueError, match=r"^(x|y): "):
            memory.write(x, torch.tensor(y))
    assert all(torch.equal(value, memory.state_dict()[name]) for name, value in before.items())
    assert len(before) > 5


@pytest.mark.parametrize("codec", ["4bit", EntropyCoded(Bits(1))], ids=["rows of one length", "coded rows"])
@pytest.mark.parametrize("how", ["folder", "state_dict"])
def test_it_goes_on_where_it_was(tmp_path: Path, codec: Any, how: str) -> None:
    def made() -> MixedMemory:
        return MixedMemory.from_budget(
            9_000, classes=10, shape=SHAPE, codec=codec, by="experience", experiences=3, seed=0
        )

    x, y = digits()
    memory, again = filled(made()), made()
    if how == "folder":
        memory.save(tmp_path / "memory")
        again.load(tmp_path / "memory")
    else:
        again.load_state_dict(memory.state_dict())
    for held in (memory, again):
        held.write(x[600:700], y[600:700], origin=2)
        held.settle()
    assert torch.equal(memory.predict(x[-60:]), again.predict(x[-60:]))
    assert torch.equal(memory.sample(20).x, again.sample(20).x)
    assert memory.nbytes == again.nbytes


def test_a_state_of_other_parts_is_refused(tmp_path: Path) -> None:
    filled(MixedMemory(RandomMemory(10, seed=0), GaussianMemory(rank=2, seed=0))).save(tmp_path / "memory")
    for other in (
        MixedMemory(EpisodicMemory(10, seed=0), GaussianMemory(rank=2, seed=0)),
        MixedMemory(RandomMemory(10, seed=0), GaussianMemory(rank=3, seed=0)),
        MixedMemory(RandomMemory(11, seed=0), GaussianMemory(rank=2, seed=0)),
    ):
        with pytest.raises(ValueError, match="folder: does not fit this MixedMemory"):
            other.load(tmp_path / "memory")
        assert len(other) == 0


def test_parts_must_be_empty_and_of_the_right_kind() -> None:
    with pytest.raises(ValueError, match="rows: expected an empty memory"):
        MixedMemory(filled(RandomMemory(4)), GaussianMemory())
    with pytest.raises(TypeError, match="gaussians: expected a memory that answers"):
        MixedMemory(RandomMemory(4), RandomMemory(4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nbytes: expected at least"):
        MixedMemory.from_budget(400, classes=10, shape=SHAPE)
    assert isinstance(MixedMemory(CodedMemory("1kB", codec=EntropyCoded(Bits(1))), GaussianMemory()).rows, CodedMemory)


def test_what_the_rows_need_is_asked_for() -> None:
    memory = MixedMemory(RandomMemory(10, write_policy="hardest", seed=0), GaussianMemory(rank=2, seed=0))
    assert memory.needs == {"loss"}
    memory.write(torch.rand(20, 3), torch.arange(20) % 2, loss=torch.arange(20.0))
    assert len(memory) == 10
    logits = MixedMemory(RandomMemory(10, store_logits=True, seed=0), GaussianMemory(rank=2, seed=0))
    assert logits.store_logits
    logits.write(torch.rand(5, 3), torch.arange(5) % 2, logits=torch.rand(5, 2))
    found = logits.sample(3).logits
    assert found is not None
    assert np.isfinite(found.numpy()).all()
