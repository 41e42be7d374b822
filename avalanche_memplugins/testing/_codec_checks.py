"""What every codec promises."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Size, Tensor

from avalanche_memplugins.testing._promise import ensure, pickles, promise, same
from avalanche_memplugins.testing.cases import CodecCase

BATCH = 12


def _round_trip(case: CodecCase, x: Tensor) -> tuple[Tensor, Tensor]:
    codec = case.make()
    code = codec.encode(x)
    return code, codec.decode(code, x.shape[1:], x.dtype)


@promise("encode", "spec")
def check_the_code_is_as_stated(case: CodecCase) -> None:
    """encode gives codes (B, *code_shape) of the shape and type that spec states, for no rows as well."""
    codec = case.make()
    for rows in (BATCH, 1, 0):
        x = case.rows(BATCH, 0)[:rows]
        code = codec.encode(x)
        stated = codec.spec(x.shape[1:], x.dtype)
        got = code.shape[1:], code.dtype
        ensure(got == stated and len(code) == rows, f"spec says {stated}, encode gave {got}", "let spec say what it is")
        ensure(isinstance(stated[0], Size), f"the shape is a {type(stated[0]).__name__}", "return a torch.Size")


@promise("encode", "decode")
def check_rows_come_back_in_their_shape_and_type(case: CodecCase) -> None:
    """decode(encode(x)) is finite and has the shape and type of x, for no rows as well."""
    for rows in (BATCH, 1, 0):
        x = case.rows(BATCH, 0)[:rows]
        back = _round_trip(case, x)[1]
        got = f"{back.dtype} {tuple(back.shape)}"
        ensure(
            back.shape == x.shape and back.dtype == x.dtype, f"x is {x.dtype} {tuple(x.shape)}, back is {got}", "cast"
        )
        ensure(bool(back.isfinite().all()), "a value that came back is not finite", "look for overflow")


@promise("encode", "decode", where=lambda case: case.error is not None)
def check_rows_come_back_within_the_error(case: CodecCase) -> None:
    """decode(encode(x)) differs from x by no more than the stated error."""
    assert case.error is not None
    for seed in range(5):
        x = case.rows(BATCH, seed)
        worst = float((_round_trip(case, x)[1].double() - x.double()).abs().max())
        ensure(
            worst <= case.error, f"a value moved by {worst:.3g}, stated are {case.error:.3g}", "state the error it has"
        )


@promise("encode", "decode")
def check_what_came_back_is_stored_without_further_loss(case: CodecCase) -> None:
    """Encoding decoded rows gives the same code again."""
    code, back = _round_trip(case, case.rows(BATCH, 0))
    ensure(same(_round_trip(case, back)[0], code), "the second code differs", "round to the nearest level, not down")


@promise("encode", "decode")
def check_a_row_does_not_depend_on_its_batch(case: CodecCase) -> None:
    """A row has the same code and comes back equally whether it is encoded alone or with others."""
    x = case.rows(BATCH, 0)
    together, alone = _round_trip(case, x), [_round_trip(case, row[None]) for row in x]
    for name, whole, parts in zip(("code", "row"), together, zip(*alone, strict=True), strict=True):
        joined = torch.cat(list(parts))
        near = torch.allclose(whole.double(), joined.double(), atol=1e-5) if whole.dtype != torch.uint8 else False
        ensure(near or same(whole, joined), f"a {name} differs when it is alone", "take no statistics of the batch")


@promise("encode", "decode", "check")
def check_its_arguments_stay_as_they_are(case: CodecCase) -> None:
    """check, encode and decode change neither rows nor codes, and give no gradient."""
    codec, x = case.make(), case.rows(BATCH, 0)
    before = x.clone()
    codec.check(x)
    code = codec.encode(x)
    coded = code.clone()
    back = codec.decode(code, x.shape[1:], x.dtype)
    ensure(same(x, before), "the rows have changed", "work on a copy: x * std, not x.mul_(std)")
    ensure(same(code, coded), "the code has changed", "work on a copy")
    ensure(not (code.requires_grad or back.requires_grad), "what it gives requires gradients", "use @torch.no_grad()")


@promise("encode", where=lambda case: case.nbytes is not None)
def check_a_row_takes_the_stated_bytes(case: CodecCase) -> None:
    """A row's code takes as many bytes as stated."""
    code = case.make().encode(case.rows(BATCH, 0))
    each = code.nbytes / BATCH
    ensure(each == case.nbytes, f"a row takes {each:g} bytes, stated are {case.nbytes}", "state what it takes")


@promise("check", "encode", "decode")
def check_rows_that_cannot_be_stored_are_refused(case: CodecCase) -> None:
    """check takes good rows, and refuses what is no tensor, and a NaN that would not come back as one."""
    codec, x = case.make(), case.rows(BATCH, 0)
    codec.check(x)
    bad: list[tuple[str, Any]] = [("a list", x.tolist())]
    if x.is_floating_point():
        bad.append(("a NaN", x.index_fill(0, torch.tensor([3]), float("nan"))))
    for what, rows in bad:
        try:
            codec.check(rows)
        except (ValueError, TypeError) as error:
            named = str(error).startswith("x: ")
            ensure(named, f"the error for {what} is {error!r}", "begin the message with 'x: '")
        else:
            kept = what == "a NaN" and same(codec.decode(codec.encode(rows), x.shape[1:], x.dtype), rows)
            ensure(kept, f"check takes {what}", "raise ValueError('x: expected ..., got ...')")


@promise("nbytes_fixed")
def check_fixed_bytes_are_stated(case: CodecCase) -> None:
    """nbytes_fixed is an int >= 0 that encoding does not change."""
    codec = case.make()
    before = codec.nbytes_fixed
    right = type(before) is int and before >= 0
    ensure(right, f"nbytes_fixed is {before!r}", "return the bytes of networks and tables, or 0")
    codec.encode(case.rows(BATCH, 0))
    ensure(
        codec.nbytes_fixed == before, f"it went from {before} to {codec.nbytes_fixed}", "count tables from the start"
    )


@promise("encode", "decode")
def check_it_has_no_state_that_the_stream_changes(case: CodecCase) -> None:
    """What a codec gives does not depend on what it stored before, nor on random numbers."""
    used, x = case.make(), case.rows(BATCH, 0)
    first = used.encode(x)
    before = torch.get_rng_state()
    for seed in range(1, 4):
        used.decode(used.encode(case.rows(BATCH, seed)), x.shape[1:], x.dtype)
    fix = "fix statistics when the codec is made, and round to the nearest instead of at random"
    ensure(torch.equal(before, torch.get_rng_state()), "torch's global generator has changed", fix)
    ensure(same(used.encode(x), first), "the code of the same rows has changed", fix)


@promise("encode", "decode")
def check_copies_have_the_same_name_and_codes(case: CodecCase) -> None:
    """Copies, also by pickle, have an equal repr, by which a memory knows whose rows it loads, and equal codes."""
    codec, x = case.make(), case.rows(BATCH, 0)
    code = codec.encode(x)
    copies = {"a codec made likewise": case.make(), "a deepcopy": copy.deepcopy(codec)}
    if pickles(type(codec)):
        copies["a pickle"] = pickle.loads(pickle.dumps(codec))
    for what, other in copies.items():
        ensure(repr(other) == repr(codec), f"{what} is {other!r}, not {codec!r}", "show the arguments in __repr__")
        ensure(same(other.encode(x), code), f"{what} gives another code", "keep all that matters in attributes")
