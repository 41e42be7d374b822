"""Rows that are replayed and Gaussians that answer, within one budget."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins._modes import eval_mode
from avalanche_memplugins.memories._adapts import AdaptsToExperiences
from avalanche_memplugins.memories._forgetting import Where
from avalanche_memplugins.memories._saved import SavesToFolder
from avalanche_memplugins.memories.coded_memory import CodedMemory
from avalanche_memplugins.memories.gaussian_memory import GaussianMemory
from avalanche_memplugins.memories.memory import AnsweringMemory
from avalanche_memplugins.memories.random_memory import RandomMemory
from avalanche_memplugins.memories.recall import Recall, Summary
from avalanche_memplugins.networks.random_projection import RandomProjection

_PARTS = ("rows", "gaussians")
_NUMBERS_A_FACTOR = 7  # width of a projection over the rank of its Gaussians: best of 5 to 25 on permuted MNIST


class MixedMemory(AdaptsToExperiences, SavesToFolder):
    r"""Two memories of one stream: rows to replay, and a memory that answers; for a network that both help.

    .. math:: \log p(c \mid x) = \log \mathrm{softmax}(o(x))_c + w \log p_M(c \mid x) + \text{const}

    Every row is written to both. :meth:`sample` draws from the rows, :meth:`predict` asks the Gaussians. Where no
    fixed features fit the stream, a network that rehearses half of the bytes as rows and Gaussians of the other half
    make different mistakes, and their product is better than either with all of them. List a
    :class:`~avalanche_memplugins.plugins.MemoryReplayPlugin` and, with ``combine="product"``, a
    :class:`~avalanche_memplugins.plugins.MemoryPredictionPlugin` on this memory;
    :class:`~avalanche_memplugins.strategies.MixedReplay` does. A fixed w of 0.5 (``temperature=2``) is better than one
    fitted to rows that the network was trained on, which trusts it too much.

    :param rows: keeps rows, such as :class:`~avalanche_memplugins.memories.RandomMemory` or
        :class:`~avalanche_memplugins.memories.CodedMemory`. It is the memory's own from now on.
    :param gaussians: answers: :class:`~avalanche_memplugins.memories.GaussianMemory`, with ``by="experience"`` where
        classes come back in other guises, or :class:`~avalanche_memplugins.memories.RandomProjectionMemory`. Likewise.
    :raises TypeError: for parts of another kind.
    :raises ValueError: if either holds something already.

    Source of the product: Hinton, "Products of experts", 1999.

    >>> memory = MixedMemory.from_budget("4kB", classes=2, shape=(1, 8, 8), codec="4bit", seed=0)
    >>> memory.write(torch.rand(50, 1, 8, 8), torch.arange(50) % 2)
    >>> memory.settle()
    >>> len(memory) == len(memory.rows), memory.nbytes <= 4_000
    (True, True)
    >>> memory.predict(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """

    rows: RandomMemory | CodedMemory
    gaussians: AnsweringMemory

    def __init__(self, rows: RandomMemory | CodedMemory, gaussians: AnsweringMemory) -> None:
        super().__init__()
        check.having("rows", rows, ("write", "sample", "slots", "rows"), "a memory of rows, such as RandomMemory")
        check.having("gaussians", gaussians, ("write", "predict"), "a memory that answers, such as GaussianMemory")
        for name, part in zip(_PARTS, (rows, gaussians), strict=True):
            check.instance(name, part, SavesToFolder, "a memory of this library")
            if len(part):
                raise ValueError(f"{name}: expected an empty memory, got {part!r} of {len(part)} rows")
        self.rows, self.gaussians = rows, gaussians

    @classmethod
    def from_budget(
        cls,
        nbytes: int | str,
        *,
        classes: int,
        shape: tuple[int, ...],
        codec: Any = "raw",
        share: float = 0.75,
        experiences: int = 1,
        by: Literal["class", "experience"] = "class",
        embedding: nn.Module | None = None,
        precision: Literal["float32", 4, 6, 8] = 4,
        gaussians: Mapping[str, Any] | None = None,
        rows: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> MixedMemory:
        """The memory whose :attr:`nbytes`, once settled, stay within a budget.

        The Gaussians take what fits into their share; all that they leave goes to the rows, with labels of one byte,
        or of two for more than 256 classes, and without task labels. Without an embedding the Gaussians are of low
        rank, over as many numbers of a :class:`~avalanche_memplugins.networks.RandomProjection` of the rows as fit.

        :param nbytes: the budget in bytes, a number or as in ``"20kB"``.
        :param classes: how many are expected; more of them take more bytes.
        :param shape: of one row of x.
        :param codec: of the rows, as :class:`RandomMemory` or :class:`CodedMemory` take it.
        :param share: of the budget that the Gaussians may take, between 0 and 1.
        :param experiences: how many are expected; with ``by="experience"`` more of them take more bytes.
        :param by: a Gaussian for each ``"class"``, or for each in each ``"experience"``.
        :param embedding: makes the vectors that are modelled, instead of the projection; copied.
        :param precision: of the Gaussians, ``"float32"``, or bits.
        :param gaussians: other arguments of :class:`GaussianMemory`.
        :param rows: other arguments of :class:`RandomMemory` or :class:`CodedMemory`.
        :param seed: of both. None: drawn from torch's global generator.
        :raises ValueError: if not even the smallest Gaussians fit into their share, or not a row into the rest.
        """
        nbytes, shape = parse_bytes(nbytes, "nbytes"), tuple(check.row_shape(shape))
        check.positive_integer("classes", classes)
        check.positive_integer("experiences", experiences)
        check.number("share", share, above=0, below=1)
        for name, options in (("gaussians", gaussians), ("rows", rows)):
            check.instance(name, {} if options is None else options, Mapping, "arguments by name, or None")
        seed = check.seed(seed)
        sizes: dict[str, Any] = {"classes": classes, "experiences": experiences}
        made: dict[str, Any] = {"by": by, "precision": precision, "deviations": 4, "seed": seed, **(gaussians or {})}
        room, width = int(share * nbytes), Size(shape).numel()
        if embedding is not None:
            made["embedding"], width = embedding, _width_of(embedding, shape)
        elif made.get("codec") is None:
            numbers = _numbers_that_fit(room, width, sizes, made)
            if numbers < width:
                made["embedding"], width = RandomProjection(shape, numbers), numbers
                made.setdefault("rank", _rank(width))
        answers = GaussianMemory.from_budget(room, shape=(width,), **sizes, **made)
        left = nbytes - answers.settled_nbytes(width=width, **sizes)
        kept = {"labels": "uint8" if classes <= 256 else "int16", "store_tasks": False, "seed": seed, **(rows or {})}
        return cls(RandomMemory.from_budget(left, shape=shape, codec=codec, **sizes, **kept), answers)

    # ---------------------------------------------------------------- what it holds

    def __len__(self) -> int:
        """Rows held, that :meth:`sample` draws from."""
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where samples and answers come out."""
        return self.rows.device

    @property
    def nbytes(self) -> int:
        """Bytes of both parts that hold the stream, with the work space of Gaussians that are not packed yet."""
        return self.rows.nbytes + self.gaussians.nbytes

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: codecs and embedding."""
        return self.rows.nbytes_fixed + self.gaussians.nbytes_fixed

    @property
    def codec(self) -> Any:
        """That of the rows."""
        return self.rows.codec

    @property
    def needs(self) -> frozenset[str]:
        """What the rows' write policy needs beside rows and labels."""
        return frozenset(getattr(self.rows, "needs", ()))

    @property
    def store_logits(self) -> bool:
        """Whether the rows are kept with the model's outputs."""
        return bool(getattr(self.rows, "store_logits", False))

    def summary(self) -> Summary:
        """The rows held by class, task and experience; what the Gaussians alone know stands there with 0 rows."""
        rows, answers = self.rows.summary(), self.gaussians.summary()
        known = {
            name: {**dict.fromkeys(getattr(answers, name), 0), **getattr(rows, name)}
            for name in ("per_class", "per_task", "per_experience")
        }
        return Summary(
            description=repr(self),
            capacity=rows.capacity,
            filled=rows.filled,
            seen=rows.seen,
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            **known,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rows!r}, {self.gaussians!r})"

    # ---------------------------------------------------------------- write and read

    def check_rows(self, x: Tensor, y: Tensor | None = None, t: Tensor | int = 0) -> None:
        """Raise what :meth:`write` would for these rows and labels; nothing changes.

        :param x: ``(B, *shape)``.
        :param y: as for :meth:`write`; None: not known yet.
        :param t: as for :meth:`write`.
        """
        for part in (self.rows, self.gaussians):
            if hasattr(part, "check_rows"):
                part.check_rows(x, y, t)

    def write(
        self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None, **more: Any
    ) -> None:
        """Merge a batch into the Gaussians, and offer it to the rows.

        Nothing changes if an error is raised, unless the budget of the rows is below a single one.

        :param x: rows ``(B, *shape)``; their shape and type stay those of the first write.
        :param y: classes ``(B,)``, integers >= 0.
        :param t: task labels ``(B,)`` or one for all, integers >= 0.
        :param origin: number of the experience that the rows come from, ``(B,)`` or one for all; ``t`` if not given.
        :param more: ``logits`` or ``loss``, if :attr:`needs` has them.
        :raises TypeError: if an argument is of a wrong kind.
        :raises ValueError: if shapes, types or values do not fit, naming the argument.
        """
        self.rows.check_rows(x, y, t)
        self.gaussians.write(x, y, t, origin=origin)
        self.rows.write(x, y, t, origin=origin, **more)

    def settle(self) -> None:
        """Pack what the Gaussians of the running experience hold in float32, now that it is over."""
        if hasattr(self.gaussians, "settle"):
            self.gaussians.settle()

    @torch.no_grad()
    def forget(
        self,
        *,
        classes: Collection[int] | None = None,
        origins: Collection[int] | None = None,
        labels: Collection[int] | None = None,
        where: Where = None,
    ) -> int:
        """Let both parts forget classes; nothing changes if one of them cannot.

        :param classes: to let go of; those never seen are passed over.
        :param origins: None, as the Gaussians keep no single rows; so for ``labels`` and ``where``.
        :returns: how many of the rows held they were.
        :raises ValueError: for what a part cannot forget.
        """
        gaussians: Any = self.gaussians
        before = copy.deepcopy(gaussians.state_dict())
        gaussians.forget(classes=classes, origins=origins, labels=labels, where=where)
        try:
            return self.rows.forget(classes=classes)
        except (TypeError, ValueError):
            gaussians.load_state_dict(before)
            raise

    def sample(self, n: int) -> Recall:
        """``n`` of the rows, as their memory draws them.

        :param n: rows wanted, >= 1.
        :raises ValueError: if ``n`` is not positive or the memory is empty.
        """
        return self.rows.sample(n)

    def predict(self, x: Tensor, *, classes: int | None = None, task: int | None = None, **options: Any) -> Tensor:
        """Log posteriors of the classes by the Gaussians alone, ``(B, classes)``; the product is the plugin's.

        :param x: rows ``(B, *shape)``.
        :param classes: columns; None: as many as the largest class has, and one.
        :param task: only classes that were last written under this task label; None: all.
        :param options: further arguments of that memory's ``predict``.
        """
        return self.gaussians.predict(x, classes=classes, task=task, **options)

    # ---------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """What the parts are, so that a state of others is refused."""
        return {"parts": [type(part).__name__ for part in (self.rows, self.gaussians)]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """See that a state is of such parts.

        :raises ValueError: if it is not.
        """
        own = self.get_extra_state()
        if dict(state) != own:
            raise ValueError(f"state: expected that of {own}, got {check.show(state)}")

    def _check_sound(self) -> None:
        for part in self._saved_parts().values():
            part._check_sound()

    def _saved_parts(self) -> dict[str, SavesToFolder]:
        return {name: getattr(self, name) for name in _PARTS}

    def _own_tensors(self) -> dict[str, Tensor]:
        parts = self._saved_parts().items()
        return {f"{name}.{key}": value for name, part in parts for key, value in part._own_tensors().items()}

    def _state_to_save(self) -> dict[str, Any]:
        parts = self._saved_parts().items()
        return {**self.get_extra_state(), **{name: part._state_to_save() for name, part in parts}}

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.set_extra_state({"parts": list(state["parts"])})
        for name, part in self._saved_parts().items():
            own = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
            part._take(own, state[name])


def _rank(width: int) -> int:
    return max(1, round(width / _NUMBERS_A_FACTOR))


def _numbers_that_fit(room: int, most: int, sizes: dict[str, int], made: dict[str, Any]) -> int:
    """Numbers of a row, at most so many, whose Gaussians fit; 1 if none do."""
    options = {name: value for name, value in made.items() if name not in ("rank", "embedding", "codec")}

    def takes(numbers: int) -> int:
        sized = GaussianMemory(rank=made.get("rank", _rank(numbers)), **options)
        return sized.settled_nbytes(width=numbers, **sizes)

    return max(1, bisect_right(range(1, most + 1), room, key=takes))


def _width_of(embedding: nn.Module, shape: tuple[int, ...]) -> int:
    check.instance("embedding", embedding, nn.Module, "a module or None")
    with torch.no_grad(), eval_mode(embedding):
        found = embedding(torch.zeros(1, *shape))
    if not isinstance(found, Tensor) or found.ndim < 2:
        raise ValueError(f"embedding: expected a vector for each row, (B, C), got {check.show(found)}")
    return found[0].numel()
