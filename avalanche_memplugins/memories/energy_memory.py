"""Energy-based memory: patterns are minima of an energy whose weights were written."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Size, Tensor
from torch.nn.functional import one_hot

from avalanche_memplugins import _checks as check
from avalanche_memplugins._bytes import parse_bytes
from avalanche_memplugins._fingerprint import fingerprint
from avalanche_memplugins._normalisation import Normalisation
from avalanche_memplugins.codecs.codec import Codec
from avalanche_memplugins.codecs.downsampled import Downsampled
from avalanche_memplugins.codecs.latent import LatentCodec
from avalanche_memplugins.codecs.uint8 import Uint8
from avalanche_memplugins.functional.energy import Weights
from avalanche_memplugins.memories._energy_eviction import (
    Group,
    balanced_draw,
    equal_shares,
    slot_by_slot,
    spare_classes,
    with_lost_classes,
)
from avalanche_memplugins.memories._energy_slots import EMPTY, TYPES, Precision, SlotBank, SlotReads
from avalanche_memplugins.memories._generative import TABLE_BYTES, GenerativeMemory, check_count, sums
from avalanche_memplugins.memories._rows import check_draw
from avalanche_memplugins.memories.recall import Recall, Summary, counts
from avalanche_memplugins.networks.energy import EnergyNetwork

Batches = Iterable[tuple[Tensor, Tensor, Tensor | int]]


class EnergyMemory(GenerativeMemory):
    r"""A bank of energy-based memories: each slot is a copy of a network's writable weights.

    A batch is written by :math:`T` steps of gradient descent on the weights of a fresh slot, so that its patterns
    become minima of :math:`E(x; \theta)`; a read is :math:`K` steps of gradient descent on a pattern, from a cue
    (:func:`~avalanche_memplugins.functional.energy_write`, :func:`~avalanche_memplugins.functional.energy_read`). The
    network has been meta-trained on other data; only slots hold the stream.

    **Writing.** Rows of one task label and origin are written ``slot_size`` at a time; the rest go into a smaller slot.
    When all ``slots`` are in use, :meth:`write` keeps a uniform draw of all slots offered so far (a reservoir).
    :meth:`consolidate` gives every experience an equal share, and cuts older shares at random. With ``by_class`` a slot
    holds one class, and no class loses its last slot, or is turned away, while another class has two or more: a slot of
    the class with the most goes instead, in :meth:`consolidate` one of the same experience where possible. With more
    classes than slots some class has none.

    **Replay.** :meth:`sample` draws patterns held and reads each in its slot, from the cue stored with it. Without
    stored cues it reads from noise or from rows given. Then it finds whatever minimum is near, with the class of the
    slot (``by_class=True``) or the class that was read (``label_bits``).

    :param network: meta-trained, for example ``EnergyMemory.from_pretrained("omniglot-28", ...)``. It is
        copied: yours stays as it is, and what becomes of it changes no memory. Each memory counts its copy in
        :attr:`nbytes_fixed`.
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

    >>> from avalanche_memplugins.networks.energy import GatedEnergy
    >>> memory = EnergyMemory(GatedEnergy((1, 4, 4), writable=2, width=8), slots=3, slot_size=4, seed=0)
    >>> memory.write(torch.rand(10, 1, 4, 4), torch.arange(10) % 2)
    >>> memory.filled, len(memory)
    (3, 10)
    >>> memory.read(torch.rand(2, 1, 4, 4)).shape
    torch.Size([2, 1, 4, 4])
    """

    CODE_SPAN = 3.0
    """Standard deviations of a code, on either side of 0, that the interval [0, 1] of a pattern stands for."""

    _fixed = ("codec.", "network.", "cue.")
    cues: Tensor
    labels: Tensor
    origins: Tensor

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
        codec: LatentCodec | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(codec=codec, seed=seed)
        if not isinstance(network, EnergyNetwork):
            raise TypeError(f"network: expected an EnergyNetwork, got {check.show(network)}")
        self.slots = check.positive_integer("slots", slots)
        self.slot_size = check.positive_integer("slot_size", slot_size)
        check.choice("precision", precision, tuple(TYPES))
        self.precision: Precision = precision
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
        self.normalisation: Normalisation = Normalisation(mean, std)
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._network_name = fingerprint(self.network.state_dict())
        self.offered = 0  # slots, since the memory was made
        self._bank = SlotBank(self._buffers, self.network, slot_size=slot_size, precision=precision)
        self._reads = SlotReads(self._bank, label_bits=label_bits, read_steps=read_steps)

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

    # ---------------------------------------------------------------- what it holds

    def __len__(self) -> int:
        """Patterns held."""
        return int(self.labels.ne(EMPTY).sum())

    @property
    def filled(self) -> int:
        """Slots in use."""
        return len(self._bank)

    @property
    def device(self) -> torch.device:
        """Where reads come out."""
        return self.labels.device

    @property
    def nbytes_fixed(self) -> int:
        """Bytes needed besides, whatever the stream: the memory's copy of the network, and the codec."""
        parts = (*self.network.parameters(), *self.network.buffers())
        return super().nbytes_fixed + sum(part.nbytes for part in parts)

    @property
    def classes_held(self) -> Tensor:
        """Classes of the patterns held, ``(len(self),)`` int64 on the CPU, slot by slot."""
        held = self.labels[self.labels.ne(EMPTY)].cpu().long()
        return self._table[held, 0]

    def summary(self) -> Summary:
        """Patterns held by class, task and experience."""
        rows = self.labels.ne(EMPTY).sum(1).cpu()
        return Summary(
            description=repr(self),
            capacity=self.slots * self.slot_size,
            filled=len(self),
            seen=int(self._table[:, 1].sum()),
            nbytes=self.nbytes,
            nbytes_fixed=self.nbytes_fixed,
            per_class=counts(self.classes_held),
            per_task=sums(self.origins[:, 0].cpu(), rows),
            per_experience=sums(self.origins[:, 1].cpu(), rows),
        )

    def weights(self, slots: Tensor) -> Weights:
        """Written weights of slots ``(E,)``, each ``(E, *shape)`` float32."""
        return self._bank.weights(slots)

    def slot_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a slot for rows of a shape: weights, cues and labels."""
        code, dtype = self._cue_spec(check.row_shape(shape), torch.float32)
        return self._bank.bytes_of_a_slot(code.numel() * dtype.itemsize)

    def _cue_spec(self, shape: Size, dtype: torch.dtype) -> tuple[Size, torch.dtype]:
        """Shape and type of the cue stored of a row."""
        if self.cue is None:
            return Size((0,)), torch.uint8
        if self.codec is not None:
            shape, dtype = Size((self.network.size - self.label_bits,)), torch.float32
        return self.cue.spec(shape, dtype)

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
        groups = slot_by_slot(y, t, origin, self.slot_size, by_class=self.by_class)
        # All are written before the first is kept: what fails leaves the memory as it was.
        written = [self._written(patterns[rows], y[rows]) for rows, _, _ in groups]
        self._admit(x, y, t, origin)
        for (rows, task, number), weights in zip(groups, written, strict=True):
            labels = self._index(y[rows])
            place = self._place(int(labels[0]) if self.by_class else None)
            if place != -1:
                self._bank.put(place, weights, cues[rows], labels, task, number)

    def consolidate(self, batches: Batches, *, origin: int) -> None:
        """Write an equal share of an experience: rows drawn evenly from its classes, older shares cut at random.

        :param batches: batches ``(x, y, t)``.
        :param origin: number of the experience.
        :raises ValueError: as :meth:`write`, or if there are no rows.
        """
        check.integer("origin", origin, least=0)
        generator = self._generator.get_state()
        try:
            looked_at = (
                (x, y, torch.as_tensor(t).expand(len(y)))
                for x, y, t in check.experience(batches)
                if self._check(x, y, t, origin)
            )
            rows = balanced_draw(looked_at, self.slots * self.slot_size, self._generator)
            if rows is None:
                raise ValueError("batches: expected the rows of an experience, got none")
            x, y, t = rows
            self._check(x, y, t, origin)  # of all batches together: no more classes than there is room for
            patterns, cues = self._encode(x)
            kept, share = equal_shares(self.origins[:, 1].cpu(), origin, self.slots, self._generator)
            groups = slot_by_slot(y, t, origin, self.slot_size, by_class=self.by_class)
            kept, groups = self._spared(kept, groups, y, share) if self.by_class else (kept, groups[:share])
            written = [self._written(patterns[chosen], y[chosen]) for chosen, _, _ in groups]
        except BaseException:
            self._generator.set_state(generator)
            raise
        self._admit(x, y, t, origin)
        self._bank.keep(kept)
        for (chosen, task, number), weights in zip(groups, written, strict=True):
            self.offered += 1
            self._bank.put(None, weights, cues[chosen], self._index(y[chosen]), task, number)

    @property
    def _mixes(self) -> str:
        return "" if self.by_class else "slots of several classes (by_class=False)"

    def _keep_classes(self, index: Tensor) -> None:
        place = torch.full((EMPTY + 1,), EMPTY, dtype=torch.uint8)
        place[index] = torch.arange(len(index), dtype=torch.uint8)
        held, filled = place[self.labels[:, 0].cpu().long()] != EMPTY, self.filled
        self._bank.keep(held.nonzero().flatten())
        self._bank.labels = place.to(self.device)[self.labels.long()]
        if not self.filled:
            self._bank.cues = self.cues.new_zeros(0, self.slot_size, 0, dtype=torch.uint8)
        # Of the slots offered as large a share is gone as of those held; a memory that was never full has lost none.
        share = self.offered * self.filled / max(1, filled)
        self.offered = self.filled if self.offered <= filled else max(self.filled, round(share))

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
                    f"x: expected rows of {size} numbers, for which the network was made, got rows of "
                    f"{tuple(x.shape[1:])}"
                )
            self.normalisation.check(x, f"the memory {type(self).__name__}")
        if self.cue is not None and len(x):
            self.cue.check(x if self.codec is None else self._patterns(x))

    def _place(self, label: int | None) -> int | None:
        """Slot that the next one offered takes: None is a new one; -1: none (a reservoir over slots).

        :param label: place in the table of the one class that the slot offered is of, like all others: then no class is
            lost that can be kept. None: slots are of any classes.
        """
        self.offered += 1
        if self.filled < self.slots:
            return None
        drawn = int(torch.randint(self.offered, (), generator=self._generator))
        place = drawn if drawn < self.slots else -1
        if label is None:
            return place
        place = spare_classes(place, [*self.labels[:, 0].tolist(), label], self._generator)
        return place if place < self.slots else -1

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

    def _spared(self, kept: Tensor, groups: list[Group], y: Tensor, share: int) -> tuple[Tensor, list[Group]]:
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
        held = self._bank.held().cpu()
        check_draw(n, len(held))
        check.room("n", n, 4 * self.network.size)
        order = torch.cat([torch.randperm(len(held), generator=self._generator) for _ in range(-(-n // len(held)))])
        slots, places = held[order[:n]].to(self.device).unbind(1)
        if cue is not None:
            self._check_cue("cue", cue)
            check.like("cue", cue, (n, *self.shape), "a row for each of n")
            start = self._encode(cue.to(self.device), with_cues=False)[0]
        elif self.cue is not None:
            start = self._stored_cues(slots, places)
        else:
            size = self.network.size - self.label_bits
            start = torch.rand(n, size, generator=self._generator).to(self.device)
        patterns, classes = self._reads.read(slots, start, self._generator, temperature=self.temperature)
        index = self.labels[slots, places].cpu().long()
        y = self._table[index, 0].to(self.device) if classes is None else classes
        t, origin = self.origins[slots].unbind(1)
        return Recall(self._rows(patterns), y, t, origin)

    # ---------------------------------------------------------------- read

    @torch.no_grad()
    def read(
        self,
        cue: Tensor,
        *,
        slots: Tensor | None = None,
        route: Literal["match", "energy", "cue"] = "match",
        known: Tensor | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
    ) -> Tensor:
        """Restore distorted rows.

        :param cue: ``(B, *shape)``.
        :param slots: ``(B,)`` slots to read in; None: found by ``route``.
        :param route: ``"match"``: the slot whose read leaves the cue as it is, in entries that are known if ``known``
            says which; ``"energy"``: the slot whose energy is lowest after the read; both take a read in each slot.
            ``"cue"``: the slot of the stored cue that is nearest. Energies of different slots hardly compare: of eight
            slots of MNIST images the lowest is the right one in 44 %, the best match in 85 %, both with ``known``.
        :param known: ``(B, *shape)`` bool, entries that are not distorted and are to stay.
        :param steps: other than the network learned.
        :param temperature: of Langevin reads.
        :returns: ``(B, *shape)``.
        :raises ValueError: if nothing has been written, or an argument does not fit.
        """
        if not self.filled:
            raise ValueError("cue: nothing has been written to this memory yet, so there is nothing to read")
        self._check_cue("cue", cue)
        if steps is not None:
            check.positive_integer("steps", steps)
        start = self._encode(cue.to(self.device), with_cues=False)[0]
        check.number("temperature", temperature, least=0)
        kept = None if known is None else self._mask(known, len(cue))
        if not len(cue):
            return self._rows(start)
        if slots is None:
            if check.choice("route", route, ("match", "energy", "cue")) == "cue":
                slots = self.nearest(start)
            else:
                find = self.matching if route == "match" else self.lowest
                slots = find(start, known=kept, steps=steps)
        elif (
            check.tensor("slots", slots).dtype not in (torch.int32, torch.int64)
            or slots.shape != (len(cue),)
            or not 0 <= int(slots.min()) <= int(slots.max()) < self.filled
        ):
            raise ValueError(
                f"slots: expected ({len(cue)},) integers from 0 to {self.filled - 1}, got {slots.tolist()[:8]}"
            )
        patterns, _ = self._reads.read(
            slots.to(self.device), start, self._generator, known=kept, steps=steps, temperature=temperature
        )
        return self._rows(patterns)

    @torch.no_grad()
    def matching(self, patterns: Tensor, *, known: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Slot ``(B,)`` in which a free read from each flat pattern ``(B, D)`` moves its known entries least."""
        self._check_flat(patterns, known, steps)
        return self._reads.find(patterns, known, steps, by_energy=False)

    @torch.no_grad()
    def lowest(self, patterns: Tensor, *, known: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Slot ``(B,)`` in which a read from each flat pattern ``(B, D)`` ends at the lowest energy."""
        self._check_flat(patterns, known, steps)
        return self._reads.find(patterns, known, steps, by_energy=True)

    @torch.no_grad()
    def nearest(self, patterns: Tensor) -> Tensor:
        """Slot ``(B,)`` of the stored cue nearest to flat patterns ``(B, D)``.

        :raises ValueError: if the memory stores none.
        """
        self._check_flat(patterns, None, None)
        if self.cue is None:
            raise ValueError("route: expected a memory that stores cues for 'cue', got one made with cue=None")
        slots, places = self._bank.held().unbind(1)
        stored = self._stored_cues(slots, places)
        return slots[torch.cdist(patterns, stored).argmin(1)]

    @torch.no_grad()
    def novelty(self, x: Tensor, *, score: Literal["slope", "energy"] = "slope") -> Tensor:
        r"""How little the memory knows rows, ``(B,)``; over slots s the least of

        .. math::
            g_s^\top A g_s, \quad g_s = \nabla_x E(x; \theta_s) \quad\text{(slope)}, \qquad
            E(x; \theta_s) - E(x; \bar\theta) \quad\text{(energy)}

        What was written lies in a minimum, where there is no slope; :math:`A` is the preconditioner of reads, so that
        the slope is that which a read follows. Energies themselves tell less: nothing in the training of a network
        says that those of its minima are equal, or lower than all others (bench/RESULTS.md).

        :param x: ``(B, *shape)``.
        :param score: ``"slope"`` or ``"energy"``.
        :raises ValueError: if nothing has been written, or an argument does not fit.
        """
        by_slope = check.choice("score", score, ("slope", "energy")) == "slope"
        if not self.filled:
            raise ValueError("x: nothing has been written to this memory yet, so everything is new to it")
        self._check_cue("x", x)
        return self._reads.novelty(self._encode(x.to(self.device), with_cues=False)[0], by_slope=by_slope)

    # ---------------------------------------------------------------- rows and patterns

    def _encode(self, x: Tensor, *, with_cues: bool = True) -> tuple[Tensor, Tensor]:
        """Flat patterns in [0, 1] and the codes of their cues."""
        x = x.to(self.device)
        patterns = self._patterns(x)
        if with_cues and self.cue is not None:
            return patterns, self.cue.encode(x if self.codec is None else patterns)
        return patterns, torch.zeros(len(x), 0, dtype=torch.uint8, device=self.device)

    def _stored_cues(self, slots: Tensor, places: Tensor) -> Tensor:
        """Flat patterns that the stored cues of patterns ``(B,)`` stand for."""
        if self.cue is None:
            raise ValueError("cue: none are stored by a memory made with cue=None")
        code = self.cues[slots, places]
        if self.codec is not None:
            return self.cue.decode(code, Size((self.network.size - self.label_bits,)), torch.float32)
        return self._patterns(self.cue.decode(code, self.shape, self.dtype))

    def _patterns(self, x: Tensor) -> Tensor:
        if self.codec is not None:
            return (self._to_codes(x) / (2 * self.CODE_SPAN) + 0.5).clamp(0, 1)
        return self.normalisation.undo(x).flatten(1).clamp(0, 1)

    def _rows(self, patterns: Tensor) -> Tensor:
        if self.codec is not None:
            return self._from_codes((patterns - 0.5) * (2 * self.CODE_SPAN))
        return self.normalisation.redo(patterns.view(-1, *self.shape), self.dtype)

    def _check_flat(self, patterns: Tensor, known: Tensor | None, steps: int | None) -> None:
        check.rows("patterns", patterns, (self.network.size - self.label_bits,))
        if known is not None and (check.tensor("known", known).dtype != torch.bool or known.shape != patterns.shape):
            raise ValueError(f"known: expected bool {tuple(patterns.shape)}, got {known.dtype} {tuple(known.shape)}")
        if steps is not None:
            check.positive_integer("steps", steps)

    def _mask(self, known: Tensor, rows: int) -> Tensor:
        if self.codec is not None:
            raise ValueError(
                "known: expected None with a codec, as entries of a row are not entries of its code, got a mask"
            )
        if check.tensor("known", known).dtype != torch.bool or known.shape != (rows, *self.shape):
            raise ValueError(f"known: expected bool {(rows, *self.shape)}, got {known.dtype} {tuple(known.shape)}")
        return known.to(self.device).flatten(1)

    # ---------------------------------------------------------------- state

    def _parts(self) -> list[str]:
        return [repr(self), f"a network with the fingerprint {self._network_name}"]

    def get_extra_state(self) -> dict[str, Any]:
        """All that is not a parameter or buffer: classes, shape of a row, the generator, slots offered."""
        return {**super().get_extra_state(), "offered": self.offered}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        :raises ValueError: if it is of a memory made with other arguments or another network.
        """
        super().set_extra_state(state)
        self.offered = state["offered"]

    def _check_sound(self) -> None:
        super()._check_sound()
        filled, classes = self.filled, len(self._table)
        if filled > self.slots or filled > check_count("offered", self.offered) or (filled and not classes):
            raise ValueError(f"state: expected at most {self.slots} slots, got {filled} of {self.offered} offered")
        for i, initial in enumerate(self.network.initial):
            self._check_buffer(f"delta{i}", (filled, *initial.shape[1:]), TYPES[self.precision])
            if self.precision == "int8":
                self._check_buffer(f"scale{i}", (filled,))
        self._check_buffer("labels", (filled, self.slot_size), torch.uint8)
        self._check_buffer("origins", (filled, 2), torch.int64)
        places = self.labels[self.labels != EMPTY]
        if places.numel() and int(places.max()) >= classes:
            raise ValueError(f"state: expected patterns of {classes} classes, got one of place {int(places.max())}")
        check.label_range("state: origins", self.origins)
        if fingerprint(self.network.state_dict()) != self._network_name:
            raise ValueError("state: expected the weights of this memory's network, got others")
        if not len(self._table):
            return
        size = self.network.size - self.label_bits
        if self.codec is None and self.shape.numel() != size:
            raise ValueError(f"state: expected rows of {size} numbers, got {tuple(self.shape)}")
        if self.label_bits and int(self._table[:, 0].max()) >= self.label_bits:
            raise ValueError(f"state: expected classes below label_bits={self.label_bits}")
        code, dtype = self._cue_spec(self.shape, self.dtype)
        if filled:
            self._check_buffer("cues", (filled, self.slot_size, *code), dtype)
