"""What every memory promises."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import pickle
import random
import sys
import tempfile
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avalanche_memplugins.testing._promise import ensure, pickles, promise, same
from avalanche_memplugins.testing.cases import MemoryCase

BATCH = 10
GROWN = 40_000  # bytes more, beside which rounding and single objects do not matter
BYTES = 0.02
SLOWER = 5.0


def _labels(case: MemoryCase, n: int) -> Tensor:
    return torch.arange(n) % case.classes


def _write(case: MemoryCase, memory: Any, x: Tensor, y: Tensor, origin: int = 0, t: int | None = None) -> None:
    task = origin if t is None else t
    if case.write is not None:
        case.write(memory, x, y, origin)
    elif case.writes == "experiences":
        memory.consolidate([(x, y, torch.full((len(y),), task))], origin=origin)
    else:
        memory.write(x, y, task, origin=origin, **_outputs(case, memory, len(x)))


def _outputs(case: MemoryCase, memory: Any, rows: int) -> dict[str, Tensor]:
    """What the memory asks for of a network that knows nothing of the rows."""
    needs = set(getattr(memory, "needs", ()))
    if getattr(memory, "store_logits", False):
        needs.add("logits")
    logits = torch.randn(rows, case.classes, generator=torch.Generator().manual_seed(rows))
    known = {"logits": logits, "loss": logits.logsumexp(1) - logits[:, 0]}
    return {name: value for name, value in known.items() if name in needs}


def _filled(case: MemoryCase, *, capacity: int = 40, seed: int = 5, batches: int = 8) -> Any:
    memory = case.make(capacity, seed)
    for number in range(batches):
        _write(case, memory, case.rows(BATCH, number), _labels(case, BATCH), origin=number // 3)
    return memory


def _drawn(case: MemoryCase, memory: Any, n: int = BATCH) -> Any:
    """What comes back."""
    if case.read is not None:
        return case.read(memory, case.rows(BATCH, 77))
    if case.reads == "cue":
        return memory.read(case.rows(BATCH, 77))
    return memory.predict(case.rows(BATCH, 77)) if case.reads == "predict" else memory.sample(n)


def _read(case: MemoryCase, memory: Any, n: int = BATCH) -> Any:
    """What comes back, with torch's global generator in a known state: one check tells who draws from it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _drawn(case, memory, n)


def _goes_on(case: MemoryCase, memory: Any) -> list[Any]:
    """All that a memory gives in a while: reads, a write, and reads again."""
    first = [_read(case, memory), _read(case, memory)]
    _write(case, memory, case.rows(BATCH, 50), _labels(case, BATCH), origin=3)
    return [*first, _read(case, memory), _state(memory)]


def _state(memory: Any) -> dict[str, Any]:
    state = {"state": memory.state_dict(), "nbytes": memory.nbytes}
    if hasattr(memory, "__len__"):
        state["len"] = len(memory)
    return copy.deepcopy(state)


def _told(change: str) -> str:
    return f"check everything before the first change; {change}"


# ------------------------------------------------------------------------------------------------ write and read


def _samples(case: MemoryCase) -> bool:
    return case.reads == "sample" and case.read is None


@promise("sample", where=_samples)
def check_samples_have_the_shapes_and_types_of_what_was_written(case: MemoryCase) -> None:
    """sample(n) gives n rows of the written shape and type with int64 y, t and origin (n,), on memory.device."""
    memory, x = _filled(case), case.rows(BATCH, 0)
    for n in (1, 7):
        recall = memory.sample(n)
        got = tuple(recall.x.shape), recall.x.dtype
        ensure(got == ((n, *x.shape[1:]), x.dtype), f"sample({n}).x is {got}", f"give {n} rows as {x.dtype}")
        for name in ("y", "t", "origin"):
            label = getattr(recall, name)
            right = label.shape == (n,) and label.dtype == torch.int64
            ensure(right, f"sample({n}).{name} is {label.dtype} {tuple(label.shape)}", "give int64 (n,)")
        places = {part.device for part in recall if isinstance(part, Tensor)}
        ensure(places == {memory.device}, f"sample is on {places}, device says {memory.device}", "give one device")


@promise("sample", "__len__")
def check_an_empty_memory_has_no_rows(case: MemoryCase) -> None:
    """A memory to which nothing was written has len 0, is true, and sample raises a ValueError that names n."""
    memory = case.make()
    ensure(len(memory) == 0, f"len is {len(memory)}", "count rows that were written only")
    ensure(bool(memory), "bool is False", "define __bool__ to return True, so that `memory or default` keeps it")
    try:
        memory.sample(1)
    except ValueError as error:
        ensure(str(error).startswith("n: "), f"the error is {error!r}", "begin the message with 'n: '")
    else:
        ensure(False, "sample(1) returned something", "raise ValueError('n: ... nothing has been written')")


@promise("__len__")
def check_len_counts_rows_up_to_the_capacity(case: MemoryCase) -> None:
    """len grows with what is written, never above the rows offered, nor above the capacity if there is one."""
    memory, offered = case.make(), 0
    for number in range(8):
        _write(case, memory, case.rows(BATCH, number), _labels(case, BATCH))
        offered += BATCH
        most = min(offered, getattr(memory, "capacity", None) or offered)
        ensure(0 < len(memory) <= most, f"len is {len(memory)} after {offered} rows", f"hold 1 to {most} rows")


@promise()
def check_random_numbers_come_from_its_own_generator(case: MemoryCase) -> None:
    """A memory draws from its own generator: equal seeds give equal reads, and global random state stays as it is."""
    fix = "draw with generator=self._generator, made by torch.Generator().manual_seed(seed)"
    reads: dict[int, list[Any]] = {1: [], 2: []}
    for salt, found in reads.items():
        memory = case.make()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(salt)
            before = _global_state()
            for number in range(5):
                _write(case, memory, case.rows(BATCH, number), _labels(case, BATCH))
                found.append(_drawn(case, memory))
            after = _global_state()
        changed = [name for name in before if before[name] != after[name]]
        ensure(not changed, f"the global generators of {changed} have changed", fix)
    ensure(same(reads[1], reads[2]), "two memories of one seed give different reads", fix)


def _global_state() -> dict[str, str]:
    numpy_state = np.random.get_state()  # noqa: NPY002 - it is what may change
    return {"torch": str(torch.get_rng_state().tolist()), "random": str(random.getstate()), "numpy": str(numpy_state)}


@promise("sample", where=_samples)
def check_another_seed_makes_other_choices(case: MemoryCase) -> None:
    """Memories of different seeds give different samples."""
    samples = [_filled(case, seed=seed).sample(BATCH).x for seed in (1, 2, 3)]
    fix = "pass the seed on to the memory's generator, and draw from it"
    ensure(not (same(samples[0], samples[1]) and same(samples[1], samples[2])), "three seeds, equal samples", fix)


@promise("sample", where=lambda case: _samples(case) and case.error is not None)
def check_only_written_rows_come_back(case: MemoryCase) -> None:
    """Every sampled row was written, with its own class, task label and origin; slots never written never come out."""
    assert case.error is not None
    memory, held = case.make(200), []
    for number in range(4):
        x, y = case.rows(BATCH, number), _labels(case, BATCH).roll(number)
        _write(case, memory, x, y, origin=number, t=2 * number)
        held += [(row, int(label), 2 * number, number) for row, label in zip(x, y, strict=True)]
        for _ in range(3):
            for row, *labels in zip(*memory.sample(25)[:4], strict=True):
                near = [other for other in held if float((other[0] - row).abs().max()) <= case.error]
                ensure(bool(near), "a sampled row is none of those written", "give back filled slots only")
                found = tuple(int(label) for label in labels)
                right = found in [other[1:] for other in near]
                ensure(right, f"(y, t, origin) of a row are {found}, not those written", "move labels with their rows")


@promise("sample", where=lambda case: _samples(case) and case.error is None)
def check_generated_rows_are_finite_and_of_written_classes(case: MemoryCase) -> None:
    """Generated rows are finite, and have classes, task labels and origins that were written."""
    memory = case.make()
    for number, classes in enumerate(([1, 4], [2, 4])):
        y = torch.tensor(classes).repeat(15)
        _write(case, memory, case.rows(30, number), y, origin=number)
        recall = memory.sample(40)
        ensure(bool(recall.x.isfinite().all()), "a row is not finite", "look for divisions by zero and log(0)")
        for name, allowed in (("y", {1, 2, 4}), ("t", {0, 1}), ("origin", {0, 1})):
            found = set(getattr(recall, name).tolist())
            ensure(found <= allowed, f"{name} has {found - allowed}, never written", "draw from what was written")


@promise(where=lambda case: case.reads == "cue" or case.read is not None)
def check_reading_from_a_cue_is_finite_and_changes_nothing(case: MemoryCase) -> None:
    """read(cue) is finite, and reading does not change what the next read gives."""
    memory = _filled(case)
    first, second = _read(case, memory), _read(case, memory)
    ensure(bool(first.isfinite().all()), "what is read is not finite", "look for divisions by zero")
    ensure(same(first, second), "two reads of one cue differ", "do not write in read")


@promise("read", where=lambda case: _samples(case))
def check_read_gives_the_shape_of_its_cue(case: MemoryCase) -> None:
    """read(cue) gives finite rows of the cue's shape and type, and leaves the memory as it was."""
    memory, cue = _filled(case), case.rows(4, 9)
    if not callable(inspect.getattr_static(memory, "read")):  # a read policy had that name
        return
    before = _state(memory)
    found = memory.read(cue)
    right = found.shape == cue.shape and found.dtype == cue.dtype
    ensure(right, f"read gave {found.dtype} {tuple(found.shape)} for {cue.dtype} {tuple(cue.shape)}", "keep the shape")
    ensure(bool(found.isfinite().all()), "what is read is not finite", "look for divisions by zero")
    ensure(same(before, _state(memory)), "the state has changed by read", "do not write in read")


@promise("predict")
def check_predict_gives_finite_logits_and_written_classes_only(case: MemoryCase) -> None:
    """predict(x) gives finite logits (B, classes) whose largest is that of a class that was written."""
    memory = case.make()
    y = torch.tensor([1, 4]).repeat(15)
    _write(case, memory, case.rows(30, 0), y)
    before, x = _state(memory), case.rows(12, 1)
    logits = memory.predict(x)
    right = logits.ndim == 2 and len(logits) == 12 and logits.shape[1] >= 5 and logits.is_floating_point()
    ensure(
        right, f"predict gave {logits.dtype} {tuple(logits.shape)}", "give a column to each class from 0 to the last"
    )
    ensure(not bool(logits.isnan().any()), "a logit is not a number", "look for divisions by zero and log(0)")
    won = set(logits.argmax(1).tolist())
    ensure(won <= {1, 4}, f"classes {won - {1, 4}} win, never written", "give the lowest logit to what was not written")
    ensure(same(before, _state(memory)), "the state has changed by predict", "do not write in predict")


@promise()
def check_what_is_read_has_no_gradient(case: MemoryCase) -> None:
    """What a memory gives takes part in no gradient, also if the written rows did."""
    memory = case.make()
    x = case.rows(BATCH, 0)
    if not x.is_floating_point():
        return
    # Only what is written as the model saw it may take part in a gradient.
    x.requires_grad_(case.writes == "rows")
    _write(case, memory, x, _labels(case, BATCH))
    found = _read(case, memory)
    parts = [part for part in ([found] if isinstance(found, Tensor) else found) if isinstance(part, Tensor)]
    ensure(not any(part.requires_grad for part in parts), "what is read requires gradients", "use @torch.no_grad()")
    ensure(x.grad is None, "the written rows were given a gradient", "detach rows before they are learned from")


@promise("modules")
def check_modes_of_its_networks_stay_as_they_are(case: MemoryCase) -> None:
    """Writing and reading leave train or eval mode and requires_grad of every module as they were."""
    memory = case.make()
    before = _modes(memory)
    _write(case, memory, case.rows(BATCH, 0), _labels(case, BATCH))
    _read(case, memory, 4)
    ensure(before == _modes(memory), "a mode or requires_grad has changed", "put modes back in a finally block")


def _modes(memory: Any) -> list[Any]:
    return [
        *(module.training for module in memory.modules()),
        *(parameter.requires_grad for parameter in memory.parameters()),
    ]


WRONG: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor, int]]] = {
    "rows with a NaN": lambda x, y: (x.index_fill(0, torch.tensor([3]), float("nan")), y, 0),
    "rows of another shape": lambda x, y: (torch.cat([x, x], -1), y, 0),
    "rows of another type": lambda x, y: (x.to(torch.complex64), y, 0),
    "a class less than rows": lambda x, y: (x, y[:-1], 0),
    "negative classes": lambda x, y: (x, y - 1, 0),
    "negative task labels": lambda x, y: (x, y, -1),
}


@promise()
def check_a_failed_write_changes_nothing(case: MemoryCase) -> None:
    """Rows with NaN or of another shape or type, and labels that do not fit, are refused; nothing has changed then."""
    memory = _filled(case)
    x, y = case.rows(BATCH, 20), _labels(case, BATCH)
    for what, wrong in WRONG.items():
        if case.write is not None and ("class" in what or "label" in what):
            continue
        before = _state(memory)
        wrong_x, wrong_y, wrong_t = wrong(x, y)
        try:
            _write(case, memory, wrong_x, wrong_y, t=wrong_t)
        except Exception as error:
            named = isinstance(error, ValueError | TypeError)
            ensure(
                named, f"{what} raised {type(error).__name__}: {error}", "raise a ValueError that names the argument"
            )
        else:
            ensure(False, f"{what} were taken", "raise a ValueError that names the argument")
        ensure(same(before, _state(memory)), f"{what} have changed the memory", _told("draw random numbers after it"))


@promise("check_rows")
def check_check_rows_tells_what_a_write_would(case: MemoryCase) -> None:
    """check_rows(x, y) takes what a write takes, refuses what it refuses, and changes nothing."""
    memory = _filled(case)
    x, y, before = case.rows(BATCH, 20), _labels(case, BATCH), _state(memory)
    memory.check_rows(x)
    memory.check_rows(x, y, 0)
    for what, wrong in WRONG.items():
        try:
            memory.check_rows(*wrong(x, y))
        except (ValueError, TypeError):
            continue
        ensure(False, f"check_rows takes {what}", "call the checks of write from it")
    ensure(same(before, _state(memory)), "check_rows has changed the memory", "do not write in check_rows")


@promise("forget")
def check_forgotten_rows_do_not_come_back(case: MemoryCase) -> None:
    """After forget the rows' class is gone and len is as before; or forget refuses, and changes nothing."""
    memory = case.make()
    _write(case, memory, case.rows(30, 0), torch.tensor([1, 4]).repeat(15))
    count, x, y = len(memory), case.rows(8, 1), torch.full((8,), 3)
    _write(case, memory, x, y)
    if case.forget is None:
        before = _state(memory)
        try:
            gone = memory.forget(classes=[3])
        except ValueError:
            ensure(same(before, _state(memory)), "a refused forget has changed the memory", _told("then refuse"))
            return
        ensure(gone == 8, f"forget gave {gone!r} for 8 rows", "give the number of rows that are gone")
    else:
        case.forget(memory, x, y)
    ensure(len(memory) == count, f"len is {len(memory)}, was {count}", "count forgotten rows no longer")
    found = set(memory.sample(40).y.tolist()) if _samples(case) else set()
    ensure(3 not in found, "a forgotten class is sampled", "take the rows out of all that is drawn from")


@promise("summary", "__len__")
def check_the_summary_agrees_with_the_memory(case: MemoryCase) -> None:
    """summary() counts as len and nbytes do, and its classes add up to the rows held."""
    memory = _filled(case)
    summary = memory.summary()
    told = (summary.filled, summary.nbytes, summary.nbytes_fixed)
    mine = (len(memory), memory.nbytes, memory.nbytes_fixed)
    ensure(told == mine, f"rows, bytes and fixed bytes are {told}, the memory says {mine}", "ask the memory itself")
    total = sum(summary.per_class.values())
    ensure(total == len(memory), f"its classes have {total} rows, len is {len(memory)}", "count every row once")
    ensure(str(summary) != "", "str() of it is empty", "define __str__")


# ------------------------------------------------------------------------------------------------ bytes and time


def reached(thing: Any) -> tuple[int, int]:
    """Bytes of the storage of all tensors that can be reached from an object, and of all other objects."""
    seen: set[int] = set()
    tensors: dict[int, int] = {}
    others, left = 0, [thing]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            tensors[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        else:
            others += sys.getsizeof(one)
            left += gc.get_referents(one)
    return sum(tensors.values()), others


def _grown(case: MemoryCase, size: int) -> Any:
    """A memory filled twice over in eight writes, or written rows of so many classes; and read."""
    if case.grows == "classes":
        memory, each, writes, classes = case.make(), 4 * size, 1, size
    else:
        memory, each, writes, classes = case.make(size), size // 4, 8, case.classes
    for number in range(writes):
        _write(case, memory, case.rows(each, number), torch.arange(each) % classes, origin=number)
        _read(case, memory)
    _read(case, memory, size)
    return memory


def _taken(case: MemoryCase, size: int) -> tuple[int, list[int]]:
    """Bytes that a filled memory counts; and takes: as Python traces them, and as they can be reached."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory = _grown(case, size)
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    tensors, others = reached(memory)
    return memory.nbytes, [traced + tensors, others + tensors]


@promise("nbytes")
def check_nbytes_counts_what_is_held(case: MemoryCase) -> None:
    """Bytes that a larger memory takes more are counted by nbytes within 2 %: tensors, and Python objects as well."""
    _grown(case, case.sizes[0])  # what is imported or kept at the first use is no memory's
    gc.collect()
    gc.freeze()  # so that later collections look at what is new only
    try:
        _bytes_are_counted(case)
    finally:
        gc.unfreeze()


def _bytes_are_counted(case: MemoryCase) -> None:
    for tries_left in (2, 1, 0):
        (one, less), (other, more) = (_taken(case, size) for size in case.sizes)
        counted = other - one
        ensure(
            counted >= GROWN,
            f"nbytes of sizes {case.sizes} differ by {counted}",
            f"count everything that grows; if it does, give sizes between which it grows by at least {GROWN}",
        )
        grown = [b - a for a, b in list(zip(less, more, strict=True))[0 if case.traced else 1 :]]
        # Whatever else the process takes or lets go of meanwhile is traced, too: then it is measured once more.
        if all(abs(taken - counted) <= BYTES * counted for taken in grown) or not tries_left:
            break
    right = all(abs(taken - counted) <= BYTES * counted for taken in grown)
    ensure(right, f"nbytes counts {counted} bytes more, really taken are {grown} more", "count lists and dicts, too")


@promise("nbytes")
def check_nbytes_does_not_shrink(case: MemoryCase) -> None:
    """nbytes is an int that never falls as rows are written and read, and that reading does not change."""
    memory, last = case.make(), 0
    for number in range(8):
        _write(case, memory, case.rows(BATCH, number), _labels(case, BATCH))
        written = memory.nbytes
        _read(case, memory)
        ensure(type(written) is int, f"nbytes is a {type(written).__name__}", "return an int")
        ensure(written >= last, f"nbytes fell from {last} to {written}", "count what is set aside, not what is used")
        ensure(
            memory.nbytes == written, "reading has changed nbytes", "count the space that reading takes from the start"
        )
        last = written


@promise("nbytes_fixed")
def check_nbytes_fixed_does_not_depend_on_the_stream(case: MemoryCase) -> None:
    """nbytes_fixed is an int >= 0, the same after every write."""
    memory, found = case.make(), []
    for number in range(3):
        _write(case, memory, case.rows(BATCH, number), _labels(case, BATCH))
        found.append(memory.nbytes_fixed)
    right = type(found[0]) is int and found[0] >= 0
    ensure(right, f"nbytes_fixed is {found[0]!r}", "return the bytes of frozen networks, or 0")
    told = f"nbytes_fixed after each of three writes is {found}"
    ensure(len(set(found)) == 1, told, "count in nbytes what holds the stream")


@promise("from_budget")
def check_from_budget_uses_its_budget(case: MemoryCase) -> None:
    """A memory made by from_budget takes at most its budget, also when full, and little less."""
    budget, share = case.budget
    shape = tuple(case.rows(1, 0).shape[1:])
    if case.from_budget is None:
        memory = type(case.make()).from_budget(budget, shape=shape, seed=0)
    else:
        memory = case.from_budget(budget)
    batch = 200
    for number in range(-(-2 * (getattr(memory, "capacity", None) or batch) // batch)):
        _write(case, memory, case.rows(batch, number), _labels(case, batch), origin=number % 3)
    if hasattr(memory, "settle"):  # what an experience is gathered in is given back at its end
        memory.settle()
    taken = memory.nbytes
    ensure(taken <= budget, f"it takes {taken} of {budget} bytes", "count labels, policies and tables as well")
    ensure(taken >= share * budget, f"it takes only {taken} of {budget} bytes", "make the largest memory that fits")


@promise("write", where=lambda case: case.writes == "rows" and case.write is None)
def check_the_cost_of_a_write_and_a_read_does_not_grow_with_the_fill(case: MemoryCase) -> None:
    """Writes and reads cost the same whatever the fill and the number of experiences, give or take a factor of five."""

    def seconds(capacity: int, writes: int, experiences: int) -> float:
        memory = case.make(capacity)
        for number in range(writes):
            for origin in range(experiences):
                _write(case, memory, case.rows(500 // experiences, number), _labels(case, 500 // experiences), origin)
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            for _ in range(20):
                _write(case, memory, x, y, experiences - 1)
                _drawn(case, memory)
            best = min(best, time.process_time() - began)
        return best

    x, y = case.rows(BATCH, 0), _labels(case, BATCH)
    small = seconds(100, 1, 2)
    for name, large in ((f"{case.fill:,} rows", (case.fill, case.fill // 500, 2)), ("100 experiences", (100, 2, 100))):
        ratio = seconds(*large) / small
        if ratio >= SLOWER:  # another program may have had the processor
            ratio = seconds(*large) / seconds(100, 1, 2)
        ensure(ratio < SLOWER, f"with {name} it takes {ratio:.1f} times as long", "preallocate, and write in place")


# ------------------------------------------------------------------------------------------------ state


@promise("state_dict", "load_state_dict")
def check_a_state_dict_is_all_that_it_takes_to_go_on(case: MemoryCase) -> None:
    """A memory that takes up another's state_dict goes on exactly as that one does, bit for bit."""
    memory, other = _filled(case), _filled(case, batches=3)
    _read(case, memory)
    other.load_state_dict(copy.deepcopy(memory.state_dict()))
    equal = same(_goes_on(case, memory), _goes_on(case, other))
    fix = "keep tensors in buffers, and numbers and the generator in get_extra_state and set_extra_state"
    ensure(equal, "reads differ after load_state_dict", fix)


@promise()
def check_copies_go_on_by_themselves(case: MemoryCase) -> None:
    """copy.deepcopy and pickle give a memory that goes on in the same way, and leaves the first as it was."""
    ways: dict[str, Callable[[Any], Any]] = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda memory: pickle.loads(pickle.dumps(memory)),
    }
    for name, copied in ways.items():
        memory = _filled(case)
        modules = memory.modules() if isinstance(memory, nn.Module) else [memory]
        if name == "pickle" and not all(pickles(type(module)) for module in modules):
            continue
        before, other = _state(memory), copied(memory)
        found = _goes_on(case, other)
        ensure(same(before, _state(memory)), f"using the {name} has changed the memory", "share no tensors with copies")
        ensure(same(found, _goes_on(case, memory)), f"reads of the {name} differ", "copy the generator's state, too")


@promise("to", "device")
def check_it_moves_to_a_device(case: MemoryCase) -> None:
    """to(device) returns the memory, which is then there, and gives there what it gave before."""
    memory, other = _filled(case), _filled(case)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        moved = other.to(torch.device(device))
        ensure(moved is other, f"to({device!r}) gave {type(moved).__name__}", "return self, as nn.Module.to does")
        found = other.device.type
        ensure(found == device, f"device is {found} after to({device!r})", "ask a buffer for its device")
        here, there = _read(case, memory), _read(case, other)
        parts = [(here, there)] if isinstance(here, Tensor) else list(zip(here, there, strict=True))
        for one, two in parts:
            equal = one is two is None or torch.allclose(one.double(), two.cpu().double(), atol=1e-4)
            ensure(equal, f"reads on {device} differ", "make random numbers on the CPU, then move them")


@promise("save", "load")
def check_what_is_saved_loads_and_saves_equally(case: MemoryCase) -> None:
    """save, load and save again give equal files, and the loaded memory goes on exactly as the saved one."""
    with _folder() as folder:
        memory, other = _filled(case), _filled(case, batches=3)
        _read(case, memory)
        memory.save(folder / "a")
        ensure(other.load(folder / "a") is other, "load did not return the memory", "return self")
        other.save(folder / "b")
        files = [{path.name: path.read_bytes() for path in sorted((folder / name).iterdir())} for name in "ab"]
        ensure(files[0] == files[1], "files saved after load differ", "save exactly what load takes up")
        ensure(
            same(_goes_on(case, memory), _goes_on(case, other)), "reads differ after load", "save the generator, too"
        )


@promise("save", "load")
def check_a_folder_of_other_arguments_is_refused(case: MemoryCase) -> None:
    """load refuses the folder of a memory of another capacity with a ValueError, and changes nothing."""
    memory, other = _filled(case), _filled(case, capacity=47)
    if repr(memory) == repr(other) and getattr(memory, "capacity", 0) == getattr(other, "capacity", 0):
        return
    with _folder() as folder:
        memory.save(folder / "a")
        _refused(other, folder / "a", "a folder of another capacity")


@promise("save", "load")
def check_a_damaged_folder_is_refused(case: MemoryCase) -> None:
    """load refuses a folder in which a file is missing, cut off or altered with a ValueError, and changes nothing."""
    with _folder() as folder:
        memory, other = _filled(case), _filled(case, batches=3)
        memory.save(folder / "a")
        for path in sorted((folder / "a").iterdir()):
            whole = path.read_bytes()
            middle = len(whole) // 2
            altered = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
            for what, damaged in (("cut off", whole[:middle]), ("altered", altered), ("missing", None)):
                path.unlink() if damaged is None else path.write_bytes(damaged)
                _refused(other, folder / "a", f"a folder whose {path.name} is {what}")
            path.write_bytes(whole)


def _refused(memory: Any, folder: Path, what: str) -> None:
    before = _state(memory)
    try:
        memory.load(folder)
    except ValueError:
        ensure(same(before, _state(memory)), f"{what} has changed the memory", _told("load into a copy first"))
    else:
        ensure(False, f"{what} was loaded", "raise a ValueError: compare arguments and a checksum of every file")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
