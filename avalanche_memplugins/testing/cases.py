"""One record for each thing that is checked: how it is made, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check

Rows = Callable[[int, int], Tensor]
"""Rows ``(n, *shape)`` of a number n and a seed."""


def vectors(n: int, seed: int) -> Tensor:
    """Eight standard normal numbers a row, cut off at three: float32 ``(n, 8)``.

    :param n: number of rows.
    :param seed: of the generator.

    >>> vectors(3, seed=0).shape
    torch.Size([3, 8])
    """
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)).clamp_(-3, 3)


def pixels(n: int, seed: int) -> Tensor:
    """Grey images of 8 x 8 whose pixels are multiples of 1/255: float32 ``(n, 1, 8, 8)``.

    :param n: number of rows.
    :param seed: of the generator.

    >>> pixels(3, seed=0).shape
    torch.Size([3, 1, 8, 8])
    """
    return torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed)) / 255


@dataclass(frozen=True)
class Case:
    """What is checked, and which promises it is known to break.

    :param name: of the thing, in the names of tests and in the report.
    :param factory: makes one. Torch's global generator is seeded before.
    :param expected_failures: names of checks that are known to fail, with the reason. One that passes is reported.
    """

    name: str
    factory: Callable[..., Any]
    expected_failures: Mapping[str, str] = field(default_factory=dict)

    def make(self) -> Any:
        """A new one; equal ones each time, also if it draws its seed itself or has networks with random weights."""
        return seeded(self.factory)

    @property
    def probe(self) -> Any:
        """What is asked for its methods: which checks apply."""
        return self.make()


@dataclass(frozen=True)
class MemoryCase(Case):
    """A memory, how it is written and read, and which promises it is known to break.

    A check of something that the memory does not have, such as ``save`` or ``predict``, does not apply to it.

    :param name: of the memory, in the names of tests and in the report.
    :param factory: makes a memory: ``factory(capacity, seed=seed)``. Torch's global generator is seeded before.
    :param expected_failures: names of checks that are known to fail, with the reason. One that passes is reported.
    :param rows: rows of the stream.
    :param writes: ``"rows"``: by ``write(x, y, t, origin=...)``, with ``logits`` and ``loss`` if its ``needs`` name
        them; ``"experiences"``: by ``consolidate(batches, origin=...)``.
    :param reads: ``"sample"``: by ``sample(n)``; ``"cue"``: by ``read(x)`` only; ``"predict"``: by ``predict(x)`` only.
    :param write: other way to write: ``write(memory, x, y, origin)``.
    :param read: other way to read: ``read(memory, x)``.
    :param forget: how rows are taken out again: ``forget(memory, x, y)``. None: ``memory.forget(classes=...)``.
    :param from_budget: makes a memory of so many bytes. None: ``from_budget(nbytes, shape=...)`` of the class.
    :param budget: the bytes, and the share of them that the memory has to use.
    :param error: largest difference between a row and what comes back; None for a memory that generates its rows.
    :param classes: number of classes in the rows.
    :param grows: what makes the memory take more bytes: a larger ``"capacity"``, or more ``"classes"``.
    :param sizes: two numbers of that, between which it takes at least 40,000 bytes more.
    :param fill: rows that are held when the cost of a write is measured, beside 100.
    :param traced: compare bytes with what Python allocated; False: only with what can be reached from the memory.

    >>> from avalanche_memplugins import RandomMemory
    >>> case = MemoryCase("half precision", lambda n, seed: RandomMemory(n, codec="float16", seed=seed), error=2e-3)
    >>> case.make(20).capacity
    20
    """

    rows: Rows = vectors
    writes: Literal["rows", "experiences"] = "rows"
    reads: Literal["sample", "cue", "predict"] = "sample"
    write: Callable[[Any, Tensor, Tensor, int], None] | None = None
    read: Callable[[Any, Tensor], Any] | None = None
    forget: Callable[[Any, Tensor, Tensor], None] | None = None
    from_budget: Callable[[int], Any] | None = None
    budget: tuple[int, float] = (20_000, 0.98)
    error: float | None = 0.0
    classes: int = 6
    grows: Literal["capacity", "classes"] = "capacity"
    sizes: tuple[int, int] = (1_000, 8_000)
    fill: int = 20_000
    traced: bool = True

    def __post_init__(self) -> None:
        check.choice("writes", self.writes, ("rows", "experiences"))
        check.choice("reads", self.reads, ("sample", "cue", "predict"))
        check.choice("grows", self.grows, ("capacity", "classes"))

    def make(self, capacity: int = 40, seed: int = 5) -> Any:
        """A new memory; equal ones from equal arguments, also if it has networks with random weights.

        :param capacity: given to the factory.
        :param seed: likewise.
        """
        return seeded(lambda: self.factory(capacity, seed=seed))


@dataclass(frozen=True)
class CodecCase(Case):
    """A codec, rows that it stores, and how near they come back.

    :param name: of the codec.
    :param factory: makes a codec: ``factory()``. Torch's global generator is seeded before.
    :param expected_failures: names of checks that are known to fail, with the reason. One that passes is reported.
    :param rows: rows that the codec can store.
    :param error: largest difference between a row and what comes back; None if there is no bound.
    :param nbytes: bytes that a row of ``rows`` takes; None if it is not stated.

    >>> from avalanche_memplugins.codecs import Bits
    >>> CodecCase("4bit", lambda: Bits(4), rows=pixels, error=1 / 30, nbytes=32).make()
    Bits(4, mean=0, std=1)
    """

    rows: Rows = vectors
    error: float | None = 0.0
    nbytes: int | None = None


@dataclass(frozen=True)
class PolicyCase(Case):
    """A write policy, which has ``place``, or a read policy, which has ``choose``.

    :param name: of the policy.
    :param factory: makes a policy: ``factory()``.
    :param expected_failures: names of checks that are known to fail, with the reason. One that passes is reported.
    :param uniform: it claims that every row (of a group, if the policy has a grouping) is kept or drawn equally often.

    >>> from avalanche_memplugins.memories.policies import Reservoir
    >>> PolicyCase("reservoir", Reservoir, uniform=True).make()
    Reservoir()
    """

    uniform: bool = False


@dataclass(frozen=True)
class PluginCase(Case):
    """A plugin, run on small streams of every kind.

    The model of the streams has the layers ``features`` and ``classifier``, rows of eight numbers and six classes.

    :param name: of the plugin.
    :param factory: makes a plugin, its memory included: ``factory()``. Torch's global generator is seeded before.
    :param expected_failures: names of checks that are known to fail, with the reason. One that passes is reported.
    :param replaces: replayed rows take the place of rows of the batch, instead of coming beside them.
    :param reorders: the plugin feeds the stream's rows in another order.
    :param keeps_all: the plugin's memory is expected to hold rows of every experience.

    >>> from avalanche_memplugins import MemoryReplayPlugin, RandomMemory
    >>> case = PluginCase("replay", lambda: MemoryReplayPlugin(RandomMemory(40)))
    >>> len(case.make().memory)
    0
    """

    replaces: bool = False
    reorders: bool = False
    keeps_all: bool = True


def seeded(make: Callable[[], Any]) -> Any:
    """What ``make`` gives with torch's global generator seeded, which is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()
