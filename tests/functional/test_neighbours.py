"""Nearest neighbours against a float64 brute force."""

from importlib.util import find_spec

import pytest
import torch

from avalanche_memplugins.functional import neighbours
from avalanche_memplugins.functional._packed_keys import pack
from avalanche_memplugins.functional.neighbours import KeyTable, nearest

NO_FAISS = pytest.mark.skipif(find_spec("faiss") is None, reason="needs the extra knn")
BACKENDS = ["torch", pytest.param("faiss", marks=NO_FAISS)]


@pytest.fixture(params=["all at once", "one by one"], autouse=True)
def way(request, monkeypatch):
    """Every promise is kept by the products and by the packed keys, which are for few queries of a large table."""
    if request.param == "one by one":
        monkeypatch.setattr(neighbours, "FEW", 10_000)
        monkeypatch.setattr(neighbours, "LARGE", 1)
    return request.param


def brute(queries, keys, k):
    """Distances in float64, ties to the lower row."""
    squared = torch.stack([(keys.double() - q.double()).square().sum(1) for q in queries])
    values, index = squared.sort(dim=1, stable=True)
    return index[:, :k], values[:, :k]


def draw(n, d, seed, offset=0.0, scale=1.0):
    return offset + scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("offset", "scale", "d"),
    [(0, 1, 5), (0, 1, 100), (300, 1, 100), (1e4, 0.1, 100), (0, 1e-4, 70), (0, 1e4, 70)],
)
def test_order_is_that_of_float64_even_where_float32_products_cancel(backend, offset, scale, d):
    keys, queries = draw(500, d, 0, offset, scale), draw(40, d, 1, offset, scale)
    found = nearest(queries, keys, 7, backend=backend)
    index, squared = brute(queries, keys, 7)
    assert torch.equal(found.indices, index)
    torch.testing.assert_close(found.distances, squared.float(), rtol=1e-6, atol=0)


def test_the_plain_float32_product_would_fail_here():
    keys, queries = draw(500, 100, 0, 1e4, 0.1), draw(40, 100, 1, 1e4, 0.1)
    rough = (keys.square().sum(1) - 2 * queries @ keys.T).topk(7, largest=False).indices
    assert (rough != brute(queries, keys, 7)[0]).float().mean() > 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lower_row_even_beyond_the_spare_candidates(backend):
    few = draw(10, 80, 0)
    keys = few.repeat(60, 1)  # 60 copies of each, more than k + SPARE
    found = nearest(few, keys, 5, backend=backend)
    assert torch.equal(found.indices, torch.arange(10)[:, None] + 10 * torch.arange(5))
    assert (found.distances == 0).all()


def test_integer_grid_with_many_equal_distances():
    keys = torch.cartesian_prod(*[torch.arange(6.0)] * 3)
    queries = keys[::7] + 0.5
    assert torch.equal(nearest(queries, keys, 20).indices, brute(queries, keys, 20)[0])


def test_one_key_far_out_does_not_spoil_the_others():
    keys = draw(300, 90, 0)
    keys[17] = 1e6
    queries = draw(20, 90, 1)
    assert torch.equal(nearest(queries, keys, 9).indices, brute(queries, keys, 9)[0])


def test_blocks_of_queries_and_keys_change_nothing(monkeypatch):
    keys, queries = draw(300, 70, 0), draw(30, 70, 1)
    whole = nearest(queries, keys, 6)
    monkeypatch.setattr(neighbours, "KEY_BLOCK", 64)
    parts = nearest(queries, keys, 6, max_bytes=1)
    assert torch.equal(parts.indices, whole.indices)
    assert torch.equal(parts.distances, whole.distances)


def test_float32_pass_agrees_where_there_is_no_bfloat16(monkeypatch):
    keys, queries = draw(400, 100, 0), draw(30, 100, 1)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", bool, raising=False)
    table = KeyTable(keys)
    assert table._dtypes == (torch.float32,)
    assert torch.equal(table.search(queries, 8).indices, brute(queries, keys, 8)[0])


@pytest.mark.parametrize(("offset", "scale", "d"), [(0, 1, 3), (0, 1, 400), (50, 1e-3, 90), (0, 1e-25, 40)])
def test_packed_keys_bound_every_distance_from_below_and_closely(offset, scale, d):
    keys, query = draw(300, d, 0, offset, scale), draw(1, d, 1, offset, scale)[0]
    keys[7] *= 1_000  # one far out is rounded coarsely; the others are not
    packed = pack(keys, keys.mean(0))
    true = (keys.double() - query.double()).square().sum(1)
    below = packed.below(query)
    assert (below <= true).all()
    near = torch.arange(300) != 7
    spread = (keys[near] - keys.mean(0)).double().square().sum(1).max()
    assert (true - below)[near].max() < 0.05 * (spread + true[near].max())


@pytest.mark.parametrize("d", [784, 2_000])
def test_products_of_packed_keys_do_not_overflow(d):
    keys, query = torch.ones(3, d), torch.ones(d)  # every product of codes is as large as it can be
    keys[1], keys[2, ::2] = -1, -1
    found = pack(keys, torch.zeros(d)).below(query)
    true = (keys.double() - query.double()).square().sum(1)
    assert (found <= true).all()
    assert (true - found).max() < 0.02 * d


def test_packed_keys_do_not_depend_on_threads():
    keys, query = draw(301, 50, 0), draw(1, 50, 1)[0]
    one = pack(keys, keys.mean(0)).below(query)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(pack(keys, keys.mean(0)).below(query), one)
    finally:
        torch.set_num_threads(threads)


def test_packed_keys_are_only_made_where_they_help(monkeypatch, way):
    def built(queries, **kwargs):
        table = KeyTable(draw(100, 8, 0), **kwargs)
        table.search(draw(queries, 8, 1), 3)
        return table.__dict__.get("_packed") is not None

    assert built(2) == (way == "one by one")
    monkeypatch.setattr(neighbours, "LARGE", 800)
    monkeypatch.setattr(neighbours, "FEW", 4)
    assert built(4)
    assert not built(5)
    monkeypatch.setattr(neighbours, "LARGE", 801)
    assert not built(4)


@pytest.mark.parametrize("scale", [1e38, 1e-40])
def test_numbers_at_the_ends_of_float32(scale):
    keys, queries = draw(60, 5, 0).clamp(-3, 3) * scale, draw(9, 5, 1).clamp(-3, 3) * scale
    index = brute(queries, keys, 4)[0]
    assert torch.equal(nearest(queries, keys, 4).indices, index)


def test_fewer_keys_than_neighbours_gives_all_of_them():
    found = nearest(draw(2, 3, 0), draw(4, 3, 1), 10)
    assert found.indices.shape == (2, 4)
    assert torch.equal(found.indices.sort(1).values, torch.arange(4).expand(2, 4))


def test_images_are_flattened():
    keys = draw(20, 12, 0)
    assert nearest(keys.view(20, 3, 4), keys.view(20, 3, 4), 1).indices.flatten().tolist() == list(range(20))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: nearest(torch.zeros(1, 3), torch.zeros(0, 3), 1), "keys"),
        (lambda: nearest(torch.zeros(1, 3), torch.full((2, 3), torch.nan), 1), "keys"),
        (lambda: nearest(torch.full((1, 3), torch.inf), torch.zeros(2, 3), 1), "queries"),
        (lambda: nearest(torch.zeros(1, 4), torch.zeros(2, 3), 1), "queries"),
        (lambda: nearest(torch.zeros(1, 3), torch.zeros(2, 3), 0), "k: expected an integer >= 1"),
        (lambda: nearest(torch.zeros(1, 3), torch.zeros(2, 3), 1, backend="annoy"), "backend"),
    ],
)
def test_bad_arguments_are_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
