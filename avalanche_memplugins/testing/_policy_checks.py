"""What every write policy and every read policy promises."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from avalanche_memplugins.memories.policies import Offered
from avalanche_memplugins.memories.recall import Recall
from avalanche_memplugins.testing._promise import ensure, promise, same
from avalanche_memplugins.testing.cases import PolicyCase, vectors

CAPACITY = 30
UNLIKELY = 1e-5
Rows = list[int]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _indices(value: Any, size: int) -> list[int]:
    return list(range(*value.indices(size))) if isinstance(value, slice) else torch.as_tensor(value).tolist()


def _groups(policy: Any, first: int, batch: int) -> list[int] | None:
    """Three groups, of which the stream brings one after the other, then all."""
    numbers = range(first, first + batch)
    return None if policy.grouping is None else [n // 40 if n < 120 else n % 3 for n in numbers]


def _started(case: PolicyCase, capacity: int = CAPACITY) -> Any:
    policy = case.make()
    policy.start(capacity)
    return policy


# ------------------------------------------------------------------------------------------------ write policies


def _recall(numbers: list[int]) -> Recall:
    """Rows of the stream by their numbers."""
    x = torch.stack([vectors(1, number)[0] for number in numbers]) if numbers else vectors(0, 0)
    y = torch.tensor([number % 3 for number in numbers], dtype=torch.int64)
    return Recall(x, y, torch.zeros_like(y), torch.zeros_like(y))


class _Offering:
    """Offers the rows of a stream to a policy, and knows which row is in which slot."""

    def __init__(self, policy: Any, generator: torch.Generator, capacity: int = CAPACITY) -> None:
        self.policy, self.generator, self.capacity = policy, generator, capacity
        self.seen = 0
        self.held: dict[int, int] = {}

    def place(self, batch: int, groups: list[int] | None) -> list[tuple[Rows, Rows]]:
        """Rows of the next batch that are kept, and their slots."""
        numbers = list(range(self.seen, self.seen + batch))
        more = [self._offered(numbers)] if getattr(self.policy, "needs", ()) else []
        found = self.policy.place(self.seen, batch, groups, self.generator, *more)
        placed = [(_indices(rows, batch), _indices(slots, self.capacity)) for rows, slots in found]
        self.held |= {slot: self.seen + row for rows, slots in placed for row, slot in zip(rows, slots, strict=False)}
        self.seen += batch
        return placed

    def _offered(self, numbers: list[int]) -> Offered:
        new, needs = _recall(numbers), self.policy.needs
        logits = new.x[:, :3]
        known = {"x": new.x, "y": new.y, "logits": logits, "loss": cross_entropy(logits, new.y, reduction="none")}
        # What it holds is asked for while the batch is placed: those of the batch are not among it yet.
        before = dict(self.held)
        return Offered(
            **{name: known[name] for name in needs},
            **({"key": new.x, "y": new.y} if "x" in needs else {}),
            held=lambda slots: _recall([before[slot] for slot in slots.tolist()]),
        )

    def stream(self, until: int = 200) -> Iterator[tuple[int, int, list[tuple[Rows, Rows]]]]:
        """Batches of many sizes: the number of the first row, their size, and where they went."""
        sizes = itertools.cycle((1, 7, 3, 50, 10))
        while self.seen < until:
            first, batch = self.seen, next(sizes)
            yield first, batch, self.place(batch, _groups(self.policy, first, batch))

    def of(self, policy: Any) -> _Offering:
        """The same offering to a policy that takes its place, with a generator in the same state."""
        other = _Offering(policy, _generator(), self.capacity)
        other.generator.set_state(self.generator.get_state())
        other.seen, other.held = self.seen, dict(self.held)
        return other


def _stream(
    case: PolicyCase, policy: Any, generator: torch.Generator
) -> Iterator[tuple[int, int, list[tuple[Rows, Rows]]]]:
    return _Offering(policy, generator).stream()


@promise("place")
def check_rows_and_slots_are_within_their_range(case: PolicyCase) -> None:
    """Placements are pairs of as many rows of the batch as slots below the capacity."""
    for seen, batch, placed in _stream(case, _started(case), _generator()):
        for rows, slots in placed:
            ensure(len(rows) == len(slots), f"{len(rows)} rows for {len(slots)} slots", "give a slot to each row")
            right = all(0 <= row < batch for row in rows)
            ensure(right, f"rows {rows} of a batch of {batch} after {seen}", "count rows from the start of the batch")
            right = all(0 <= slot < CAPACITY for slot in slots)
            ensure(right, f"slots {slots} of {CAPACITY}", "use the capacity that start() was given")


@promise("place")
def check_a_slot_gets_at_most_one_row_of_a_batch(case: PolicyCase) -> None:
    """No slot and no row comes twice in what one call of place gives."""
    for _, _, placed in _stream(case, _started(case), _generator()):
        for name, found in zip(("row", "slot"), zip(*placed, strict=True), strict=False):
            every = [number for numbers in found for number in numbers]
            ensure(len(set(every)) == len(every), f"a {name} comes twice: {sorted(every)}", "keep the last write only")


@promise("place")
def check_slots_fill_from_the_first_on(case: PolicyCase) -> None:
    """A memory that has kept n rows holds them in slots 0 to n - 1, and is full before it drops any."""
    held: set[int] = set()
    for seen, batch, placed in _stream(case, _started(case), _generator()):
        held |= {slot for _, slots in placed for slot in slots}
        ensure(held == set(range(len(held))), f"slots {sorted(held)} are filled", "fill slots in ascending order")
        ensure(
            len(held) == min(CAPACITY, seen + batch), f"{len(held)} slots hold rows", "drop no row before it is full"
        )


@promise("place")
def check_choices_come_from_the_generator(case: PolicyCase) -> None:
    """Equal generators give equal placements, and torch's global generator is not touched."""
    before = torch.get_rng_state()
    found = [list(_stream(case, _started(case), _generator(3))) for _ in range(2)]
    fix = "pass the generator on to every random number"
    ensure(torch.equal(before, torch.get_rng_state()), "torch's global generator has changed", fix)
    ensure(found[0] == found[1], "two runs of one seed differ", fix)


@promise("place", "state_dict", "load_state_dict")
def check_a_restored_write_policy_goes_on_exactly(case: PolicyCase) -> None:
    """A policy that takes up another's state_dict, and a deepcopy, go on exactly as that one does."""
    offering = _Offering(_started(case), _generator(1))
    list(offering.stream(until=100))
    policy = offering.policy
    copied, restored = copy.deepcopy(policy), _started(case)
    restored.load_state_dict(copy.deepcopy(policy.state_dict()))
    others = [offering.of(other) for other in (copied, restored, policy)]
    found = [list(other.stream(until=250)) for other in others]
    fix = "put all that place uses into state_dict, as tensors and numbers"
    ensure(found[0] == found[2], "a deepcopy goes on differently", fix)
    ensure(found[1] == found[2], "a restored policy goes on differently", fix)


@promise("start")
def check_start_empties_the_policy(case: PolicyCase) -> None:
    """A policy that was used and started anew works as a new one does, on the capacity that it is given then."""
    used, new = _started(case, 17), _started(case)
    if hasattr(used, "place"):
        list(_Offering(used, _generator(1), 17).stream())
        used.start(CAPACITY)
        equal = list(_stream(case, used, _generator(2))) == list(_stream(case, new, _generator(2)))
    else:
        _assign(used, 17)
        used.choose(5, 17, _generator(1))
        used.start(CAPACITY)
        found = []
        for policy in (used, new):
            _assign(policy, CAPACITY)
            found.append([policy.choose(5, CAPACITY, _generator(2)) for _ in range(3)])
        equal = same(*found)
    ensure(equal, "it goes on with what it knew before", "set every attribute of the state in start()")


@promise("nbytes")
def check_the_bytes_of_its_state_are_stated(case: PolicyCase) -> None:
    """nbytes is an int, at least what the tensors of state_dict take, but for their order in memory."""
    policy = _started(case)
    if hasattr(policy, "place"):
        list(_stream(case, policy, _generator()))
    else:
        _assign(policy, CAPACITY)
        policy.choose(5, CAPACITY, _generator())
    told = policy.nbytes
    ensure(type(told) is int and told >= 0, f"nbytes is {told!r}", "return an int")
    tensors = [value for value in policy.state_dict().values() if isinstance(value, Tensor)]
    grown = sum(value.numel() for value in tensors if value.numel() >= CAPACITY // 2)
    ensure(
        told >= grown, f"nbytes is {told}, its state has {grown} numbers or more", "count what grows with the capacity"
    )


@promise("place", where=lambda case: case.uniform)
def check_every_row_is_kept_equally_often(case: PolicyCase) -> None:
    """Every row of the stream (of its group, if the policy has a grouping) is as likely to be held at the end."""
    stream, repeats, batch = 60, 600, 12
    counts = np.zeros(stream)
    for seed in range(repeats):
        offering = _Offering(_started(case, 15), _generator(seed), 15)
        for seen in range(0, stream, batch):
            grouped = offering.policy.grouping is not None
            offering.place(batch, [(seen + row) // 20 for row in range(batch)] if grouped else None)
        counts[list(offering.held.values())] += 1
    parts = np.split(counts, 3) if offering.policy.grouping else [counts]
    for part in parts:
        ensure(
            _evenness(part, repeats) > UNLIKELY,
            f"of {repeats} runs the first rows stay in {part[:5].tolist()}, the last in {part[-5:].tolist()}",
            "let the n-th row in with probability capacity / n, in a slot drawn uniformly",
        )


def _evenness(counts: np.ndarray[Any, Any], repeats: int) -> float:
    """p-value of all rows being drawn equally often, a fixed number a time, without replacement."""
    from scipy import stats

    n, total = len(counts), counts.sum()
    share = total / repeats / n
    if not 0 < share < 1:
        return 1.0 if np.ptp(counts) == 0 else 0.0
    statistic = ((counts - total / n) ** 2).sum() / (repeats * share) * (n - 1) / (n * (1 - share))
    return float(stats.chi2.sf(statistic, n - 1))


# ------------------------------------------------------------------------------------------------ read policies


def _assign(policy: Any, filled: int) -> None:
    """Tell a policy with a grouping of slots of three groups."""
    if policy.grouping is not None:
        policy.assign(list(range(filled)), [slot % 3 for slot in range(filled)])


@promise("choose")
def check_slots_that_are_chosen_hold_a_row(case: PolicyCase) -> None:
    """choose gives int64 (n,) on the CPU, below the rows filled, and as many as asked if there are as many."""
    policy, generator = _started(case), _generator()
    for filled in (1, 4, 20, CAPACITY):
        _assign(policy, filled)
        for count in (1, 3, 20, 50):
            found = policy.choose(count, filled, generator)
            right = found.dtype == torch.int64 and found.ndim == 1 and found.device.type == "cpu"
            ensure(right, f"choose gave {found.dtype} {tuple(found.shape)} on {found.device}", "give int64 on the CPU")
            right = 0 <= int(found.min()) <= int(found.max()) < filled
            ensure(right, f"slots {found.tolist()} of {filled} that are filled", "draw below `filled`")
            least = min(count, filled)
            ensure(
                least <= len(found) <= count, f"{len(found)} of {count} rows, {filled} are there", "give what there is"
            )


@promise("choose", where=lambda case: not getattr(case.make(), "replacement", False))
def check_a_row_is_chosen_once_at_a_time(case: PolicyCase) -> None:
    """Without replacement no row comes twice in one draw."""
    policy, generator = _started(case), _generator()
    _assign(policy, CAPACITY)
    for count in (5, 13, CAPACITY):
        found = policy.choose(count, CAPACITY, generator).tolist()
        ensure(len(set(found)) == len(found), f"rows come twice: {sorted(found)}", "draw without replacement")


@promise("choose")
def check_draws_come_from_the_generator(case: PolicyCase) -> None:
    """Equal generators give equal draws, other generators others, and torch's global generator is not touched."""
    before, found = torch.get_rng_state(), []
    for seed in (3, 3, 4):
        policy, generator = _started(case), _generator(seed)
        _assign(policy, CAPACITY)
        found.append([policy.choose(6, CAPACITY, generator) for _ in range(6)])
    fix = "pass the generator on to every random number"
    ensure(torch.equal(before, torch.get_rng_state()), "torch's global generator has changed", fix)
    ensure(same(found[0], found[1]), "two runs of one seed differ", fix)
    ensure(not same(found[0], found[2]), "two seeds give the same draws", fix)


@promise("choose")
def check_a_draw_made_ahead_on_a_shallow_copy_does_not_count(case: PolicyCase) -> None:
    """choose binds attributes anew and changes no value in place: a draw on copy.copy leaves the policy as it was."""
    policy, generator = _started(case), _generator()
    _assign(policy, CAPACITY)
    policy.choose(7, CAPACITY, generator)
    state = copy.deepcopy(policy.state_dict())
    drawn = generator.get_state()
    ahead = copy.copy(policy).choose(7, CAPACITY, generator)
    ensure(same(state, policy.state_dict()), "its state has changed", "write self.rest = self.rest[n:], not in place")
    generator.set_state(drawn)
    ensure(same(ahead, policy.choose(7, CAPACITY, generator)), "the same draw differs", "keep all state in attributes")


@promise("choose", "state_dict", "load_state_dict")
def check_a_restored_read_policy_goes_on_exactly(case: PolicyCase) -> None:
    """A policy that takes up another's state_dict, and a deepcopy, go on exactly as that one does."""
    policy, generator = _started(case), _generator(1)
    _assign(policy, CAPACITY)
    policy.choose(7, CAPACITY, generator)
    copied, restored = copy.deepcopy(policy), _started(case)
    restored.load_state_dict(copy.deepcopy(policy.state_dict()))
    drawn, found = generator.get_state(), []
    for other in (copied, restored, policy):
        generator.set_state(drawn)
        found.append([other.choose(7, CAPACITY, generator) for _ in range(6)])
    fix = "put all that choose uses into state_dict, as tensors and numbers"
    ensure(same(found[0], found[2]), "a deepcopy goes on differently", fix)
    ensure(same(found[1], found[2]), "a restored policy goes on differently", fix)


@promise("choose", where=lambda case: case.uniform)
def check_every_row_is_drawn_equally_often(case: PolicyCase) -> None:
    """Every row (of its group, if the policy has a grouping) is drawn equally often."""
    repeats, counts = 1_000, np.zeros(CAPACITY)
    policy, generator = _started(case), _generator(7)
    _assign(policy, CAPACITY)
    for _ in range(repeats):
        np.add.at(counts, policy.choose(6, CAPACITY, generator).numpy(), 1)
    parts = [counts] if policy.grouping is None else [counts[group::3] for group in range(3)]
    for part in parts:
        told = f"rows are drawn {sorted(part.astype(int).tolist())} times"
        ensure(_evenness(part, repeats) > UNLIKELY, told, "give every row the same probability")
