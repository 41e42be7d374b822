"""NEC's dictionary against a dictionary of Python lists."""

import pytest
import torch

from avalanche_memplugins.memories import DifferentiableNeuralDictionary as Dictionary


def test_read_is_the_kernel_average_of_the_nearest_values():
    g = torch.Generator().manual_seed(0)
    memory = Dictionary(3, 10, 4, neighbours=4)
    keys, y = torch.randn(24, 4, generator=g), torch.arange(24) % 2  # class 2 stays empty
    values = torch.randn(24, generator=g)
    memory.write(keys, y, values)
    query = torch.randn(5, 4, generator=g)
    got = memory.read(query).detach()
    for b in range(5):
        for c in range(2):
            held = [i for i in range(24) if y[i] == c][-10:]  # written once each: the oldest are evicted
            rows = sorted((float((query[b] - keys[i]).double().square().sum()), float(values[i])) for i in held)[:4]
            weights = [1 / (d + 1e-3) for d, _ in rows]
            want = sum(w * v for w, (_, v) in zip(weights, rows, strict=True)) / sum(weights)
            assert got[b, c].item() == pytest.approx(want, rel=1e-4)
    assert (got[:, 2] == 0).all()
    score = memory.classify(query).detach()
    assert torch.isneginf(score[:, 2]).all()


def test_an_existing_key_moves_its_value():
    memory = Dictionary(1, 5, 2, alpha=0.25)
    key, zero = torch.ones(1, 2), torch.zeros(1, dtype=torch.long)
    for value in (1.0, 3.0):
        memory.write(key, zero, torch.tensor([value]))
    assert len(memory) == 1
    assert memory.values[0, 0].item() == pytest.approx(1 + 0.25 * 2)


def test_the_row_not_used_for_longest_is_evicted():
    memory = Dictionary(1, 2, 1, neighbours=1)
    keys = torch.tensor([[0.0], [10.0]])
    memory.write(keys, torch.zeros(2, dtype=torch.long), torch.tensor([1.0, 2.0]))
    memory.read(torch.tensor([[0.1]]))  # uses the older row
    memory.write(torch.tensor([[20.0]]), torch.zeros(1, dtype=torch.long), torch.tensor([3.0]))
    assert sorted(memory.keys[0, :, 0].tolist()) == [0.0, 20.0]


def test_gradients_reach_query_keys_and_values():
    g = torch.Generator().manual_seed(0)
    memory = Dictionary(1, 8, 3, neighbours=3, trainable=True)
    memory.write(torch.randn(8, 3, generator=g), torch.zeros(8, dtype=torch.long), torch.randn(8, generator=g))
    memory.double()
    query = torch.randn(2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    memory.read(query).sum().backward()
    assert memory.keys.grad.abs().sum() > 0
    assert memory.values.grad.sum().item() == pytest.approx(2)  # weights sum to one
    step = 1e-6 * torch.ones(2, 3, dtype=torch.float64)
    with torch.no_grad():
        slope = (memory.read(query + step) - memory.read(query - step)).sum() / 2e-6
    assert slope.item() == pytest.approx(query.grad.sum().item(), rel=1e-5)


def test_labelled_examples_are_classified():
    g = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(4, 6, generator=g)
    y = torch.arange(80) % 4
    memory = Dictionary(4, 20, 6)
    memory.write(centres[y] + torch.randn(80, 6, generator=g), y, torch.ones(80))
    got = memory.classify(centres[y] + torch.randn(80, 6, generator=g)).argmax(1)
    assert (got == y).float().mean() > 0.95


def test_state_goes_on():
    g = torch.Generator().manual_seed(0)
    first, second = Dictionary(2, 5, 3), Dictionary(2, 5, 3)
    first.write(torch.randn(9, 3, generator=g), torch.arange(9) % 2, torch.randn(9, generator=g))
    second.load_state_dict(first.state_dict())
    more = (torch.randn(4, 3, generator=g), torch.arange(4) % 2, torch.randn(4, generator=g))
    for memory in (first, second):
        memory.write(*more)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_bad_arguments_are_named():
    memory = Dictionary(2, 5, 3)
    with pytest.raises(ValueError, match="alpha"):
        Dictionary(2, 5, 3, alpha=0)
    with pytest.raises(ValueError, match="key"):
        memory.write(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), torch.zeros(1))
    with pytest.raises(ValueError, match="y"):
        memory.write(torch.zeros(1, 3), torch.full((1,), 2), torch.zeros(1))
    with pytest.raises(ValueError, match="query"):
        memory.read(torch.full((1, 3), torch.nan))
    assert len(memory) == 0
