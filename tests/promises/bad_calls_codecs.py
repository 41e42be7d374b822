"""Calls of ``codecs``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from _call_record import record
from bad_calls_functional import normal
from bad_values import (
    Array,
    Deviation,
    Folder,
    Integer,
    Name,
    Number,
    Pixels,
    Thing,
    Values,
)
from memories_and_plugins import RandomAutoencoder
from torch import Size, Tensor

from avalanche_memplugins import codecs as C

IMAGE = (1, 4, 4)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def levels(*shape: int) -> Tensor:
    return (images(*shape) * 255).round() / 255


def rows() -> Tensor:
    return images(2, 8)


def coded(codec: Any, x: Tensor) -> dict[str, Any]:
    buffer, lengths = codec.encode_rows(x)
    return {"buffer": buffer, "starts": lengths.cumsum(0) - lengths, "lengths": lengths}


PLACES = Values((None, 3, "x", torch.tensor([0.5]), torch.tensor([-1, 0]), torch.tensor([999, 0]), torch.tensor(0)))
NORMALISED: dict[str, Any] = {"mean": Pixels(), "std": Deviation()}
MODULE = Thing()
KNOWN = Values((3, "x", torch.ones(1, 2, 8), torch.ones(1, 2, 3, dtype=torch.bool)))


@lru_cache(maxsize=1)
def latent() -> C.LatentCodec:
    return C.LatentCodec(RandomAutoencoder(), code_mean=torch.zeros(3), code_std=torch.ones(3))


@lru_cache(maxsize=1)
def stream() -> C.StreamCodec:
    return C.StreamCodec(RandomAutoencoder(), steps=1)


@lru_cache(maxsize=1)
def quantised() -> C.Quantised:
    codec = C.Quantised(4)
    codec.fit(normal(8, 8))
    return codec


@lru_cache(maxsize=1)
def parts() -> C.ProductQuantised:
    codec = C.ProductQuantised(2, bits=2)
    codec.fit(normal(8, 8))
    return codec


CODECS: dict[str, tuple[Any, Tensor, tuple[int, ...]]] = {
    "Bits": (lambda: C.Bits(4), images(2, *IMAGE), IMAGE),
    "Downsampled": (lambda: C.Downsampled(2, C.Bits(4)), images(2, *IMAGE), IMAGE),
    "Float16": (C.Float16, normal(2, 8), (8,)),
    "Int8": (C.Int8, normal(2, 8), (8,)),
    "LatentCodec": (latent, rows(), (8,)),
    "ProductQuantised": (parts, normal(2, 8), (8,)),
    "Quantised": (quantised, normal(2, 8), (8,)),
    "Raw": (C.Raw, normal(2, 8), (8,)),
    "StreamCodec": (stream, rows(), (8,)),
    "Uint8": (C.Uint8, levels(2, *IMAGE), IMAGE),
}
VECTORS = ("ProductQuantised", "Quantised")
for name, (make, x, shape) in CODECS.items():
    raw, learned = name == "Raw", name in ("LatentCodec", "StreamCodec")
    record(
        f"codecs.{name}.check",
        lambda make=make, **a: make().check(**a),
        lambda x=x: {"x": x},
        x=Array(floats=not raw, finite=not raw and name != "Int8", last=learned or name in VECTORS),
    )
    record(
        f"codecs.{name}.encode",
        lambda make=make, **a: make().encode(**a),
        lambda x=x: {"x": x},
        x=Array(floats=not raw, last=name in VECTORS),
    )
    record(
        f"codecs.{name}.spec",
        lambda make=make, **a: make().spec(**a),
        lambda shape=shape: {"shape": Size(shape), "dtype": torch.float32},
    )
    record(
        f"codecs.{name}.decode",
        lambda make=make, **a: make().decode(**a),
        lambda make=make, x=x, shape=shape: {"code": make().encode(x), "shape": Size(shape), "dtype": torch.float32},
        code=Array(floats=False, last=not raw and name != "Downsampled"),
    )
record("codecs.Codec", lambda x: None, lambda: {"x": 3}, x=None)
record("codecs.Bits", C.Bits, lambda: {"bits": 4, "mean": 0.0, "std": 1.0}, bits=Values((3, 0, True, "4", 1.5, None)))
record("codecs.Uint8", C.Uint8, lambda: {"mean": 0.0, "std": 1.0, "lossy": True})
record("codecs.Downsampled", C.Downsampled, lambda: {"size": 4, "codec": C.Bits(4), "mode": "area"}, codec=Thing())
for name, make, x in (
    ("EntropyCoded", lambda: C.EntropyCoded(C.Bits(2)), images(2, *IMAGE)),
    ("ImageFile", lambda: C.ImageFile("png"), levels(2, *IMAGE)),
):
    record(
        f"codecs.{name}.check",
        lambda make=make, **a: make().check(**a),
        lambda x=x: {"x": x},
        x=Array(finite=True, last=False),
    )
    record(
        f"codecs.{name}.encode_rows",
        lambda make=make, **a: make().encode_rows(**a),
        lambda x=x: {"x": x},
        x=Array(last=False),
    )
    record(
        f"codecs.{name}.decode_rows",
        lambda make=make, **a: make().decode_rows(**a),
        lambda make=make, x=x: {**coded(make(), x), "shape": Size(IMAGE), "dtype": torch.float32},
        {"starts": ("starts", "lengths"), "buffer": ("buffer", "lengths")},
        buffer=Array(last=False),
        starts=PLACES,
        lengths=PLACES,
    )
record("codecs.EntropyCoded", C.EntropyCoded, lambda: {"inner": C.Bits(2), "table": "own"}, inner=Thing())
record(
    "codecs.EntropyCoded.fit",
    lambda **a: C.EntropyCoded(C.Bits(2)).fit(**a),
    lambda: {"x": images(2, *IMAGE)},
    x=Array(last=False),
)
record(
    "codecs.EntropyCoded.refitted",
    lambda **a: C.EntropyCoded(C.Bits(2)).refitted(**a),
    lambda: {**coded(C.EntropyCoded(C.Bits(2)), images(2, *IMAGE)), "shape": Size(IMAGE)},
    {"starts": ("starts", "lengths"), "buffer": ("buffer", "lengths")},
    buffer=Array(last=False),
    starts=PLACES,
    lengths=PLACES,
)
record(
    "codecs.ImageFile",
    C.ImageFile,
    lambda: {"format": "jpeg", "quality": 50, "mean": 0.0, "std": 1.0},
    quality=Values((0, 101, 1.5, "x", True)),
)
record(
    "codecs.Bits.from_levels",
    lambda **a: C.Bits(2).from_levels(**a),
    lambda: {"levels": torch.ones(2, *IMAGE, dtype=torch.uint8), "dtype": torch.float32},
    levels=Array(floats=False, last=False, flat=False),
)
record(
    "codecs.Downsampled.enlarge",
    lambda **a: C.Downsampled(2, C.Bits(4)).enlarge(**a),
    lambda: {"small": images(2, 1, 2, 2), "shape": Size(IMAGE), "dtype": torch.float32},
    small=Array(floats=False),
)
record(
    "codecs.Quantised", C.Quantised, lambda: {"bits": 4, "spread": 1.2}, bits=Values((1, 9, 0, True, "4", 1.5, None))
)
record(
    "codecs.ProductQuantised",
    C.ProductQuantised,
    lambda: {"parts": 2, "bits": 2, "steps": 2, "seed": 0},
    parts=Integer(huge=False),
    bits=Values((0, 9, True, "4", 1.5, None)),
    steps=Integer(huge=False),
)
for name, make_fresh in (
    ("Quantised", lambda: C.Quantised(2)),
    ("ProductQuantised", lambda: C.ProductQuantised(2, bits=2)),
):
    record(
        f"codecs.{name}.fit",
        lambda make=make_fresh, **a: make().fit(**a),
        lambda: {"x": normal(8, 8)},
        x=Array(last=False, finite=True),
    )
record("codecs.VariableCodec", lambda x: None, lambda: {"x": 3}, x=None)
record("codecs.Float16", C.Float16, dict)
record("codecs.Raw", C.Raw, dict)
NUMBERS = torch.randint(256, (2, 8), generator=torch.Generator().manual_seed(0))
record("codecs.Integers", C.Integers, lambda: {"kind": "uint8"})
record("codecs.Integers.check", C.Integers("uint8").check, lambda: {"x": NUMBERS}, x=Array(floats=False, last=False))
record("codecs.Integers.encode", C.Integers("uint8").encode, lambda: {"x": NUMBERS}, x=Array(floats=False, last=False))
record("codecs.Integers.spec", C.Integers("uint8").spec, lambda: {"shape": Size((8,)), "dtype": torch.int64})
record(
    "codecs.Integers.decode",
    C.Integers("uint8").decode,
    lambda: {"code": NUMBERS.byte(), "shape": Size((8,)), "dtype": torch.int64},
    code=Array(floats=False),
)
record("codecs.Int8", C.Int8, lambda: {"step": 0.1})
CODES: dict[str, Any] = {"autoencoder": MODULE, "precision": Name(), "step": Number(above=0), **NORMALISED}
record(
    "codecs.LatentCodec",
    C.LatentCodec,
    lambda: {
        "autoencoder": RandomAutoencoder(),
        "code_mean": torch.zeros(3),
        "code_std": torch.ones(3),
        "precision": "int8",
        "step": 0.1,
        "mean": 0.0,
        "std": 1.0,
    },
    code_mean=Array(floats=False, finite=True),
    code_std=Array(floats=False, finite=True),
    **CODES,
)
record(
    "codecs.LatentCodec.from_pretrained",
    C.LatentCodec.from_pretrained,
    lambda: {"name": "omniglot28-vae", "precision": "int8", "step": 0.1, "mean": 0.0, "std": 1.0},
    name=Folder(),
)
record(
    "codecs.StreamCodec",
    C.StreamCodec,
    lambda: {
        "autoencoder": RandomAutoencoder(),
        "steps": 1,
        "lr": 0.1,
        "loss": None,
        "precision": "int8",
        "step": 0.1,
        "mean": 0.0,
        "std": 1.0,
    },
    loss=Values((3, "x")),
    **CODES,
)
record(
    "codecs.StreamCodec.fit",
    lambda **a: C.StreamCodec(RandomAutoencoder(), steps=1).fit(**a),
    lambda: {"batches": iter([rows()]), "every_row": [rows()], "seed": 0},
    batches=Values((None, 3)),
    every_row=Values((None, 3, [])),
)
for name, make_learned in (("LatentCodec", latent), ("StreamCodec", stream)):
    record(
        f"codecs.{name}.to_latent",
        lambda make=make_learned, **a: make().to_latent(**a),
        lambda: {"x": rows()},
        x=Array(floats=False),
    )
    record(
        f"codecs.{name}.from_latent",
        lambda make=make_learned, **a: make().from_latent(**a),
        lambda: {"z": normal(2, 3), "dtype": torch.float32},
        dtype=Values((None, "x", 3)),
    )
    record(
        f"codecs.{name}.quantise",
        lambda make=make_learned, **a: make().quantise(**a),
        lambda: {"z": normal(2, 3)},
        z=Array(last=False, flat=False),
    )
    record(
        f"codecs.{name}.dequantise",
        lambda make=make_learned, **a: make().dequantise(**a),
        lambda: {"code": torch.ones(2, 3, dtype=torch.int8)},
        code=Array(floats=False, last=False, flat=False),
    )
