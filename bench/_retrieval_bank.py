"""Many small classifiers trained on single rows at once, each as if it were alone.

Batch size 1 leaves a core idle: 180,000 steps of a 20-40-40-40-40-10 network are nearly all overhead. A leading
dimension over independent networks shares that overhead; forward, backward and SGD are written out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN, LAYERS, CLASSES = 40, 4, 10


class Bank:
    """M networks of :func:`avalanche_memplugins.networks.retrieval_mlp`, each with its own weights and rows.

    :param seeds: of the first weights, one a network.
    :param inputs: how many inputs each network uses; the others must be zero.
    """

    def __init__(self, seeds: list[int], inputs: list[int]) -> None:
        widest = max(inputs)
        layers: list[list[Tensor]] = [[] for _ in range(4 * LAYERS + 2)]
        for seed, width in zip(seeds, inputs, strict=True):
            # PyTorch's first weights depend on the inputs in use, so each network is made in its own width.
            torch.manual_seed(seed)
            first = nn.Linear(width, HIDDEN)
            weight = torch.zeros(widest, HIDDEN)
            weight[:width] = first.weight.detach().T
            own = [weight, first.bias]
            for _ in range(LAYERS - 1):
                linear = nn.Linear(HIDDEN, HIDDEN)
                own += [torch.ones(HIDDEN), torch.zeros(HIDDEN), linear.weight.T, linear.bias]
            last = nn.Linear(HIDDEN, CLASSES)
            own += [torch.ones(HIDDEN), torch.zeros(HIDDEN), last.weight.T, last.bias]
            for place, value in zip(layers, own, strict=True):
                value = value.detach()
                place.append(value if value.ndim == 2 else value[None])
        self.parameters = [torch.stack(values) for values in layers]

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(M, B, classes)`` of rows ``(M, B, inputs)``."""
        for i in range(LAYERS):
            weight, bias, gain, shift = self.parameters[4 * i : 4 * i + 4]
            x = torch.baddbmm(bias, x, weight)
            x = torch.addcmul(shift, nn.functional.layer_norm(x, (HIDDEN,)), gain).relu()
        return torch.baddbmm(self.parameters[-1], x, self.parameters[-2])

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        """One SGD step of each network on its own row ``(M, 1, inputs)``, ``y`` ``(M,)``; gives what it answered."""
        kept, h = [], x
        for i in range(LAYERS):
            weight, bias, gain, shift = self.parameters[4 * i : 4 * i + 4]
            u = torch.baddbmm(bias, h, weight)
            normal, centre, scale = torch.native_layer_norm(u, (HIDDEN,), None, None, 1e-5)
            out = torch.addcmul(shift, normal, gain).relu_()
            kept.append((h, u, normal, centre, scale, out))
            h = out
        logits = torch.baddbmm(self.parameters[-1], h, self.parameters[-2])
        wrong = logits.softmax(-1)
        wrong[torch.arange(len(y)), 0, y] -= 1
        back = torch.bmm(wrong, self.parameters[-2].mT)
        self.parameters[-2].baddbmm_(h.mT, wrong, alpha=-lr)
        self.parameters[-1].add_(wrong, alpha=-lr)
        for i in reversed(range(LAYERS)):
            weight, bias, gain, shift = self.parameters[4 * i : 4 * i + 4]
            h, u, normal, centre, scale, out = kept[i]
            back = back * (out > 0)
            inner = back * gain
            gain.addcmul_(back, normal, value=-lr)
            shift.add_(back, alpha=-lr)
            inner = torch.ops.aten.native_layer_norm_backward(
                inner, u, [HIDDEN], centre, scale, None, None, [True, False, False]
            )[0]
            if i:
                back = torch.bmm(inner, weight.mT)
            weight.baddbmm_(h.mT, inner, alpha=-lr)
            bias.add_(inner, alpha=-lr)
        return logits[:, 0].argmax(1)


def check_step() -> None:
    """Raise unless a step is the one that autograd and torch.optim.SGD make."""
    from avalanche_memplugins.networks import retrieval_mlp

    bank = Bank([3, 4], [20, 20])
    x, y = torch.randn(2, 1, 20), torch.tensor([7, 1])
    nets = []
    for m, seed in enumerate((3, 4)):
        torch.manual_seed(seed)
        net = retrieval_mlp(20, CLASSES)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        nn.functional.cross_entropy(net(x[m]), y[m : m + 1]).backward()
        optimizer.step()
        nets.append(net)
    bank.step(x, y, 0.1)
    for m, net in enumerate(nets):
        for mine, theirs in zip(bank.parameters, net.parameters(), strict=True):
            theirs = theirs.detach()
            torch.testing.assert_close(mine[m], theirs.T if theirs.ndim == 2 else theirs[None])


if __name__ == "__main__":
    check_step()
