"""Energy-based memory: patterns are minima of an energy whose weights were written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Size, Tensor
from torch.nn.functional import one_hot

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins.codecs._normalisation import Normalisation
from avalanche_memplugins.codecs.codec import Codec
from avalanche_memplugins.codecs.downsampled import Downsampled
from avalanche_memplugins.codecs.uint8 import Uint8
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.memories._energy_eviction import with_lost_classes
from avalanche_memplugins.memories._energy_reads import EnergyReads
from avalanche_memplugins.memories._energy_slots import EMPTY, Precision
from avalanche_memplugins.memories._generative import TABLE_BYTES
from avalanche_memplugins.memories.recall import Recall
from avalanche_memplugins.networks.energy import EnergyNetwork

Batches = Iterable[tuple[Tensor, Tensor, Tensor | int]]


class EnergyMemory(EnergyReads):
    r"""A bank of energy-based memories: each slot is a copy of a network's writable weights.

    A batch is written by :math:`T` steps of gradient descent on the weights of a fresh slot, so that its patterns
    become minima of :math:`E(x; \theta)`; a read is :math:`K` steps of gradient descent on a pattern, from a cue
    (:func:`~avalanche_memplugins.functional.energy_write`, :func:`~avalanche_memplugins.functional.energy_read`). The
    network has been meta-trained on other data; only slots hold the stream.

    **Writing.** Rows of one task label and origin are written ``slot_size`` at a time, the rest into a slot of fewer.
    With all ``slots`` in use, :meth:`write` keeps a uniform draw of the slots ever offered (a reservoir), and
    :meth:`consolidate` an equal share for every experience, cut at random. ``by_class`` neither drops the last slot of
    a class nor turns away its first while another class has two or more: one of the class with the most goes instead,
    in :meth:`consolidate` one of the same experience if it can. With more classes than slots some class has none.

    **Replay.** :meth:`sample` draws patterns held and reads each in its slot, from the cue stored with it; without
    stored cues from noise or from rows given, and then what comes out is whatever minimum is near, with the class of
    the slot (``by_class=True``) or the one that was read (``label_bits``).

    :param network: meta-trained, for example ``EnergyMemory.from_pretrained("omniglot-28", ...)``; frozen.
    :param slots: most slots held.
    :param slot_size: patterns written together; best as many as in the network's training.
    :param cue: what is stored of each pattern as its cue: a codec; a number: a thumbnail of so many pixels a side and
        256 levels; None: nothing. With ``codec`` it stores codes, from 0 to 1, and not rows.
    :param precision: of the stored weights, ``"float32"``, ``"float16"`` or ``"int8"``.
    :param by_class: write no two classes into one slot, and keep a slot of every class as long as there are enough.
    :param label_bits: 0: classes are stored beside the patterns, a byte each. n: the pattern ends in n entries with the
        class one-hot, which is read with it; the network's patterns are longer by n then.
    :param write_steps: other than the network learned.
    :param read_steps: other than the network learned.
    :param temperature: :math:`\tau \ge 0` of Langevin reads in :meth:`sample`; 0: no noise.
    :param mean: of the user's ``Normalize``: patterns are pixels in [0, 1].
    :param std: of the user's ``Normalize``.
    :param codec: a :class:`~avalanche_memplugins.codecs.LatentCodec`: its codes are the patterns, [-3, 3] standard
        deviations to [0, 1], values beyond cut off. The network must have been trained for them.
    :param seed: of the memory's generator. None: drawn from torch's global generator.
    :raises ValueError: for arguments out of range, or a network for patterns of another size.
    :raises TypeError: for something that is no energy network.

    Source: Bartunov et al., "Meta-learning deep energy-based memory models", ICLR 2020; the bank, stored cues and
    replay are ours.
    """

    def __init__(
        self,
        network: EnergyNetwork,
        *,
        slots: int = 64,
        slot_size: int = 16,
        cue: Codec | int | None = None,
        precision: Precision = "float16",
        by_class: bool = False,
        label_bits: int = 0,
        write_steps: int | None = None,
        read_steps: int | None = None,
        temperature: float = 0.0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        codec: Any | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(network, slots=slots, slot_size=slot_size, precision=precision, codec=codec, seed=seed)
        if not 0 <= check.integer("label_bits", label_bits, least=0) < min(EMPTY, network.size):
            raise ValueError(f"label_bits: expected 0 to {min(EMPTY, network.size) - 1}, got {label_bits!r}")
        check.number("temperature", temperature, least=0)
        check.flag("by_class", by_class)
        size = network.size - label_bits
        if codec is not None and int(codec.code_size) != size:
            raise ValueError(f"codec: expected codes of {size}, as the network's patterns are, got {codec.code_size}")
        for name, steps in (("write_steps", write_steps), ("read_steps", read_steps)):
            if steps is not None:
                check.positive_integer(name, steps)
        if cue is not None and not isinstance(cue, int) and not isinstance(check.made("cue", cue), Codec):
            raise TypeError(f"cue: expected a codec, the side >= 1 of a thumbnail, or None, got {check.show(cue)}")
        self._side = cue if isinstance(cue, int) else None  # of thumbnails by a codec of the memory's own
        if isinstance(cue, int):
            cue = Downsampled(check.positive_integer("cue", cue), Uint8(mean=mean, std=std, lossy=True))
        self._cue_made = repr(cue)
        self.cue, self.by_class, self.label_bits = cue, by_class, label_bits
        self.write_steps, self.read_steps, self.temperature = write_steps, read_steps, float(temperature)
        self.normalisation = Normalisation(mean, std)

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> EnergyMemory:
        """A memory on a network that comes with the library.

        :param name: see ``avalanche_memplugins.pretrained.energy_names()``.
        :param kwargs: the other arguments of :class:`EnergyMemory`; ``slot_size`` is the network's own if not given.
        :raises ValueError: for an unknown name.
        """
        from avalanche_memplugins.pretrained import load_energy

        found = load_energy(name)
        return cls(found.network, **{"slot_size": found.patterns, **kwargs})

    @classmethod
    def from_budget(
        cls, nbytes: int | str, network: EnergyNetwork, *, shape: Sequence[int], classes: int, **kwargs: Any
    ) -> EnergyMemory:
        """The memory with the most slots within a budget.

        :param nbytes: the budget in bytes, a number or as in ``"2MB"``: slots with their cues and labels,
            and the table of classes.
        :param network: see :class:`EnergyMemory`.
        :param shape: of one row of the stream.
        :param classes: how many are expected.
        :param kwargs: the other arguments of :class:`EnergyMemory`.
        :raises ValueError: if not even one slot fits.
        """
        nbytes = parse_bytes(nbytes, "nbytes")
        check.positive_integer("classes", classes)
        memory = cls(network, slots=1, **kwargs)
        each = memory.slot_bytes(shape)
        room = nbytes - TABLE_BYTES * classes
        if room < each:
            raise ValueError(
                f"nbytes: expected at least {each} for a slot and {nbytes - room} for classes, got {nbytes}"
            )
        memory.slots = room // each
        return memory

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({type(self.network).__name__}, slots={self.slots}, slot_size={self.slot_size}, "
            f"cue={self._cue_made}, precision={self.precision!r}, by_class={self.by_class}, "
            f"label_bits={self.label_bits}, write_steps={self.write_steps}, read_steps={self.read_steps}, "
            f"temperature={self.temperature}, {self.normalisation}, codec={self.codec!r})"
        )

    def _find_normalisation(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        if self.codec is None:
            super()._find_normalisation(mean, std)
            if self._side is not None:
                self.cue = Downsampled(self._side, Uint8(mean=mean, std=std, lossy=True))

    # ---------------------------------------------------------------- write

    def write(self, x: Tensor, y: Tensor, t: Tensor | int = 0, *, origin: Tensor | int | None = None) -> None:
        """Write rows into fresh slots; nothing changes if an error is raised.

        :param x: ``(B, *shape)``.
        :param y: ``(B,)`` integer classes, no more than 255 different ones in all.
        :param t: ``(B,)`` task labels, or one for all.
        :param origin: ``(B,)`` numbers of their experiences, or one for all; None: the task labels.
        :raises ValueError: if shapes, labels or values do not fit, naming the argument, or the write diverges.
        """
        origin = t if origin is None else origin
        if not self._check(x, y, t, origin):
            return
        patterns, cues = self._encode(x)
        groups = list(self._groups(y, t, origin))
        # All are written before the first is kept: what fails leaves the memory as it was.
        written = [self._written(patterns[rows], y[rows]) for rows, _, _ in groups]
        self._admit(x, y, t, origin)
        for (rows, task, number), weights in zip(groups, written, strict=True):
            labels = self._places(y[rows])
            place = self._place(int(labels[0]) if self.by_class else None)
            if place != -1:
                self._put(place, weights, cues[rows], labels, task, number)

    def consolidate(self, batches: Batches, *, origin: int) -> None:
        """Write an equal share of an experience: rows drawn evenly from its classes, older shares cut at random.

        :param batches: batches ``(x, y, t)``.
        :param origin: number of the experience.
        :raises ValueError: as :meth:`write`, or if there are no rows.
        """
        check.integer("origin", origin, least=0)
        generator = self._generator.get_state()
        try:
            rows = self._drawn(batches, origin)
            if rows is None:
                raise ValueError("batches: expected the rows of an experience, got none")
            x, y, t = rows
            self._check(x, y, t, origin)  # of all batches together: no more classes than there is room for
            patterns, cues = self._encode(x)
            kept, share = self._shares(origin)
            groups = list(self._groups(y, t, origin))
            kept, groups = self._spared(kept, groups, y, share) if self.by_class else (kept, groups[:share])
            written = [self._written(patterns[chosen], y[chosen]) for chosen, _, _ in groups]
        except BaseException:
            self._generator.set_state(generator)
            raise
        self._admit(x, y, t, origin)
        self._keep(kept)
        for (chosen, task, number), weights in zip(groups, written, strict=True):
            self.offered += 1
            self._put(None, weights, cues[chosen], self._places(y[chosen]), task, number)

    def _admit(self, x: Tensor, y: Tensor, t: Tensor | int, origin: Tensor | int) -> None:
        """Take a batch that is in order into the table of classes."""
        self._enrol(y, t, origin)
        self.shape, self.dtype = x.shape[1:], x.dtype

    def _check(self, x: Tensor, y: Tensor, t: Tensor | int, origin: Tensor | int) -> int:
        rows = super()._check(x, y, t, origin)
        known = {*self.classes, *y.tolist()}
        if len(known) > EMPTY:
            raise ValueError(
                f"y: expected at most {EMPTY} classes, all that this memory holds, got {len(known)} with those it knows"
            )
        if self.label_bits and rows and int(y.max()) >= self.label_bits:
            raise ValueError(f"y: expected classes below label_bits={self.label_bits}, got {int(y.max())}")
        return rows

    def _check_rows(self, x: Tensor) -> None:
        super()._check_rows(x)
        size = self.network.size - self.label_bits
        if self.codec is None:
            if x.shape[1:].numel() != size:
                raise ValueError(
                    f"x: the memory EnergyMemory expected rows of {size} numbers, for which its network was made, got "
                    f"rows of {tuple(x.shape[1:])}"
                )
            self.normalisation.check(x, f"the memory {type(self).__name__}")
        if self.cue is not None and len(x):
            self.cue.check(x if self.codec is None else self._patterns(x))

    def _groups(self, y: Tensor, t: Tensor | int, origin: Tensor | int) -> Iterator[tuple[Tensor, int, int]]:
        """Rows of a batch slot by slot, with the task label and origin that they share."""
        columns = [torch.as_tensor(value).cpu().expand(len(y)) for value in (t, origin)]
        if self.by_class:
            columns.append(y.cpu())
        keys, places = torch.unique(torch.stack(columns, 1), dim=0, return_inverse=True)
        # Rows in the order they came, so that a balanced batch gives balanced slots; groups in turn, so that of slots
        # of one class each the first few are of all classes.
        groups = dict.fromkeys(places.tolist())
        parts = [(places == group).nonzero()[:, 0].split(self.slot_size) for group in groups]
        for turn in zip_longest(*parts):
            for group, rows in zip(groups, turn, strict=True):
                if rows is not None:
                    yield rows.to(y.device), int(keys[group, 0]), int(keys[group, 1])

    def _places(self, y: Tensor) -> Tensor:
        """Places of classes ``(N,)`` in the table."""
        known = {label: index for index, label in enumerate(self.classes)}
        return torch.tensor([known[label] for label in y.tolist()])

    def _written(self, patterns: Tensor, y: Tensor) -> Weights:
        """Weights of a fresh slot into which patterns ``(N, D)`` were written."""
        if self.label_bits:
            patterns = torch.cat([patterns, one_hot(y.to(patterns.device).long(), self.label_bits).to(patterns)], 1)
        with torch.no_grad(), torch.autocast(patterns.device.type, enabled=False):
            weights = self.network.write(patterns.view(1, -1, *self.network.shape), steps=self.write_steps)
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise ValueError(
                "x: expected rows that can be written, got some whose write diverged; take fewer write_steps, or a "
                "network trained for such rows"
            )
        return weights

    def _drawn(self, batches: Batches, origin: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """As many rows of an experience as its slots may hold, the same number of each class if it has them."""
        wanted = self.slots * self.slot_size
        kept: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        for x, y, t in check.experience(batches):
            if not self._check(x, y, t, origin):
                continue
            t = torch.as_tensor(t).expand(len(y))
            keys = torch.rand(len(y), generator=self._generator)
            for label in torch.unique(y).tolist():
                of = y == label
                part = (keys[of.cpu()], x[of], y[of], t[of])
                if label in kept:
                    part = tuple(torch.cat(both) for both in zip(kept[label], part, strict=True))  # type: ignore[assignment]
                # The rows with the smallest of uniform keys are a uniform draw, whatever is still to come.
                first = part[0].argsort()[:wanted]
                kept[label] = tuple(column[first.to(column.device)] for column in part)  # type: ignore[assignment]
        if not kept:
            return None
        rounds = torch.cat([torch.arange(len(part[0])) for part in kept.values()])
        order = rounds.argsort(stable=True)  # classes in turn
        keys, x, y, t = (torch.cat(column) for column in zip(*kept.values(), strict=True))
        order = order[:wanted].to(x.device)
        return x[order], y[order], t[order.to(t.device)]

    def _shares(self, origin: int) -> tuple[Tensor, int]:
        """Slots to keep when every experience is cut to an equal share, and how many this one gets."""
        origins = self.origins[:, 1].cpu()
        known = [number for number in torch.unique(origins).tolist() if number != origin]
        share, left = divmod(self.slots, len(known) + 1)
        if not share:
            # More experiences than slots: this one gets a slot, and a draw of the others keep theirs.
            share, left = 1, 0
            drawn = torch.randperm(len(known), generator=self._generator)[: self.slots - 1]
            known = [known[i] for i in drawn.tolist()]
        kept = []
        for rank, number in enumerate(known):
            mine = (origins == number).nonzero()[:, 0]
            order = torch.randperm(len(mine), generator=self._generator)
            kept.append(mine[order[: share + (rank < left)]].sort().values)
        mine = (origins == origin).nonzero()[:, 0]
        staying = torch.cat([*kept, mine]).sort().values
        return staying, min(self.slots - len(staying), max(0, share + (len(known) < left) - len(mine)))

    def _spared(
        self, kept: Tensor, groups: list[tuple[Tensor, int, int]], y: Tensor, share: int
    ) -> tuple[Tensor, list[tuple[Tensor, int, int]]]:
        """Slots to keep, and groups of an experience to write, so that no class is lost that can be kept."""
        held = self.filled
        labels = [self.classes[place] for place in self.labels[:, 0].tolist()]
        labels += [int(y[rows[0]]) for rows, _, _ in groups]
        origins = [*self.origins[:, 1].tolist(), *(number for _, _, number in groups)]
        staying = [*kept.tolist(), *range(held, held + min(share, len(groups)))]
        staying = with_lost_classes(staying, labels, origins, self.slots, self._generator)
        old = [slot for slot in staying if slot < held]
        return torch.tensor(old, dtype=torch.int64), [groups[slot - held] for slot in staying if slot >= held]

    # ---------------------------------------------------------------- rehearse

    @torch.no_grad()
    def sample(self, n: int, *, cue: Tensor | None = None) -> Recall:
        """Rows to rehearse: patterns held, drawn without repeats as far as they go, each read in its slot.

        :param n: how many.
        :param cue: ``(n, *shape)`` rows to read from instead of the stored cues, such as the current batch. Their
            classes are those of the patterns drawn: right only ``by_class``, or with ``label_bits``.
        :raises ValueError: if nothing has been written, or ``cue`` does not fit.
        """
        check.positive_integer("n", n)
        check.room("n", n, 4 * self.network.size)
        held = self.labels.ne(EMPTY).nonzero().cpu()
        if not len(held):
            raise ValueError("n: nothing has been written to this memory yet, so there is nothing to sample")
        order = torch.cat([torch.randperm(len(held), generator=self._generator) for _ in range(-(-n // len(held)))])
        slots, places = held[order[:n]].to(self.device).unbind(1)
        if cue is not None:
            self._fits("cue", cue)
            check.like("cue", cue, (n, *self.shape), "a row for each of n")
            start = self._encode(cue.to(self.device), with_cues=False)[0]
        elif self.cue is not None:
            start = self._stored_cues(slots, places)
        else:
            size = self.network.size - self.label_bits
            start = torch.rand(n, size, generator=self._generator).to(self.device)
        patterns, classes = self._read_in(slots, start, temperature=self.temperature)
        index = self.labels[slots, places].cpu().long()
        y = self._table[index, 0].to(self.device) if classes is None else classes
        t, origin = self.origins[slots].unbind(1)
        return Recall(self._rows(patterns), y, t, origin)

    def slot_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a slot for rows of a shape: weights, cues and labels."""
        shape = check.row_shape(shape)
        code, dtype = (Size((0,)), torch.uint8) if self.cue is None else self.cue.spec(self._cued(shape), torch.float32)
        cue = code.numel() * torch.empty(0, dtype=dtype).element_size()
        scales = 4 * len(self.network.initial) if self.precision == "int8" else 0
        weights = self.network.writable_floats * {"float32": 4, "float16": 2, "int8": 1}[self.precision]
        return weights + scales + self.slot_size * (cue + 1) + 16

    def _check_sound(self) -> None:
        super()._check_sound()
        if not len(self._table):
            return
        size = self.network.size - self.label_bits
        if self.codec is None and self.shape.numel() != size:
            raise ValueError(f"state: expected rows of {size} numbers, got {tuple(self.shape)}")
        if self.label_bits and int(self._table[:, 0].max()) >= self.label_bits:
            raise ValueError(f"state: expected classes below label_bits={self.label_bits}")
        code, dtype = Size((0,)), torch.uint8
        if self.cue is not None:
            code, dtype = self.cue.spec(self._cued(self.shape), torch.float32 if self.codec is not None else self.dtype)
        if self.filled:
            self._check_buffer("cues", (self.filled, self.slot_size, *code), self.cues.dtype)
            if self.cue is None and self.cues.dtype != dtype:
                raise ValueError(f"state: expected cues of {dtype}, got {self.cues.dtype}")

    def _cued(self, shape: Size) -> Size:
        """Shape of what the cue's codec stores of a row."""
        return shape if self.codec is None else Size((self.network.size - self.label_bits,))
