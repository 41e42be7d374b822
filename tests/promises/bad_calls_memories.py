"""Calls of ``memories`` and ``memories.policies``."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _call_record import record
from bad_calls_functional import normal
from bad_calls_networks import dynamic, kanerva
from bad_values import (
    Anything,
    Array,
    Flag,
    Folder,
    Integer,
    Labels,
    Name,
    Number,
    Seed,
    Thing,
    Values,
)
from memories_and_plugins import RandomAutoencoder, RowMachine, energy_memory, vae_memory
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import memories as M
from avalanche_memplugins.codecs import Bits, EntropyCoded, StreamCodec, Uint8
from avalanche_memplugins.memories import policies as P
from avalanche_memplugins.networks.energy import GatedEnergy

ROWS, WIDTH = 4, 8
HOLDER = tempfile.TemporaryDirectory()  # goes with the process
TMP = Path(HOLDER.name)


def x(rows: int = ROWS) -> Tensor:
    """Rows that every memory here takes: pixels under the Normalize of ``PIXELS``."""
    return (torch.rand(rows, WIDTH, generator=torch.Generator().manual_seed(3)) - 0.5) / 0.05


def y(rows: int = ROWS) -> Tensor:
    return torch.arange(rows) % 2


def batches() -> list[Any]:
    return [(x(), y(), torch.zeros(ROWS, dtype=torch.int64))]


def written(make: Callable[[], Any]) -> Callable[[], Any]:
    """Made and written to once: no call of the table changes it, and a test says so."""

    @lru_cache(maxsize=1)
    def memory() -> Any:
        made = make()
        if hasattr(made, "consolidate") and not isinstance(made, M.EnergyMemory):
            made.consolidate(batches(), origin=0)
        else:
            made.write(x(), y(), 0)
        return made

    return memory


HELD: dict[str, Callable[[], Any]] = {
    "RandomMemory": written(lambda: M.RandomMemory(8, seed=1)),
    "EpisodicMemory": written(lambda: M.EpisodicMemory(8, seed=1)),
    "LatentMemory": written(
        lambda: M.LatentMemory(8, codec=StreamCodec(RandomAutoencoder(), steps=1, mean=0.5, std=0.05))
    ),
    "GaussianMemory": written(lambda: M.GaussianMemory(rank=2, seed=1)),
    "RandomProjectionMemory": written(lambda: M.RandomProjectionMemory(width=4, seed=1)),
    "MixedMemory": written(lambda: M.MixedMemory(M.RandomMemory(8, seed=1), M.GaussianMemory(rank=2, seed=1))),
    "DynamicKanervaMemory": written(lambda: M.DynamicKanervaMemory(rows=3, seed=1)),
    "KanervaMemory": written(lambda: M.KanervaMemory(RowMachine(), mean=0.5, std=0.05, seed=1)),
    "VAEMemory": written(lambda: vae_memory(6)),
    "EnergyMemory": written(lambda: energy_memory(cue=Uint8(lossy=True, mean=0.5, std=0.05))),
}


@lru_cache(maxsize=1)
def tiny() -> GatedEnergy:
    return GatedEnergy(WIDTH, writable=2, width=4, write_steps=1, read_steps=1)


CODEC = Values((3, "x", Anything(), torch.ones(3), RandomAutoencoder))
RANDOM: dict[str, Any] = {
    "capacity": Integer(), "write_policy": Name(), "read_policy": Name(), "replacement": Flag(), "codec": Name(),
    "labels": Name(typo="int33"), "store_tasks": Flag(), "store_logits": Flag(),
    "embedding": Values((3, "x", nn.Linear)), "keep": Name(), "storage": Values((3, None, "", b"x", "a\0b")),
    "validate": Name(), "seed": Seed(),
}  # fmt: skip


def random_options(**more: Any) -> dict[str, Any]:
    return {
        "capacity": 8, "write_policy": "reservoir", "read_policy": "uniform", "replacement": False, "codec": "raw",
        "labels": "int32",
        "store_tasks": True, "store_logits": False, "embedding": None, "keep": "both", "storage": "device",
        "validate": "auto", "seed": 0, **more,
    }  # fmt: skip


record("memories.RandomMemory", M.RandomMemory, random_options, **RANDOM)
record(
    "memories.EpisodicMemory",
    M.EpisodicMemory,
    lambda: random_options(backend="torch", max_bytes=1 << 20),
    max_bytes=Integer(huge=False),
    **RANDOM,
)
record(
    "memories.LatentMemory",
    M.LatentMemory,
    lambda: {**random_options(), "codec": StreamCodec(RandomAutoencoder(), steps=1)},
    **{**RANDOM, "codec": Thing(), "store_logits": Values((True, 3, "no")), "embedding": Values((3, nn.Identity()))},
)
record(
    "memories.GaussianMemory",
    M.GaussianMemory,
    lambda: {
        "rank": 2,
        "balance": "class",
        "tied": False,
        "leading": None,
        "components": 2,
        "by": "class",
        "precision": 6,
        "deviations": 4,
        "settle": "experience",
        "shrinkage": 0.5,
        "ridge": 0.1,
        "embedding": None,
        "codec": None,
        "seed": 0,
    },
    rank=Integer(least=0, none=True),
    tied=Values((None, "no", 1, [])),
    leading=Integer(none=True),
    precision=Values((None, 5, "float16", True, 1.5, [4])),
    deviations=Values((None, 5, "float16", True, 1.5, [4])),
    shrinkage=Number(least=0, most=1),
    ridge=Number(least=0),
    embedding=Values((3, "x", nn.Linear)),
    codec=CODEC,
)
record(
    "memories.EpisodicMemory.predict",
    lambda **a: HELD["EpisodicMemory"]().predict(**a),
    lambda: {"x": x(2), "classes": 9, "task": None, "k": 2, "temperature": 1.0, "without_itself": False},
    x=Array(finite=True),
    classes=Integer(none=True, huge=False),
    task=Integer(least=0, none=True, huge=False),
    k=Integer(huge=False),
    temperature=Number(above=0, none=True),
)
for name in ("GaussianMemory", "RandomProjectionMemory", "MixedMemory"):
    record(
        f"memories.{name}.predict",
        lambda name=name, **a: HELD[name]().predict(**a),
        lambda: {"x": x(2), "classes": 9, "task": None},
        x=Array(finite=True),
        classes=Integer(none=True, huge=False),
        task=Integer(least=0, none=True, huge=False),
    )
record(
    "memories.RandomProjectionMemory",
    M.RandomProjectionMemory,
    lambda: {"embedding": None, "width": 8, "ridge": "auto", "held_back": 9, "codec": None, "seed": 0},
    embedding=Values((3, "x", nn.Linear)),
    ridge=Values((None, "own", -1, float("nan"), [], True)),
    held_back=Integer(huge=False),
    codec=CODEC,
)
record("memories.RandomProjectionMemory.chosen_ridge", HELD["RandomProjectionMemory"]().chosen_ridge, dict)
record(
    "memories.MixedMemory",
    M.MixedMemory,
    lambda: {"rows": M.RandomMemory(8), "gaussians": M.GaussianMemory()},
    rows=Values((3, "x", M.GaussianMemory())),
    gaussians=Values((3, "x", M.RandomMemory(8))),
)
record("memories.MixedMemory.settle", HELD["MixedMemory"]().settle, dict)
record("memories.GaussianMemory.settle", HELD["GaussianMemory"]().settle, dict)
record(
    "memories.GaussianMemory.settled_nbytes",
    lambda **a: M.GaussianMemory(rank=2).settled_nbytes(**a),
    lambda: {"classes": 2, "width": 3, "experiences": 1},
)
KANERVA: dict[str, Any] = {
    "share": Name(), "label_scale": Number(above=0), "address": Name(), "read_steps": Integer(least=0),
    "balance": Name(),
}  # fmt: skip
record(
    "memories.DynamicKanervaMemory",
    M.DynamicKanervaMemory,
    lambda: {
        "rows": 3,
        "share": "class",
        "noise_var": 0.1,
        "prior_var": 1.0,
        "address_std": 1.0,
        "label_scale": 3.0,
        "address": "fitted",
        "read_steps": 0,
        "balance": "class",
        "prior": None,
        "codec": None,
        "seed": 0,
    },
    prior=Values(
        (
            3,
            "x",
            [1.0],
            torch.ones(2, 2),
            torch.ones(3, 2).to_sparse(),
            torch.ones(3, 2, device="meta"),
            torch.ones(3, 2, dtype=torch.complex64),
            torch.full((3, 2), float("nan")),
        )
    ),
    codec=CODEC,
    **KANERVA,
)
record(
    "memories.DynamicKanervaMemory.from_machine",
    M.DynamicKanervaMemory.from_machine,
    lambda: {"machine": dynamic()},
    machine=Thing(),
)
record(
    "memories.KanervaMemory",
    M.KanervaMemory,
    lambda: {
        "machine": kanerva(),
        "share": "class",
        "label_scale": 3.0,
        "address": "fitted",
        "read_steps": 0,
        "balance": "class",
        "mean": 0.0,
        "std": 1.0,
        "seed": 0,
    },
    machine=Thing(),
    **KANERVA,
)


def vae_network() -> Any:
    return vae_memory(None).network


record(
    "memories.VAEMemory",
    M.VAEMemory,
    lambda: {
        "network": vae_network(),
        "prior": "fitted",
        "steps": 1,
        "batch_size": 4,
        "lr": 1e-3,
        "replay": "growing",
        "replay_size": None,
        "cache_bytes": 1 << 20,
        "mean": 0.0,
        "std": 1.0,
        "codec": None,
        "seed": 0,
    },
    network=Thing(),
    replay=Values(("grow", 1.0, -0.1, float("nan"), True, [0.5], Anything())),
    replay_size=Integer(none=True),
    cache_bytes=Integer(least=0),
    codec=CODEC,
)
record(
    "memories.EnergyMemory",
    M.EnergyMemory,
    lambda: {
        "network": tiny(),
        "slots": 4,
        "slot_size": 2,
        "cue": None,
        "precision": "float16",
        "by_class": False,
        "label_bits": 0,
        "write_steps": None,
        "read_steps": None,
        "temperature": 0.0,
        "mean": 0.0,
        "std": 1.0,
        "codec": None,
        "seed": 0,
    },
    network=Thing(),
    cue=Values(("x", 0, True, 1.5, [3], Anything(), Uint8)),
    label_bits=Integer(least=0),
    write_steps=Integer(none=True),
    read_steps=Integer(none=True),
    temperature=Number(least=0),
    codec=CODEC,
)
record(
    "memories.EnergyMemory.from_pretrained",
    M.EnergyMemory.from_pretrained,
    lambda: {"name": "rehearsal-28"},
    name=Folder(),
)
record(
    "memories.DifferentiableNeuralDictionary",
    M.DifferentiableNeuralDictionary,
    lambda: {
        "classes": 2,
        "capacity": 4,
        "features": 3,
        "neighbours": 2,
        "alpha": 0.1,
        "delta": 1e-3,
        "trainable": False,
    },
    alpha=Number(above=0, most=1),
)

for name in ("RandomMemory", "EpisodicMemory"):
    record(
        f"memories.{name}.from_budget",
        getattr(M, name).from_budget,
        lambda: {"nbytes": 10_000, "shape": (WIDTH,), "dtype": torch.float32, "classes": 0},
        classes=Integer(least=0),
    )
record(
    "memories.LatentMemory.from_budget",
    M.LatentMemory.from_budget,
    lambda: {"nbytes": 10_000, "shape": (WIDTH,), "codec": StreamCodec(RandomAutoencoder(), steps=1)},
    codec=Thing(),
)
for name in ("GaussianMemory", "RandomProjectionMemory", "DynamicKanervaMemory"):
    record(
        f"memories.{name}.from_budget",
        getattr(M, name).from_budget,
        lambda: {"nbytes": 10_000, "classes": 2, "shape": (WIDTH,), "codec": None},
        nbytes=Integer(huge=False),
        codec=CODEC,
    )
record(
    "memories.MixedMemory.from_budget",
    M.MixedMemory.from_budget,
    lambda: {
        "nbytes": 10_000,
        "classes": 2,
        "shape": (WIDTH,),
        "codec": "raw",
        "share": 0.5,
        "experiences": 2,
        "by": "class",
        "embedding": None,
        "precision": 4,
        "gaussians": None,
        "rows": None,
        "seed": 0,
    },
    nbytes=Integer(huge=False),
    share=Values((0, 1, -1, True, "x", None)),
    embedding=Values((3, "x", nn.Linear)),
    precision=Values((None, 5, True, "x")),
    gaussians=Values((3, "x")),
    rows=Values((3, "x")),
)
record(
    "memories.VAEMemory.from_budget",
    M.VAEMemory.from_budget,
    lambda: {
        "nbytes": 10_000,
        "shape": (WIDTH,),
        "classes": 2,
        "conditional": True,
        "code_size": 2,
        "codec": None,
        "seed": 0,
    },
    codec=CODEC,
    nbytes=Integer(huge=False),
)
record(
    "memories.EnergyMemory.from_budget",
    M.EnergyMemory.from_budget,
    lambda: {"nbytes": 10_000, "network": tiny(), "shape": (WIDTH,), "classes": 2},
    network=Thing(),
)

for name, held in HELD.items():
    rows_kind = Array(finite=True, floats=name not in ("RandomMemory", "EpisodicMemory"), empty=False)
    record(
        f"memories.{name}.check_rows", lambda held=held, **a: held().check_rows(**a), lambda: {"x": x()}, x=rows_kind
    )
    cues = (3, "x", torch.ones(2, 3), torch.ones(2, WIDTH, device="meta"), torch.full((2, WIDTH), float("nan")))
    if name != "RandomProjectionMemory":  # it never samples
        record(
            f"memories.{name}.sample",
            lambda held=held, **a: held().sample(**a),
            lambda name=name: {"n": 2, **({"cue": None} if name == "EnergyMemory" else {})},
            **({"cue": Values(cues)} if name == "EnergyMemory" else {}),
        )
    record(f"memories.{name}.save", lambda held=held, **a: held().save(**a), lambda name=name: {"folder": TMP / name})
    record(
        f"memories.{name}.load",
        lambda held=held, **a: held().load(**a),
        lambda held=held, name=name: {"folder": saved(held(), name)},
    )
    if name == "VAEMemory":
        continue
    record(
        f"memories.{name}.write",
        lambda held=held, **a: held().write(**a),
        lambda: {"x": x(), "y": y(), "t": 0, "origin": None},
        x=rows_kind,
        t=Values(
            (
                1.5,
                "x",
                True,
                -1,
                2**31,
                [0],
                torch.zeros(3, dtype=torch.int64),
                torch.zeros(ROWS),
                -torch.ones(ROWS, dtype=torch.int64),
            )
        ),
        origin=Values((1.5, "x", True, -1, 2**31, [0], torch.zeros(3, dtype=torch.int64), torch.zeros(ROWS))),
    )


def saved(memory: Any, name: str) -> Path:
    folder = TMP / name
    if not folder.exists():
        memory.save(folder)
    return folder


BATCHES = Values((None, 3, "x", [], [3], [(1, 2)], [(x(), 3, 0)], [(x(), y(3), y())], [(x().double(), -y(), y())]))
for name in ("VAEMemory", "EnergyMemory", "LatentMemory"):
    record(
        f"memories.{name}.consolidate",
        lambda name=name, **a: HELD[name]().consolidate(**a),
        lambda: {"batches": batches(), "origin": 1},
        {"batches": ("batches", "x", "y", "t")},
        batches=BATCHES,
        origin=Integer(least=0),
    )
record("memories.VAEMemory.bound", lambda **a: HELD["VAEMemory"]().bound(**a), lambda: {"x": x(), "y": y()})
EXPERIENCE = SimpleNamespace(dataset=TensorDataset(x(), y()), current_experience=0)
for name, held in HELD.items():
    for method in ("pre_adapt", "post_adapt"):
        # A copy, since the table's own is written to once.
        record(
            f"memories.{name}.{method}",
            lambda held=held, method=method, **a: getattr(copy.deepcopy(held()), method)(**a),
            lambda: {"agent": None, "exp": EXPERIENCE},
            exp=Thing(),
        )
SLOTS = Values((None, 3, "x", [0], torch.tensor([0.5]), torch.tensor([99]), torch.tensor([-1]), torch.tensor(0)))
for name in ("RandomMemory", "EpisodicMemory", "LatentMemory"):
    record(
        f"memories.{name}.rows",
        lambda name=name, **a: HELD[name]().rows(**a),
        lambda: {"slots": torch.tensor([0, 1])},
        slots=SLOTS,
    )
    for method in ("labels_of", "classes_of"):
        record(
            f"memories.{name}.{method}",
            lambda name=name, method=method, **a: getattr(HELD[name](), method)(**a),
            lambda: {"slots": torch.tensor([0, 1])},
            slots=SLOTS,
        )
    record(f"memories.{name}.read_in_passes", HELD[name]().read_in_passes, dict)
    record(
        f"memories.{name}.write_from",
        lambda name=name, **a: HELD[name]().write_from(**a),
        lambda: {
            "source": x(),
            "rows": torch.arange(ROWS),
            "y": y(),
            "t": 0,
            "batch_size": 2,
            "origin": None,
            "checked": False,
        },
        {"source": ("source", "x")},
        source=Array(finite=True),
        rows=Values((None, 3, "x", [0], torch.tensor([0.5]), torch.tensor([99]), torch.tensor([-1]), torch.tensor(0))),
        y=Values((None, 3, "x", torch.tensor(0))),
        t=Values((1.5, "x", True, -1, 2**31)),
        origin=Values((1.5, "x", True, -1, 2**31)),
    )
    record(f"memories.{name}.prefetch", lambda name=name, **a: HELD[name]().prefetch(**a), lambda: {"n": 2})
record(
    "memories.EpisodicMemory.nearest",
    lambda **a: HELD["EpisodicMemory"]().nearest(**a),
    lambda: {"x": x(), "k": 2, "task": None},
    x=Array(finite=True),
    task=Integer(least=0, none=True),
)
record("memories.EpisodicMemory.reembed", lambda **a: keyed().reembed(**a), lambda: {"batch_size": 2})


@lru_cache(maxsize=1)
def keyed() -> M.EpisodicMemory:
    memory = M.EpisodicMemory(8, embedding=nn.Linear(WIDTH, 2))
    memory.write(x(), y(), 0)
    return memory


for name in ("DynamicKanervaMemory", "KanervaMemory"):
    held = HELD[name]
    record(
        f"memories.{name}.read",
        lambda held=held, **a: held().read(**a),
        lambda: {"cue": x(), "steps": 1, "y": y()},
        cue=Array(finite=True),
        y=Labels(none=True),
    )
    record(
        f"memories.{name}.weights",
        lambda held=held, **a: held().weights(**a),
        lambda: {"x": x(), "y": y()},
        x=Array(finite=True),
        y=Labels(none=True),
    )
    record(
        f"memories.{name}.generate",
        lambda held=held, **a: held().generate(**a),
        lambda held=held: {"weights": normal(2, held().rows), "slot": 0},
        weights=Array(finite=True),
        slot=Integer(least=0),
    )
    record(
        f"memories.{name}.write_items",
        lambda held=held, **a: held().write_items(**a),
        lambda: {"x": x(), "y": y(), "t": 0, "origin": None},
        x=Array(finite=True),
        t=None,
    )
    record(
        f"memories.{name}.unwrite",
        lambda held=held, **a: held().unwrite(**a),
        lambda held=held: {"written": held().write_items(x(), y(), 0)},
        written=Thing(),
    )
record(
    "memories.KanervaMemory.unwrite_rows",
    lambda **a: HELD["KanervaMemory"]().unwrite_rows(**a),
    lambda: {"x": forgettable(), "y": y()},
    x=Array(finite=True),
)


def forgettable() -> Tensor:
    HELD["KanervaMemory"]().write(x(), y(), 0)
    return x()


record(
    "memories.EnergyMemory.read",
    lambda **a: HELD["EnergyMemory"]().read(**a),
    lambda: {"cue": x(), "slots": None, "route": "match", "known": None, "steps": 1, "temperature": 0.0},
    cue=Array(finite=True),
    slots=Values((3, "x", [0], torch.tensor([0.5] * ROWS), torch.tensor([99] * ROWS))),
    known=Values((3, "x", torch.ones(ROWS, WIDTH), torch.ones(2, WIDTH, dtype=torch.bool))),
    steps=Integer(none=True),
    temperature=Number(least=0),
)
record(
    "memories.EnergyMemory.novelty",
    lambda **a: HELD["EnergyMemory"]().novelty(**a),
    lambda: {"x": x(), "score": "slope"},
    x=Array(finite=True),
)
for method in ("lowest", "matching"):
    record(
        f"memories.EnergyMemory.{method}",
        lambda method=method, **a: getattr(HELD["EnergyMemory"](), method)(**a),
        lambda: {"patterns": x().sigmoid(), "known": None, "steps": None},
        known=Values((3, "x", torch.ones(ROWS, WIDTH))),
        steps=Integer(none=True),
    )
record(
    "memories.EnergyMemory.nearest",
    lambda **a: HELD["EnergyMemory"]().nearest(**a),
    lambda: {"patterns": x().sigmoid()},
)
record(
    "memories.EnergyMemory.slot_bytes", lambda **a: HELD["EnergyMemory"]().slot_bytes(**a), lambda: {"shape": (WIDTH,)}
)
record(
    "memories.EnergyMemory.weights",
    lambda **a: HELD["EnergyMemory"]().weights(**a),
    lambda: {"slots": torch.tensor([0])},
    slots=SLOTS,
)


@lru_cache(maxsize=1)
def dictionary() -> M.DifferentiableNeuralDictionary:
    made = M.DifferentiableNeuralDictionary(2, 4, 3, neighbours=2)
    made.write(normal(4, 3), y(), torch.ones(4))
    return made


record(
    "memories.DifferentiableNeuralDictionary.write",
    lambda **a: dictionary().write(**a),
    lambda: {"key": normal(4, 3), "y": y(), "value": torch.ones(4)},
    key=Array(finite=True),
    value=Array(finite=True),
)
for method in ("read", "classify"):
    record(
        f"memories.DifferentiableNeuralDictionary.{method}",
        lambda method=method, **a: getattr(dictionary(), method)(**a),
        lambda: {"query": normal(2, 3)},
        query=Array(finite=True),
    )

# ---------------------------------------------------------------- policies

record("memories.policies.Balanced", P.Balanced, lambda: {"grouping": "class", "replacement": False})
record("memories.policies.GroupBalanced", P.GroupBalanced, lambda: {"grouping": "class"})
for name in ("Balanced", "GroupBalanced"):
    record(
        f"memories.policies.{name}.reserve",
        lambda name=name, **a: getattr(P, name)("class").reserve(**a),
        lambda: {"groups": 3},
        groups=Integer(least=0),
    )
record("memories.policies.Hardest", P.Hardest, lambda: {"grouping": "class"}, grouping=Name(none=True))
record("memories.policies.GSS", P.GSS, lambda: {"subset": 3})
for kind in (P.Hardest, P.Herding):
    record(
        f"memories.policies.{kind.__name__}.reserve",
        lambda kind=kind, **a: kind().reserve(**a),
        lambda: {"groups": 3},
        groups=Integer(least=0),
    )
record("memories.policies.Uniform", P.Uniform, lambda: {"replacement": False})

# ---------------------------------------------------------------- normalisation, coded rows

for name in ("EnergyMemory", "KanervaMemory", "VAEMemory"):
    record(
        f"memories.{name}.normalise_as",
        lambda name=name, **a: FRESH[name]().normalise_as(**a),
        lambda: {"mean": 0.5, "std": 0.5},
    )
FRESH: dict[str, Callable[[], Any]] = {
    "EnergyMemory": lambda: M.EnergyMemory(tiny()),
    "KanervaMemory": lambda: M.KanervaMemory(kanerva()),
    "VAEMemory": lambda: M.VAEMemory(vae_network()),
}


@lru_cache(maxsize=1)
def coded() -> M.CodedMemory:
    memory = M.CodedMemory(2_000, codec=EntropyCoded(Bits(2)), store_tasks=True, seed=1)
    memory.write(images(), y())
    return memory


def images() -> Tensor:
    return torch.rand(ROWS, 1, 6, 6, generator=torch.Generator().manual_seed(0))


BYTES = Values((0, -1, True, 1.5, "many", None, [3]))
CODED: dict[str, Any] = {
    "codec": Thing(),
    "write_policy": Name(),
    "labels": Name(typo="int33"),
    "store_tasks": Flag(),
    "seed": Seed(),
}


def coded_options(name: str) -> dict[str, Any]:
    codec = EntropyCoded(Bits(2))
    options = {"write_policy": "ring", "labels": "uint8", "store_tasks": False, "seed": 0}
    more = {"capacity": 9} if name == "budget_bytes" else {}
    return {name: 2_000, "codec": codec, **more, **options}


record(
    "memories.CodedMemory",
    M.CodedMemory,
    lambda: coded_options("budget_bytes"),
    budget_bytes=Values((0, -1, True, 1.5, "many", [3])),
    capacity=Integer(none=True),
    **CODED,
)
record(
    "memories.CodedMemory.from_budget",
    M.CodedMemory.from_budget,
    lambda: coded_options("nbytes"),
    {"nbytes": ("nbytes", "budget_bytes")},
    nbytes=BYTES,
    **CODED,
)
record(
    "memories.CodedMemory.check_rows",
    lambda **a: coded().check_rows(**a),
    lambda: {"x": images()},
    x=Array(finite=True, empty=False),
)
record(
    "memories.CodedMemory.write",
    lambda **a: coded().write(**a),
    lambda: {"x": images(), "y": y(), "t": 0, "origin": None},
    x=Array(finite=True, empty=False),
    t=Values((1.5, "x", True, -1, 2**31, [0], torch.zeros(3, dtype=torch.int64), torch.zeros(ROWS))),
    origin=Values((1.5, "x", True, -1, 2**31, [0], torch.zeros(3, dtype=torch.int64), torch.zeros(ROWS))),
)
record("memories.CodedMemory.prefetch", lambda **a: coded().prefetch(**a), lambda: {"n": 2})
record("memories.CodedMemory.sample", lambda **a: coded().sample(**a), lambda: {"n": 2})
record("memories.CodedMemory.save", lambda **a: coded().save(**a), lambda: {"folder": TMP / "CodedMemory"})
record("memories.CodedMemory.load", lambda **a: coded().load(**a), lambda: {"folder": saved(coded(), "CodedMemory")})
record(
    "memories.CodedMemory.predict",
    lambda **a: coded().predict(**a),
    lambda: {"x": images(), "classes": 9, "task": None, "k": 1},
    x=Array(finite=True, empty=False),
    classes=Integer(none=True, huge=False),
    task=Integer(least=0, none=True, huge=False),
    k=Integer(huge=False),
)
for method in ("rows", "labels_of"):
    record(
        f"memories.CodedMemory.{method}",
        lambda method=method, **a: getattr(coded(), method)(**a),
        lambda: {"slots": torch.tensor([0, 1])},
        slots=SLOTS,
    )
for method in ("pre_adapt", "post_adapt"):
    record(
        f"memories.CodedMemory.{method}",
        lambda method=method, **a: getattr(copy.deepcopy(coded()), method)(**a),
        lambda: {"agent": None, "exp": SimpleNamespace(dataset=TensorDataset(images(), y()), current_experience=0)},
        exp=Thing(),
    )

# ---------------------------------------------------------------- forgetting

ENERGY_BY_CLASS = written(lambda: energy_memory(by_class=True))
NUMBERS = Values((3, "x", ["3"], [1.5], [-1], [True], torch.tensor([1]), Anything()))
FORGETTING: dict[str, Callable[[], Any]] = {
    **{name: HELD[name] for name in ("RandomMemory", "EpisodicMemory", "LatentMemory")},
    "CodedMemory": coded,
}
for name, held in FORGETTING.items():
    record(
        f"memories.{name}.forget",
        lambda held=held, **a: copy.deepcopy(held()).forget(**a),
        lambda: {"classes": [0], "origins": [0], "labels": [0], "where": lambda rows: rows.y == 0},
        classes=NUMBERS,
        origins=NUMBERS,
        labels=NUMBERS,
        where=Values((3, "x", torch.ones(99), torch.ones(99, dtype=torch.bool), lambda rows: 3)),
    )
for name in ("GaussianMemory", "MixedMemory", "DynamicKanervaMemory", "KanervaMemory"):
    record(
        f"memories.{name}.forget",
        lambda name=name, **a: copy.deepcopy(HELD[name]()).forget(**a),
        lambda: {"classes": [0], "origins": None, "labels": None, "where": None},
        classes=NUMBERS,
        **dict.fromkeys(("origins", "labels", "where"), Values((3, [0], torch.ones(2), Anything()))),
    )
record(
    "memories.EnergyMemory.forget",
    lambda **a: copy.deepcopy(ENERGY_BY_CLASS()).forget(**a),
    lambda: {"classes": [0], "origins": None},
    classes=NUMBERS,
    origins=Values((3, [0], Anything())),
)
for name in ("RandomMemory", "EpisodicMemory", "LatentMemory"):
    record(
        f"memories.{name}.pad_of",
        lambda name=name, **a: HELD[name]().pad_of(**a),
        lambda: {"label": "x"},
        label=Values((3, None, ["x"], b"x", Anything())),
    )
