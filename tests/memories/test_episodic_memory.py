"""EpisodicMemory: nearest rows under every way to store them, keys kept up to date."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from avalanche_memplugins.memories import EpisodicMemory, RandomMemory
from avalanche_memplugins.memories.episodic_index import EpisodicIndex


def rows(n, seed=0, width=6):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def brute(queries, keys, k):
    squared = torch.stack([(keys.double() - q.double()).square().sum(1) for q in queries])
    return squared.sort(dim=1, stable=True).indices[:, :k]


@pytest.mark.parametrize("options", [{}, {"write_policy": "ring"}, {"codec": "float16"}, {"storage": "host"}])
def test_nearest_are_those_among_the_rows_held(options):
    memory = EpisodicMemory(30, seed=1, **options)
    memory.write(rows(50), torch.arange(50))
    held = memory.rows(torch.arange(30))
    queries = rows(5, 9)
    found = memory.nearest(queries, 3)
    assert torch.equal(found.rows.y.view(5, 3), held.y[brute(queries, held.x, 3)])
    torch.testing.assert_close(
        found.distance, (found.rows.x.view(5, 3, -1) - queries[:, None]).square().sum(-1), rtol=1e-5, atol=1e-6
    )


def test_a_write_is_seen_by_the_next_query():
    memory = EpisodicMemory(10)
    memory.write(rows(5), torch.zeros(5, dtype=torch.long))
    query = rows(1, 3)
    memory.nearest(query, 1)
    memory.write(query, torch.ones(1, dtype=torch.long))
    found = memory.nearest(query, 1)
    assert found.rows.y.item() == 1
    assert found.distance.item() == 0


@pytest.mark.parametrize("way", ["folder", "state"])
def test_an_index_sees_a_load_that_leaves_the_number_of_rows_seen(way, tmp_path):
    def filled(x):
        memory = RandomMemory(10, write_policy="ring", seed=0)
        memory.write(torch.tensor(x)[:, None], torch.arange(len(x)))
        return memory

    other, mine = filled([9.0, 5.0, 1.0]), filled([1.0, 5.0, 9.0])
    index = EpisodicIndex(mine)
    assert index.search(torch.tensor([[8.0]]), k=1).indices.tolist() == [[2]]
    if way == "folder":
        other.save(tmp_path / "saved")
        mine.load(tmp_path / "saved")
    else:
        mine.load_state_dict(other.state_dict())
    assert index.search(torch.tensor([[8.0]]), k=1).indices.tolist() == [[0]]


def test_search_within_a_task():
    memory = EpisodicMemory(40)
    memory.write(rows(40), torch.arange(40), torch.arange(40) % 3)
    held = memory.rows(torch.arange(40))
    queries = rows(4, 5)
    found = memory.nearest(queries, 6, task=2)
    assert (found.rows.t == 2).all()
    mine = held.t == 2
    assert torch.equal(found.rows.y.view(4, 6), held.y[mine][brute(queries, held.x[mine], 6)])
    with pytest.raises(ValueError, match="task 7"):
        memory.nearest(queries, 1, task=7)


@pytest.mark.parametrize("keep", ["both", "key"])
def test_keys_are_what_the_embedding_makes(keep):
    torch.manual_seed(0)
    embedding = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.9))
    memory = EpisodicMemory(20, embedding=embedding, keep=keep)
    x = rows(20)
    memory.write(x, torch.arange(20))
    embedding.eval()
    with torch.no_grad():
        want = brute(embedding(rows(4, 2)), embedding(x), 5)
    embedding.train()
    assert torch.equal(memory.nearest(rows(4, 2), 5).rows.y.view(4, 5), want)
    assert embedding.training


def test_reembed_makes_stale_keys_fresh():
    torch.manual_seed(0)
    embedding = nn.Linear(6, 3)
    memory = EpisodicMemory(20, embedding=embedding)
    x, queries = rows(20), rows(8, 2)
    memory.write(x, torch.arange(20))
    memory.nearest(queries, 2)
    with torch.no_grad():
        embedding.weight.copy_(torch.randn(3, 6))
        want = brute(embedding(queries), embedding(x), 2)
        assert not torch.equal(memory.nearest(queries, 2).rows.y.view(8, 2), want)
        memory.reembed(batch_size=7)
        assert torch.equal(memory.nearest(queries, 2).rows.y.view(8, 2), want)


def test_state_and_folder_and_copy_bring_the_rows_along(tmp_path):
    first = EpisodicMemory(20, seed=3)
    first.write(rows(30), torch.arange(30))
    queries = rows(4, 7)
    want = first.nearest(queries, 3).rows.y
    first.save(tmp_path / "memory")
    other = EpisodicMemory(20, seed=8)
    other.write(rows(30, 5), torch.arange(30))
    other.nearest(queries, 3)  # a table of other rows, as many as will be loaded
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.nearest(queries, 3).rows.y, want)
    assert torch.equal(EpisodicMemory(20).load(tmp_path / "memory").nearest(queries, 3).rows.y, want)
    copy = deepcopy(first)
    copy.write(queries, torch.full((4,), 99))
    assert torch.equal(first.nearest(queries, 3).rows.y, want)


def test_search_tables_do_not_count_as_memory():
    memory = EpisodicMemory(20)
    memory.write(rows(20), torch.arange(20))
    before = memory.nbytes
    memory.nearest(rows(1), 1)
    assert memory.nbytes == before == memory.store.nbytes + memory.write_policy.nbytes + memory.read_policy.nbytes


def test_bad_calls_are_named():
    memory = EpisodicMemory(5)
    with pytest.raises(ValueError, match="memory"):
        memory.nearest(rows(1), 1)
    memory.write(rows(5), torch.arange(5))
    with pytest.raises(ValueError, match=r"x: expected rows of shape \(6,\)"):
        memory.nearest(rows(2, width=4), 1)
    with pytest.raises(ValueError, match="reembed"):
        memory.reembed()


@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("k", [1, 4])
def test_predict_is_the_vote_of_the_nearest_rows(k: int, temperature: float | None) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g), torch.randint(2, 5, (40,), generator=g)
    memory = EpisodicMemory(40, seed=0)
    memory.write(x, y)
    queries = torch.randn(9, 3, generator=g)
    got = memory.predict(queries, classes=6, k=k, temperature=temperature).exp().numpy()
    itself = memory.predict(x, k=k, temperature=temperature, without_itself=True).exp().numpy()

    def expected(query: np.ndarray, keys: np.ndarray, labels: np.ndarray) -> np.ndarray:
        squared = ((keys - query) ** 2).sum(1)
        near = squared.argsort()[:k]
        weights = np.ones(k) if temperature is None else np.exp(-squared[near] / temperature)
        return np.bincount(labels[near], weights / weights.sum(), minlength=6)

    keys, labels = x.double().numpy(), y.numpy()
    for row, query in zip(got, queries.double().numpy(), strict=True):
        np.testing.assert_allclose(row, expected(query, keys, labels), atol=1e-5)
    for i, row in enumerate(itself):
        others = np.arange(40) != i
        np.testing.assert_allclose(row, expected(keys[i], keys[others], labels[others])[:5], atol=1e-5)
    with pytest.raises(ValueError, match="classes: expected more than 4, the largest class held, got 4"):
        memory.predict(queries, classes=4)
