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

from avalanche_memplugins import _checks as check


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

    >>> features, labels = torch.eye(2).unsqueeze(0), torch.tensor([[0, 1]])  # two neighbours
    >>> query, weight = torch.tensor([[1.0, 0.0]]), torch.zeros(2, 2)
    >>> logits = adapt_linear(features, labels, torch.ones(1, 2), query, weight, None, steps=3, lr=1.0)
    >>> logits.argmax(1)
    tensor([0])
    """
    _check(features, labels, weights, query, steps, lr, beta)
    check.floats(weight=weight)
    if features.ndim != 3 or weight.ndim != 2 or weight.shape[1] != features.shape[2]:
        raise ValueError(
            f"weight: expected (C, F) for features (B, K, F) {tuple(features.shape)}, got {tuple(weight.shape)}"
        )
    if bias is not None:
        check.floats(bias=bias)
        check.like("bias", bias, weight.shape[:1], "(C,)")
    _check_classes(labels, active, len(weight))
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
    r"""Adapt every linear layer of a chain that ends in a linear softmax head.

    One forward and backward pass a step serves all queries, since the change of a layer enters its own query's
    loss only. The first layer's inputs never change, so its change is held on the neighbours' span as in
    :func:`adapt_linear`; a later layer's as :class:`LayerChange` finds cheaper.

    :param layers: first and last ``nn.Linear``; between them linear layers and any modules that treat every row
        by itself (activations, LayerNorm; dropout and BatchNorm in eval mode). Only linear layers are adapted.
    :param features: what enters the first layer, ``(B, K, F)``; the other arguments as in :func:`adapt_linear`.
    :return: logits ``(B, C)``.
    :raises ValueError: if the chain does not begin and end with a linear layer.

    >>> layers = [torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)]
    >>> features, labels, query = torch.rand(1, 2, 2), torch.tensor([[0, 2]]), torch.rand(1, 2)
    >>> adapt_chain(layers, features, labels, torch.ones(1, 2), query, steps=2, lr=0.1).shape
    torch.Size([1, 3])
    """
    if not isinstance(layers, Sequence | nn.Sequential) or not len(layers):
        raise TypeError(f"layers: expected a sequence of modules, got {check.show(layers)}")
    _check(features, labels, weights, query, steps, lr, beta)
    first, rest = layers[0], layers[1:]
    if not isinstance(first, nn.Linear) or not isinstance(layers[-1], nn.Linear):
        raise ValueError("layers: expected a chain that begins and ends with a linear layer, got others")
    if features.ndim != 3 or features.shape[2] != first.in_features:
        raise ValueError(f"features: expected (B, K, {first.in_features}), got {tuple(features.shape)}")
    _check_classes(labels, active, layers[-1].out_features)
    weight, bias = first.weight.detach(), None if first.bias is None else first.bias.detach()
    if not rest:
        return adapt_linear(
            features, labels, weights, query, weight, bias, steps=steps, lr=lr, beta=beta, active=active
        )
    batch, k = features.shape[:2]
    chain = [LayerChange(m, batch, k * steps) if isinstance(m, nn.Linear) else m for m in rest]
    gram, cross = _gram(features, query, bias is not None)
    hidden = nn.functional.linear(features, weight, bias)
    change = torch.zeros_like(hidden)
    for _ in range(steps):
        with torch.enable_grad():
            first_output = torch.baddbmm(hidden, gram, change).requires_grad_()
            logits, calls = _run(chain, first_output)
            loss = _loss(logits, labels, weights, active)
            slope, *slopes = torch.autograd.grad(loss, [first_output, *(output for _, _, output in calls)])
        change.mul_(1 - beta).sub_(slope, alpha=lr)
        for (layer, x, _), each in zip(calls, slopes, strict=True):
            layer.step(x, each, lr, beta)
    start = nn.functional.linear(query, weight, bias).unsqueeze(1)
    with torch.no_grad():
        return _run(chain, torch.baddbmm(start, cross, change))[0].squeeze(1)


class LayerChange:
    r"""A linear layer with a change of its own for every query: :math:`\Delta W`, or the terms that it is a sum of.

    A step adds :math:`-\alpha\, \delta^T u` for inputs :math:`u` ``(B, K, in)`` and slopes :math:`\delta`
    ``(B, K, out)``, so :math:`\Delta W` has rank K T at most. A small layer's is held as ``(B, out, in)``, a large
    one's as the factors, which saves reading and writing ``out x in`` numbers a query and step.

    :param layer: the layer, never written to.
    :param batch: B.
    :param rank: K T, the most rows that :meth:`step` will be given.
    """

    def __init__(self, layer: nn.Linear, batch: int, rank: int) -> None:
        self.weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.bias_change = self.weight.new_zeros(batch, 1, layer.out_features)
        wide, high = layer.in_features, layer.out_features
        self.whole = self.weight.new_zeros(batch, high, wide) if is_small(layer, rank) else None
        if self.whole is None:
            self.inputs, self.slopes = (self.weight.new_empty(batch, rank, n) for n in (wide, high))
        self.used = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``(B, n, out)`` for inputs ``(B, n, in)``."""
        output = nn.functional.linear(x, self.weight, self.bias)
        if self.bias is not None:
            output = output + self.bias_change
        if self.whole is not None:
            return torch.baddbmm(output, x, self.whole.transpose(1, 2))
        inputs, slopes = self.inputs[:, : self.used], self.slopes[:, : self.used]
        return torch.baddbmm(output, x @ inputs.transpose(1, 2), slopes)

    def step(self, x: Tensor, slope: Tensor, lr: float, beta: float) -> None:
        """One gradient step, after the pull back to no change."""
        self.bias_change.mul_(1 - beta).sub_(slope.sum(1, keepdim=True), alpha=lr)
        if self.whole is not None:
            self.whole.mul_(1 - beta)
            self.whole.baddbmm_(slope.transpose(1, 2), x, alpha=-lr)
            return
        rows = slice(self.used, self.used + x.shape[1])
        self.slopes[:, : self.used].mul_(1 - beta)
        self.inputs[:, rows] = x
        self.slopes[:, rows] = slope.mul(-lr)
        self.used = rows.stop


def is_small(layer: nn.Linear, rank: int) -> bool:
    """Whether :class:`LayerChange` holds this layer's change whole."""
    wide, high = layer.in_features, layer.out_features
    return 4 * wide * high <= rank * (wide + high)


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
    """Adapt any parameters of any model, one copy of them a query (``torch.func.vmap``, or else a loop).

    :param forward: ``forward(parameters, x)``: logits ``(n, C)`` of rows x ``(n, *shape)`` without side effects,
        such as ``lambda p, x: torch.func.functional_call(model, p, x)``.
    :param parameters: those to adapt, by name; never written to.
    :param neighbours: ``(B, K, *shape)``, of any type that the model takes; ``query`` is ``(B, *shape)``; the others
        as in :func:`adapt_linear`.
    :return: logits ``(B, C)``.

    >>> def forward(parameters, x):
    ...     return x @ parameters["weight"]
    >>> neighbours, labels = torch.eye(2).unsqueeze(0), torch.tensor([[0, 1]])
    >>> start, query = {"weight": torch.zeros(2, 2)}, torch.tensor([[1.0, 0.0]])
    >>> adapt_parameters(forward, start, neighbours, labels, torch.ones(1, 2), query, steps=3, lr=1.0).argmax(1)
    tensor([0])
    """
    check.function("forward", forward, "a function of parameters and rows")
    if not isinstance(parameters, Mapping) or not parameters:
        raise TypeError(f"parameters: expected tensors by name, at least one, got {check.show(parameters)}")
    for value in parameters.values():
        check.floats(parameters=value)
    _check(neighbours, labels, weights, query, steps, lr, beta, name="neighbours")
    _check_classes(labels, active, None)
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

    try:
        adapted: Tensor = vmap(adapt)(neighbours, labels, weights, query)
    except RuntimeError:
        # Not every layer can be mapped (recurrent ones), nor can code that looks at values; a loop can.
        adapted = torch.stack([adapt(*each) for each in zip(neighbours, labels, weights, query, strict=True)])
    return adapted


def _gram(features: Tensor, query: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """Products of the neighbours with each other ``(B, K, K)`` and with the query ``(B, 1, K)``."""
    gram = features @ features.transpose(1, 2)
    cross = query.unsqueeze(1) @ features.transpose(1, 2)
    return (gram + 1, cross + 1) if bias else (gram, cross)


def _run(
    chain: Sequence[LayerChange | nn.Module], x: Tensor
) -> tuple[Tensor, list[tuple[LayerChange, Tensor, Tensor]]]:
    """``x`` ``(B, n, F)`` through the chain; and of each changing layer what went in and came out."""
    calls = []
    for layer in chain:
        if isinstance(layer, LayerChange):
            output = layer(x)
            calls.append((layer, x.detach(), output))
            x = output
        else:
            # An in-place activation would put its own slope instead of the layer's before it.
            x = x.clone() if any(getattr(m, "inplace", False) for m in layer.modules()) else x
            # BatchNorm1d would take (B, n, F) for (rows, channels, length).
            x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return x, calls


def _loss(logits: Tensor, labels: Tensor, weights: Tensor, active: Tensor | None) -> Tensor:
    if active is not None:
        logits = logits.masked_fill(~active, -torch.inf)
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (each * weights.flatten()).sum()


def _check_classes(labels: Tensor, active: Tensor | None, classes: int | None) -> None:
    """What is told of classes; values are looked at on the CPU only, where nobody waits for them."""
    if active is not None:
        if check.tensor("active", active).dtype != torch.bool:
            raise ValueError(f"active: expected bool ({classes or 'C'},), got {active.dtype}")
        if classes is not None:
            check.like("active", active, (classes,), "one a class")
    if not labels.is_cuda and labels.numel():
        low, high = (int(end) for end in labels.aminmax())
        if low < 0 or (classes is not None and high >= classes):
            most = "" if classes is None else f" to {classes - 1}"
            raise ValueError(f"labels: expected classes from 0{most}, got {low} to {high}")


def _check(
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    query: Tensor,
    steps: int,
    lr: float,
    beta: float,
    *,
    name: str = "features",
) -> None:
    check.floats(weights=weights)
    # Rows of a model's input may be integers, such as token ids.
    (check.floats if name == "features" else check.tensors)(**{name: features, "query": query})
    if features.ndim < 3:
        raise ValueError(f"{name}: expected (B, K, *shape), got {tuple(features.shape)}")
    if check.tensor("labels", labels).is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected integers, got {labels.dtype}")
    check.integer("steps", steps, least=0)
    check.number("lr", lr, above=0)
    check.number("beta", beta, least=0, most=1)
    batch = features.shape[:2]
    check.like("labels", labels, batch, f"one a row of {name}")
    check.like("weights", weights, batch, f"one a row of {name}")
    wanted = (batch[0], *features.shape[2:])
    check.like("query", query, wanted)
