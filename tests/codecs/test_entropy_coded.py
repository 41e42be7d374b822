"""Entropy-coded images: what the inner codec stores comes back exactly, in as many bytes as measured here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate

from avalanche_memplugins.codecs import Bits, Downsampled, EntropyCoded, Uint8, VariableCodec
from avalanche_memplugins.functional import context_count
from avalanche_memplugins.pretrained.context_tables import TABLES, context_table

INNER: dict[str, Any] = {
    "1 bit": lambda: Bits(1, mean=0.3, std=0.5),
    "2 bits": lambda: Bits(2),
    "4 bits": lambda: Bits(4),
    "2 bits of 9 x 9": lambda: Downsampled(9, Bits(2)),
}


def digits(count: int = 300, side: int = 16) -> Tensor:
    x = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    return interpolate(x, (side, side), mode="bilinear").clamp(0, 1)


def there_and_back(codec: EntropyCoded, x: Tensor) -> tuple[Tensor, Tensor]:
    codec.check(x)
    buffer, lengths = codec.encode_rows(x)
    assert (buffer.dtype, len(buffer)) == (torch.uint8, int(lengths.sum()))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    starts = lengths.cumsum(0) - lengths
    back = codec.decode_rows(buffer, starts[order], lengths[order], x.shape[1:], x.dtype)
    return back[order.argsort()], lengths


@pytest.mark.parametrize("table", ["own", "omniglot", "grey", "mixed"])
@pytest.mark.parametrize("name", INNER)
def test_rows_come_back_as_the_inner_codec_gives_them(name: str, table: str) -> None:
    inner, x = INNER[name](), digits()
    if name == "1 bit":
        x = (x - 0.3) / 0.5
    codec = EntropyCoded(inner, table=table)
    expected = inner.decode(inner.encode(x), x.shape[1:], x.dtype)
    packed = inner.encode(x).shape[1]
    back, lengths = there_and_back(codec, x)
    assert torch.equal(back, expected)
    assert float(lengths.float().mean()) < 0.9 * packed
    codec.fit(x)
    back, fitted = there_and_back(codec, x)
    assert torch.equal(back, expected)
    if table == "own":
        assert int(fitted.sum()) + codec.nbytes < 1.002 * int(lengths.sum())
    else:
        assert torch.equal(fitted, lengths)


def test_colours_and_types() -> None:
    x = torch.rand(20, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.float64, torch.uint8):
        rows = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
        for bits in (1, 2, 4):
            inner = Bits(bits)
            back, _ = there_and_back(EntropyCoded(inner), rows)
            assert torch.equal(back, inner.decode(inner.encode(rows), rows.shape[1:], dtype))
    assert there_and_back(EntropyCoded(Bits(1)), x[:0])[0].shape == (0, 3, 9, 7)


def test_few_rows_get_a_shipped_table_and_many_one_of_their_own() -> None:
    x, codec = digits(1500), EntropyCoded(Bits(2))
    assert codec.nbytes == 0
    codec.fit(x[:4])
    assert codec.nbytes == 1  # the choice
    codec.fit(x)
    assert codec.nbytes == 1 + 768 * 5 // 8
    assert codec.nbytes_fixed == 2 * 768 + Bits(2).nbytes_fixed
    assert EntropyCoded(Bits(1)).nbytes_fixed - Bits(1).nbytes_fixed == 2048


def test_stored_rows_are_coded_anew_without_loss() -> None:
    """Reducing what was enlarged does not give the same pixels, so the stored levels themselves are coded again."""
    x, codec = digits(400), EntropyCoded(Downsampled(9, Bits(2)))
    buffer, lengths = codec.encode_rows(x)
    starts = lengths.cumsum(0) - lengths
    again, anew, sizes = codec.refitted(buffer, starts, lengths, x.shape[1:])
    assert len(codec.own) == 0
    assert int(sizes.sum()) < int(lengths.sum())
    expected = codec.decode_rows(buffer, starts, lengths, x.shape[1:], x.dtype)
    assert torch.equal(again.decode_rows(anew, sizes.cumsum(0) - sizes, sizes, x.shape[1:], x.dtype), expected)


def test_the_table_is_in_the_state() -> None:
    x, codec = digits(), EntropyCoded(Bits(2))
    codec.fit(x)
    buffer, lengths = codec.encode_rows(x)
    for again in (EntropyCoded(Bits(2)), copy.deepcopy(codec)):
        again.encode_rows(x)  # what it looked up before is forgotten
        again.load_state_dict(codec.state_dict())
        assert torch.equal(again.encode_rows(x)[0], buffer)
        assert torch.equal(again.encode_rows(x)[1], lengths)
        assert repr(again) == repr(codec)
        assert again.nbytes == codec.nbytes
    assert isinstance(codec, VariableCodec)
    empty = EntropyCoded(Bits(2))
    codec.load_state_dict(empty.state_dict())
    assert codec.nbytes == 0


def test_a_given_table_is_used_as_it_is() -> None:
    table = context_table("omniglot", 1)
    given, named = EntropyCoded(Bits(1), table=table), EntropyCoded(Bits(1), table="omniglot")
    assert torch.equal(given.encode_rows(digits())[0], named.encode_rows(digits())[0])
    table.fill_(9)
    assert torch.equal(given.encode_rows(digits())[0], named.encode_rows(digits())[0])
    assert repr(given) != repr(EntropyCoded(Bits(1), table=table))


def test_shipped_tables_are_probabilities_of_every_context() -> None:
    for name in TABLES:
        for bits in (1, 2, 4):
            table = context_table(name, bits)
            assert table.shape == (context_count(bits),)
            assert 1 <= int(table.min()) < int(table.max()) <= 65535
    assert context_table("omniglot", 1)[0] < 2000  # nothing around: background
    assert context_table("omniglot", 1)[-1] > 32768  # ink all around


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(TypeError, match=r"inner: expected Bits\(\.\.\.\) or Downsampled"):
        EntropyCoded(Uint8())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inner: expected Bits"):
        EntropyCoded(Downsampled(4, Uint8()))
    with pytest.raises(ValueError, match="table: expected one of 'own', 'omniglot', 'grey', 'mixed'"):
        EntropyCoded(Bits(1), table="omnigloth")
    with pytest.raises(ValueError, match=r"table: expected shape \(1024,\)"):
        EntropyCoded(Bits(1), table=torch.ones(5))
    with pytest.raises(ValueError, match="table: expected integers from 1"):
        EntropyCoded(Bits(1), table=torch.zeros(1024, dtype=torch.int64))
    codec = EntropyCoded(Bits(1))
    with pytest.raises(ValueError, match=r"expected images \(B, C, H, W\)"):
        codec.check(torch.rand(4, 9))
    with pytest.raises(ValueError, match="expected pixels from 0 to 1"):
        codec.check(torch.full((2, 1, 4, 4), 3.0))
