"""Rows whose gradients point in different directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins.functional import distinct_integers
from avalanche_memplugins.memories.policies.write import Grouping, Offered, Placement

_TRIES = 64


class GSS:
    r"""Gradient-based sample selection, the greedy version: keeps rows whose gradients are unlike those of others.

    A row with gradient g is compared with ``subset`` rows held, drawn at random. Its score is

    .. math:: c = 1 + \max_i \cos(g, g_i).

    While there is room it is kept. Then, if :math:`c < 1`, row i held is drawn with probability
    :math:`c_i / \sum_j c_j` and replaced with probability :math:`c_i / (c_i + c)`: what is like others makes way for
    what is unlike them. The first row's score is 1, a cosine of 0.

    The gradient is that of the cross-entropy by the bias of the last layer, :math:`g = \mathrm{softmax}(z) - e_y` of
    logits z. It is computed when the row is offered, and kept with it, so it is that of an earlier model. (The authors
    compute the gradients of the drawn rows anew, by all weights, which takes a backward pass for each.) If logits grow
    wider, earlier gradients are filled up with zeros.

    :param subset: rows held that one is compared with, >= 1.

    Source: Aljundi et al., "Gradient based sample selection for online continual learning", NeurIPS 2019, algorithm 2.

    >>> import torch
    >>> from avalanche_memplugins import RandomMemory
    >>> memory = RandomMemory(20, write_policy="gss", seed=0)
    >>> memory.write(torch.rand(50, 3), torch.arange(50) % 2, logits=torch.randn(50, 2))
    >>> len(memory)
    20
    """

    grouping: Grouping | None = None
    needs = frozenset({"y", "logits"})

    def __init__(self, subset: int = 10) -> None:
        self.subset = check.positive_integer("subset", subset)
        self.start(0)

    def start(self, capacity: int) -> None:
        """Reset to an empty memory of ``capacity`` slots."""
        check.room("capacity", capacity, 4)
        self.capacity = capacity
        self.filled = 0
        self._scores = np.zeros(capacity, dtype=np.float32)
        self._gradients = torch.zeros(capacity, 0)  # of length 1, or 0

    @property
    def nbytes(self) -> int:
        """Bytes of a score and a gradient for every slot; the first write tells the gradients' width."""
        return self._scores.nbytes + self._gradients.nbytes

    def place(
        self,
        seen: int,
        batch: int,
        groups: list[int] | None,
        generator: torch.Generator,
        offered: Offered = Offered(),  # noqa: B008 - cannot change
    ) -> list[Placement]:
        """Slots of the rows that stay; needs ``offered.logits`` and ``offered.y``."""
        check_offered(offered)
        gradients = _gradients(offered)
        self._widen(gradients.shape[1])
        gradients = torch.nn.functional.pad(gradients, (0, self._gradients.shape[1] - gradients.shape[1]))
        written: dict[int, int] = {}
        for row, gradient in enumerate(gradients):
            score = self._score(gradient, generator)
            if self.filled < self.capacity:
                slot: int | None = self.filled
                self.filled += 1
            else:
                slot = self._replaced(score, generator) if score < 1 else None
            if slot is not None:
                self._scores[slot] = score
                self._gradients[slot] = gradient
                written[slot] = row
        return [Placement(torch.tensor(list(written.values())), torch.tensor(list(written)))] if written else []

    def _widen(self, width: int) -> None:
        if (more := width - self._gradients.shape[1]) > 0:
            check.room("logits", self.capacity, 4 * width)
            self._gradients = torch.nn.functional.pad(self._gradients, (0, more))

    def _score(self, gradient: Tensor, generator: torch.Generator) -> float:
        if not self.filled:
            return 1.0
        some = distinct_integers(self.filled, min(self.subset, self.filled), generator=generator)
        return 1.0 + float((self._gradients[some] @ gradient).max())

    def _replaced(self, score: float, generator: torch.Generator) -> int | None:
        """The slot that a row of this score takes, or None."""
        slot = self._drawn(generator)
        if slot is None:
            return None
        mine = float(self._scores[slot])
        return slot if float(torch.rand((), generator=generator)) * (mine + score) < mine else None

    def _drawn(self, generator: torch.Generator) -> int | None:
        """A slot, drawn in proportion to its score; None if all are 0."""
        # Scores are at most 2. To accept a uniform draw with half its score costs the same whatever the capacity.
        slots = torch.randint(self.capacity, (_TRIES,), generator=generator).numpy()
        accepted = 2 * torch.rand(_TRIES, generator=generator).numpy() < self._scores[slots]
        if accepted.any():
            return int(slots[accepted.argmax()])
        total = self._scores.cumsum(dtype=np.float64)
        if total[-1] <= 0:
            return None
        draw = float(torch.rand((), generator=generator, dtype=torch.float64)) * total[-1]
        return min(int(total.searchsorted(draw, side="right")), self.capacity - 1)

    def state_dict(self) -> dict[str, Any]:
        """Score and gradient of every filled slot."""
        return {
            "scores": torch.from_numpy(self._scores[: self.filled].copy()),
            "gradients": self._gradients[: self.filled].clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; nothing changes if an error is raised.

        :raises ValueError: if the state does not fit the capacity.
        """
        scores, gradients = state.get("scores"), state.get("gradients")
        if not isinstance(scores, Tensor) or not isinstance(gradients, Tensor) or gradients.ndim != 2:
            raise ValueError("state: expected scores (n,) and gradients (n, classes)")
        if scores.shape != (len(gradients),) or len(scores) > self.capacity:
            raise ValueError(f"state: expected scores and gradients of at most {self.capacity} slots")
        check.finite("state: gradients", gradients)
        if not bool(((scores >= 0) & (scores <= 2.001)).all()):
            raise ValueError("state: expected scores from 0 to 2")
        self.filled = len(scores)
        self._scores[: self.filled] = scores.cpu().numpy()
        self._gradients = torch.zeros(self.capacity, gradients.shape[1])
        self._gradients[: self.filled] = gradients.cpu()

    def __repr__(self) -> str:
        return f"GSS({self.subset})"


def check_offered(offered: Offered) -> None:
    """Raise unless these are logits and classes that go together.

    :raises ValueError: naming what is missing, or does not fit.
    """
    logits, y = offered.logits, offered.y
    if logits is None or y is None:
        raise ValueError("logits: expected the outputs of every row, which the policy 'gss' needs, got None")
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"y: expected integer classes (B,), which the policy 'gss' needs, got {check.show(y)}")
    if len(y) and int(y.max()) >= logits.shape[1]:
        raise ValueError(f"logits: expected an output for each class, got {logits.shape[1]} for class {int(y.max())}")


def _gradients(offered: Offered) -> Tensor:
    """Gradients of length 1 ``(B, classes)``; of a row that the model is certain about, rightly, 0."""
    logits = torch.as_tensor(offered.logits).detach().to("cpu", torch.float32)
    y = torch.as_tensor(offered.y).detach().to("cpu", torch.int64)
    gradients = logits.softmax(1)
    gradients[torch.arange(len(y)), y] -= 1
    return torch.nn.functional.normalize(gradients, dim=1)
