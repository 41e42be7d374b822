r"""Local adaptation (MbPA): fit a copy of some parameters to the neighbours of one query, use it once.

With neighbours :math:`(h_k, v_k)` of weight :math:`w_k`, every query starts at the trained parameters
:math:`\theta` and takes T steps

.. math::
    \theta_x \leftarrow \theta_x + \alpha \nabla \sum_k w_k \log p(v_k | h_k, \theta_x)
    - \beta (\theta_x - \theta).

The three functions do the same for ever larger parts of a model: a linear softmax head, the last layers of a
chain, any named parameters. Shapes: B queries, K neighbours each, F features, C classes.

Source: Sprechmann et al., "Memory-based parameter adaptation", ICLR 2018, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy, log_softmax, one_hot


def adapt_linear(
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    query: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    steps: int,
    lr: float,
    beta: float = 0.0,
    active: Tensor | None = None,
) -> Tensor:
    r"""Adapt a linear softmax head, without a copy of its weights.

    Each gradient is :math:`\sum_k w_k (p_k - e_{v_k}) h_k^T`, so :math:`W_x - W = A^T H` stays in the span of the
    neighbours. The steps run on :math:`A` alone, through the Gram matrix :math:`G = H H^T (+ 1)` with the bias:

    .. math::
        A \leftarrow (1 - \beta) A - \alpha\, w \odot (\mathrm{softmax}(H W^T + b + G A) - E).

    Exact, and a step costs :math:`K^2 C` instead of :math:`K F C`.

    :param features: ``(B, K, F)``.
    :param labels: ``(B, K)`` int64, below C.
    :param weights: ``(B, K)``.
    :param query: ``(B, F)``.
    :param weight: ``(C, F)``.
    :param bias: ``(C,)`` or None.
    :param steps: T, >= 0.
    :param lr: :math:`\alpha`, the local rate.
    :param beta: pull back to the trained parameters, 0 <= beta <= 1.
    :param active: ``(C,)`` bool; classes that take part. None: all.
    :return: logits of the queries ``(B, C)`` under their own heads.
    """
    _check(features, labels, weights, query, steps, beta)
    gram, cross = _gram(features, query, bias is not None)
    logits = nn.functional.linear(features, weight, bias)
    start = nn.functional.linear(query, weight, bias)
    target = one_hot(labels, weight.shape[0]).to(logits.dtype)
    step = lr * weights.unsqueeze(-1)
    if active is not None:
        logits = logits.masked_fill(~active, -torch.inf)
    change = torch.zeros_like(logits)
    for _ in range(steps):
        probability = torch.softmax(logits + gram @ change, -1)
        change = (1 - beta) * change - step * (probability - target)
    return start + (cross @ change).squeeze(1)


def adapt_chain(
    layers: Sequence[nn.Module],
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    query: Tensor,
    *,
    steps: int,
    lr: float,
    beta: float = 0.0,
    active: Tensor | None = None,
) -> Tensor:
    """Adapt every linear layer of a chain that ends in a linear softmax head.

    The first layer's inputs never change, so it is run on the neighbours' span as in :func:`adapt_linear`; only
    the layers after it are copied, one copy a query, side by side in batched products. One backward pass serves
    all queries, since each copy enters its own query's loss only.

    :param layers: first and last ``nn.Linear``; between them linear layers and any modules that treat every row
        by itself (activations, LayerNorm; dropout and BatchNorm in eval mode). Only linear layers are adapted.
    :param features: what enters the first layer, ``(B, K, F)``; the other arguments as in :func:`adapt_linear`.
    :return: logits ``(B, C)``.
    :raises ValueError: if the chain does not begin and end with a linear layer.
    """
    _check(features, labels, weights, query, steps, beta)
    first, rest = layers[0], list(layers[1:])
    last = layers[-1]
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        raise ValueError("layers: wants a chain that begins and ends with a linear layer")
    frozen = [p.detach() for layer in rest if isinstance(layer, nn.Linear) for p in _parameters(layer)]
    copies = [p.expand(len(features), *p.shape) for p in frozen]
    weight, bias = first.weight.detach(), None if first.bias is None else first.bias.detach()
    if not rest:
        return adapt_linear(
            features, labels, weights, query, weight, bias, steps=steps, lr=lr, beta=beta, active=active
        )
    gram, cross = _gram(features, query, bias is not None)
    hidden = nn.functional.linear(features, weight, bias)
    change = torch.zeros_like(hidden)
    for _ in range(steps):
        with torch.enable_grad():
            # Gradients are wanted for this pre-activation and the copies only, never for the model.
            leaves = [(hidden + gram @ change).requires_grad_(), *(c.detach().requires_grad_() for c in copies)]
            loss = _loss(_run(rest, leaves[0], leaves[1:]), labels, weights, active)
            slope, *slopes = torch.autograd.grad(loss, leaves)
        change = (1 - beta) * change - lr * slope
        copies = [c - lr * s - beta * (c - f) for c, s, f in zip(copies, slopes, frozen, strict=True)]
    start = nn.functional.linear(query, weight, bias).unsqueeze(1)
    return _run(rest, start + cross @ change, copies).squeeze(1).detach()


def adapt_parameters(
    forward: Callable[[dict[str, Tensor], Tensor], Tensor],
    parameters: Mapping[str, Tensor],
    neighbours: Tensor,
    labels: Tensor,
    weights: Tensor,
    query: Tensor,
    *,
    steps: int,
    lr: float,
    beta: float = 0.0,
    active: Tensor | None = None,
) -> Tensor:
    """Adapt any parameters of any model, one copy of them a query (``torch.func.vmap``).

    :param forward: ``forward(parameters, x)``: logits ``(n, C)`` of rows x ``(n, *shape)`` without side effects,
        such as ``lambda p, x: torch.func.functional_call(model, p, x)``.
    :param parameters: those to adapt, by name; never written to.
    :param neighbours: ``(B, K, *shape)``; ``query`` is ``(B, *shape)``; the others as in :func:`adapt_linear`.
    :return: logits ``(B, C)``.
    """
    _check(neighbours, labels, weights, query, steps, beta)
    start = {name: value.detach() for name, value in parameters.items()}

    def adapt(x: Tensor, y: Tensor, w: Tensor, q: Tensor) -> Tensor:
        def loss(values: dict[str, Tensor]) -> Tensor:
            logits = forward(values, x)
            if active is not None:
                logits = logits.masked_fill(~active, -torch.inf)
            chosen = log_softmax(logits, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
            return -(w * chosen).sum()

        values = start
        for _ in range(steps):
            slopes = grad(loss)(values)
            values = {n: v - lr * slopes[n] - beta * (v - start[n]) for n, v in values.items()}
        return forward(values, q.unsqueeze(0)).squeeze(0)

    adapted: Tensor = vmap(adapt)(neighbours, labels, weights, query)
    return adapted


def _gram(features: Tensor, query: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """Products of the neighbours with each other ``(B, K, K)`` and with the query ``(B, 1, K)``."""
    gram = features @ features.transpose(1, 2)
    cross = query.unsqueeze(1) @ features.transpose(1, 2)
    return (gram + 1, cross + 1) if bias else (gram, cross)


def _parameters(layer: nn.Linear) -> list[Tensor]:
    return [layer.weight] if layer.bias is None else [layer.weight, layer.bias]


def _run(layers: list[nn.Module], x: Tensor, copies: list[Tensor]) -> Tensor:
    """``x`` ``(B, K, F)`` through the layers, linear ones with each query's copy."""
    values = iter(copies)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = x @ next(values).transpose(1, 2)
            if layer.bias is not None:
                x = x + next(values).unsqueeze(1)
        else:
            # BatchNorm1d would take (B, K, F) for (rows, channels, length); and an in-place
            # activation must not write over a leaf of the graph.
            x = layer(x.flatten(0, 1).clone()).unflatten(0, x.shape[:2])
    return x


def _loss(logits: Tensor, labels: Tensor, weights: Tensor, active: Tensor | None) -> Tensor:
    if active is not None:
        logits = logits.masked_fill(~active, -torch.inf)
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (each * weights.flatten()).sum()


def _check(features: Tensor, labels: Tensor, weights: Tensor, query: Tensor, steps: int, beta: float) -> None:
    batch = features.shape[:2]
    for name, value in (("labels", labels), ("weights", weights)):
        if value.shape != batch:
            raise ValueError(f"{name}: wants shape {tuple(batch)} as the neighbours have, got {tuple(value.shape)}")
    wanted = (batch[0], *features.shape[2:])
    if query.shape != wanted:
        raise ValueError(f"query: wants shape {wanted}, got {tuple(query.shape)}")
    if steps < 0 or not 0 <= beta <= 1:
        raise ValueError(f"steps and beta: want steps >= 0 and 0 <= beta <= 1, got {steps} and {beta}")
