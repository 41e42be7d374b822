"""Local adaptation against a plain loop: one deep copy, one autograd step at a time, one query after another."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from avalanche_memplugins.functional.local_adaptation import LayerChange, adapt_chain, adapt_linear, adapt_parameters

B, K, F, C = 6, 4, 5, 3


def problem(seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(B, K, generator=g, dtype=torch.float64)
    return (
        torch.randn(B, K, F, generator=g, dtype=torch.float64),
        torch.randint(C, (B, K), generator=g),
        weights / weights.sum(1, keepdim=True),
        torch.randn(B, F, generator=g, dtype=torch.float64),
    )


def loop(model, names, features, labels, weights, query, *, steps, lr, beta, active=None):
    out = []
    for x, y, w, q in zip(features, labels, weights, query, strict=True):
        copy = deepcopy(model)
        start = {n: p.detach().clone() for n, p in copy.named_parameters()}
        for _ in range(steps):
            copy.zero_grad()
            logits = copy(x)
            if active is not None:
                logits = logits[:, active]
                y_ = torch.tensor([active.nonzero().flatten().tolist().index(int(c)) for c in y])
            else:
                y_ = y
            loss = 0
            for row in range(len(x)):
                loss = loss - w[row] * torch.log_softmax(logits[row], 0)[y_[row]]
            loss.backward()
            with torch.no_grad():
                for n, p in copy.named_parameters():
                    if n in names:
                        p += -lr * p.grad - beta * (p - start[n])
        out.append(copy(q[None])[0].detach())
    return torch.stack(out)


def double(*layers):
    torch.manual_seed(1)
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("steps", "beta"), [(0, 0.0), (1, 0.0), (7, 0.0), (7, 0.3), (3, 1.0)])
def test_linear_head_in_its_span_equals_the_loop(bias, steps, beta):
    model = double(nn.Linear(F, C, bias=bias))
    data = problem()
    got = adapt_linear(*data, model[0].weight.detach(), model[0].bias, steps=steps, lr=0.7, beta=beta)
    want = loop(model, dict(model.named_parameters()), *data, steps=steps, lr=0.7, beta=beta)
    torch.testing.assert_close(got.detach(), want, rtol=1e-10, atol=1e-10)


def test_masked_classes_take_no_part():
    model, data = double(nn.Linear(F, C)), list(problem())
    active = torch.tensor([True, False, True])
    data[1] = 2 * (data[1] % 2)
    options = {"steps": 5, "lr": 0.5, "beta": 0.1, "active": active}
    want = loop(model, dict(model.named_parameters()), *data, **options)
    linear = adapt_linear(*data, model[0].weight.detach(), model[0].bias.detach(), **options)
    torch.testing.assert_close(linear[:, active], want[:, active], rtol=1e-10, atol=1e-10)
    deep = double(nn.Linear(F, 6), nn.Tanh(), nn.Linear(6, C))
    want = loop(deep, dict(deep.named_parameters()), *data, **options)
    chain = adapt_chain(list(deep), *data, **options)
    torch.testing.assert_close(chain[:, active], want[:, active], rtol=1e-10, atol=1e-10)


WIDE = {"wide": lambda: (nn.Linear(F, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, C))}
CHAINS = WIDE | {
    "head": lambda: (nn.Linear(F, C),),
    "two": lambda: (nn.Linear(F, 7), nn.ReLU(inplace=True), nn.Linear(7, C)),
    "three": lambda: (nn.Linear(F, 7, bias=False), nn.Tanh(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, C, bias=False)),
    "norm": lambda: (nn.Linear(F, 7), nn.BatchNorm1d(7, affine=False), nn.Dropout(0.5), nn.SiLU(), nn.Linear(7, C)),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_chain_equals_the_loop_and_vmap(name, beta):
    model, data = double(*CHAINS[name]()), problem(3)
    before = deepcopy(model.state_dict())
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        chain = adapt_chain(list(model), *data, steps=6, lr=0.4, beta=beta)
        general = adapt_parameters(
            lambda p, x: functional_call(model, p, x), parameters, *data, steps=6, lr=0.4, beta=beta
        )
    want = loop(model, parameters, *data, steps=6, lr=0.4, beta=beta)
    torch.testing.assert_close(chain, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(general, want, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_changes_of_small_layers_are_held_whole_and_of_large_ones_as_factors():
    large, small = nn.Linear(400, 400), nn.Linear(400, 10)
    assert LayerChange(large, 2, 100).whole is None
    assert LayerChange(small, 2, 100).whole is not None
    # Both kinds occur in the chains above: 40 x 30 numbers against 24 rows of 40 + 30, and 30 x 3.
    assert LayerChange(nn.Linear(40, 30), 2, 24).whole is None
    assert LayerChange(nn.Linear(30, 3), 2, 24).whole is not None


def test_vmap_adapts_named_parameters_only_and_takes_images():
    model = double(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, C))
    g = torch.Generator().manual_seed(5)
    _, labels, weights, _ = problem(4)
    images = torch.randn(B, K, 1, 4, 4, generator=g, dtype=torch.float64)
    query = torch.randn(B, 1, 4, 4, generator=g, dtype=torch.float64)
    names = ["0.weight", "4.bias"]
    chosen = {n: p for n, p in model.named_parameters() if n in names}
    got = adapt_parameters(
        lambda p, x: functional_call(model, p, x), chosen, images, labels, weights, query, steps=4, lr=0.3
    )
    want = loop(model, names, images, labels, weights, query, steps=4, lr=0.3, beta=0.0)
    torch.testing.assert_close(got.detach(), want, rtol=1e-9, atol=1e-9)


def test_bad_arguments_are_named():
    features, labels, weights, query = problem()
    head = nn.Linear(F, C).double()
    with pytest.raises(ValueError, match="labels"):
        adapt_chain([head], features, labels[:, :2], weights, query, steps=1, lr=1.0)
    with pytest.raises(ValueError, match="query"):
        adapt_chain([head], features, labels, weights, query[:2], steps=1, lr=1.0)
    with pytest.raises(ValueError, match="beta"):
        adapt_chain([head], features, labels, weights, query, steps=1, lr=1.0, beta=2.0)
    with pytest.raises(ValueError, match="layers"):
        adapt_chain([nn.ReLU(), head], features, labels, weights, query, steps=1, lr=1.0)


class Recurrent(nn.Module):
    """torch.func.vmap has no rule for it."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, C)

    def forward(self, x):
        return self.head(self.rnn(x.unsqueeze(-1))[0][:, -1])


class Looking(nn.Linear):
    """Code that looks at values cannot be mapped either."""

    def forward(self, x):
        return super().forward(x) if bool(x.sum() > 0) else super().forward(-x)


@pytest.mark.parametrize("made", [Recurrent, lambda: Looking(F, C)])
def test_what_cannot_be_mapped_over_queries_is_looped_over(made):
    model, data = double(made()), problem()
    parameters = dict(model.named_parameters())
    options = {"steps": 3, "lr": 0.2, "beta": 0.1}
    got = adapt_parameters(lambda values, x: functional_call(model, values, x), parameters, *data, **options)
    want = loop(model, list(parameters), *data, **options)
    torch.testing.assert_close(got.detach(), want, rtol=1e-8, atol=1e-10)
