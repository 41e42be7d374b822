"""NEC's memory: one dictionary a class, read by kernel, keys updated in place, the least used row evicted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._loading import LoadsWhole
from avalanche_memplugins.functional.kernels import inverse_distance
from avalanche_memplugins.functional.neighbours import nearest


class DifferentiableNeuralDictionary(LoadsWhole):
    r"""One dictionary of keys and scalar values for every class (for every action in NEC).

    .. math::
        \mathrm{read}_c(q) = \sum_{i \in \mathrm{nn}(q)} w_i v_i, \qquad
        w_i \propto \frac{1}{\|q - h_i\|^2 + \delta}

    over the ``neighbours`` nearest keys of class c. Writing a key that is there already moves its value,
    :math:`v \leftarrow v + \alpha (v' - v)`; a new key takes a free row, or the row that was written or looked up
    longest ago. Reading is differentiable in the query, and with ``trainable`` in keys and values, too.

    :param classes: dictionaries, >= 1.
    :param capacity: rows of each, >= 1.
    :param features: width F of a key, >= 1.
    :param neighbours: p, rows that a read sees.
    :param alpha: step of a value towards a new one, 0 < alpha <= 1.
    :param delta: the kernel's bound, > 0.
    :param trainable: keys and values are parameters, for an optimiser of their own.
    :raises ValueError: for arguments out of range.

    Source: Pritzel et al., "Neural episodic control", ICML 2017, section 3.1; p = 50, delta = 1e-3 are theirs.

    >>> import torch
    >>> memory = DifferentiableNeuralDictionary(classes=2, capacity=10, features=1)
    >>> memory.write(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]), torch.tensor([2.0, 4.0]))
    >>> memory.read(torch.tensor([[0.5]])).tolist()
    [[3.0, 0.0]]
    """

    keys: Tensor
    values: Tensor
    used: Tensor
    sizes: Tensor
    clock: Tensor

    def __init__(
        self,
        classes: int,
        capacity: int,
        features: int,
        *,
        neighbours: int = 50,
        alpha: float = 0.1,
        delta: float = 1e-3,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.classes = check.positive_integer("classes", classes)
        self.capacity = check.positive_integer("capacity", capacity)
        self.features = check.positive_integer("features", features)
        self.neighbours = check.positive_integer("neighbours", neighbours)
        check.number("alpha", alpha, above=0, most=1)
        check.number("delta", delta, above=0)
        check.flag("trainable", trainable)
        check.room("capacity", classes * capacity, 4 * (features + 3))
        self.alpha, self.delta = alpha, delta
        self.keys = nn.Parameter(torch.zeros(classes, capacity, features), requires_grad=trainable)
        self.values = nn.Parameter(torch.zeros(classes, capacity), requires_grad=trainable)
        self.register_buffer("used", torch.zeros(classes, capacity, dtype=torch.int64))
        self.register_buffer("sizes", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows: keys, values, times of use."""
        return sum(t.nbytes for t in (self.keys, self.values, self.used, self.sizes, self.clock))

    def __len__(self) -> int:
        """Rows held in all dictionaries."""
        return int(self.sizes.sum())

    @torch.no_grad()
    def write(self, key: Tensor, y: Tensor, value: Tensor) -> None:
        """Write rows one after the other; nothing changes if an error is raised.

        :param key: ``(B, F)``, finite.
        :param y: dictionary of each row, ``(B,)`` integers below ``classes``.
        :param value: ``(B,)``, finite.
        :raises ValueError: for shapes or values that do not fit.
        """
        self._check_key("key", key)
        check.labels("y", y, len(key))
        check.floats(value=value)
        check.like("value", value, (len(key),), "one a row of key")
        check.finite("value", value)
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
            raise ValueError(f"y: expected integers from 0 to {self.classes - 1}, got {int(y.min())} to {int(y.max())}")
        for row, c in enumerate(y.tolist()):
            self.clock += 1
            size = int(self.sizes[c])
            same = (self.keys[c, :size] == key[row].float()).all(1).nonzero()
            if len(same):
                slot = int(same[0])
                self.values[c, slot] += self.alpha * (value[row] - self.values[c, slot])
            else:
                slot = size if size < self.capacity else int(self.used[c].argmin())
                self.keys[c, slot] = key[row]
                self.values[c, slot] = value[row]
                self.sizes[c] = max(size, slot + 1)
            self.used[c, slot] = self.clock

    def read(self, query: Tensor) -> Tensor:
        """Values ``(B, classes)``; 0 for a class without rows. Marks the rows seen as used.

        :param query: ``(B, F)``.
        """
        squared, values = self._look_up(query)
        columns = [
            (inverse_distance(d, eps=self.delta) * v).sum(1) if d.shape[1] else d.new_zeros(len(query))
            for d, v in zip(squared, values, strict=True)
        ]
        return torch.stack(columns, 1)

    def classify(self, query: Tensor) -> Tensor:
        r"""Log-scores ``(B, classes)``, -inf without rows: :math:`\log \sum_i v_i / (\|q - h_i\|^2 + \delta)`.

        A class's own value is the same for all its rows when rows are labelled examples, so a normalised read
        cannot tell classes apart; the kernel's unnormalised mass does. Values must be > 0, such as 1.
        """
        squared, values = self._look_up(query)
        columns = [(v / (d + self.delta)).sum(1).log() for d, v in zip(squared, values, strict=True)]
        return torch.stack(columns, 1)

    def _look_up(self, query: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        self._check_key("query", query)
        squared, values = [], []
        self.clock += 1
        for c, size in enumerate(self.sizes.tolist()):
            if not size:
                squared.append(query.new_zeros(len(query), 0))
                values.append(query.new_zeros(len(query), 0))
                continue
            index = nearest(query, self.keys[c, :size], self.neighbours).indices
            # Once more with a graph: the search itself gives no gradient.
            squared.append((query[:, None] - self.keys[c][index]).square().sum(-1))
            values.append(self.values[c][index])
            self.used[c, index.flatten()] = self.clock
        return squared, values

    def _check_sound(self) -> None:
        for name in ("keys", "values"):
            check.finite(f"state: {name}", getattr(self, name))
        if not bool(((self.sizes >= 0) & (self.sizes <= self.capacity)).all()):
            raise ValueError(f"state: expected 0 to {self.capacity} rows of each class, got {self.sizes.tolist()}")
        if int(self.clock) < 0 or not bool(((self.used >= 0) & (self.used <= self.clock)).all()):
            raise ValueError("state: expected times of use from 0 to the clock's")

    def _check_key(self, name: str, key: Tensor) -> None:
        check.floats(**{name: key})
        if key.ndim != 2 or key.shape[1] != self.features:
            raise ValueError(f"{name}: expected shape (B, {self.features}), got {tuple(key.shape)}")
        check.finite(name, key)
