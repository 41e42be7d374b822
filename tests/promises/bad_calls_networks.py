"""Calls of ``networks`` and ``networks.energy``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from _call_record import record
from bad_calls_codecs import (
    IMAGE,
    KNOWN,
    MODULE,
    images,
    levels,
    rows,
)
from bad_calls_functional import normal
from bad_values import (
    Array,
    Flag,
    Integer,
    Number,
    Shape,
    Thing,
    Values,
)

from avalanche_memplugins import codecs as C
from avalanche_memplugins import networks as N
from avalanche_memplugins.memories import EpisodicMemory
from avalanche_memplugins.networks import energy as E


@lru_cache(maxsize=1)
def kanerva() -> N.KanervaMachine:
    return N.KanervaMachine(rows=2, code_size=2, address_size=2, key_size=2, width=1)


@lru_cache(maxsize=1)
def dynamic() -> N.DynamicKanervaMachine:
    return N.DynamicKanervaMachine(rows=2, code_size=2, width=1)


@lru_cache(maxsize=1)
def vae() -> N.VAE:
    return N.VAE(code_size=2, width=1)


@lru_cache(maxsize=1)
def mlp() -> N.MLPVAE:
    return N.MLPVAE(2, hidden=4)


@lru_cache(maxsize=1)
def conditional() -> N.ConditionalVAE:
    return N.ConditionalVAE((8,), code_size=2, hidden=(4,), classes=3)


def small(kind: Any) -> Any:
    return kind(8, slots=3, width=4, controller=2, hidden=4)


@lru_cache(maxsize=1)
def slots() -> N.MemoryNetwork:
    return N.MemoryNetwork(8, 3, hidden=4)


@lru_cache(maxsize=1)
def retrieval() -> N.RetrievalClassifier:
    memory = EpisodicMemory(8)
    memory.write(normal(4, 2), torch.arange(4) % 3)
    return N.RetrievalClassifier(mlp(), memory, classes=3, neighbours=2, hidden=4, layers=1).eval()


@lru_cache(maxsize=1)
def probabilistic() -> N.ProbabilisticRetrievalClassifier:
    return N.ProbabilisticRetrievalClassifier(mlp(), classes=3, n=2, hidden=4, layers=1).eval()


record(
    "networks.VAE", N.VAE, lambda: {"channels": 1, "size": 28, "code_size": 2, "width": 1, "bias": -2.0}, bias=Number()
)
record("networks.MLPVAE", N.MLPVAE, lambda: {"code_size": 2, "hidden": 4, "channels": 1, "size": 4})
record(
    "networks.ConditionalVAE",
    N.ConditionalVAE,
    lambda: {"shape": (8,), "code_size": 2, "hidden": (4,), "classes": 3, "likelihood": "bernoulli"},
    hidden=Shape(),
    classes=Integer(none=True),
)
record(
    "networks.DynamicKanervaMachine",
    N.DynamicKanervaMachine,
    lambda: {
        "channels": 1,
        "size": 28,
        "code_size": 2,
        "rows": 2,
        "width": 1,
        "noise_std": 1.0,
        "address_std": 1.0,
        "bias": -2.0,
    },
    bias=Number(),
)
record(
    "networks.KanervaMachine",
    N.KanervaMachine,
    lambda: {
        "channels": 1,
        "size": 28,
        "code_size": 2,
        "rows": 2,
        "address_size": 2,
        "key_size": 2,
        "width": 1,
        "noise_std": 1.0,
        "bias": -2.0,
    },
    bias=Number(),
)
for name, net in (("VAE", vae), ("MLPVAE", mlp), ("KanervaMachine", kanerva), ("DynamicKanervaMachine", dynamic)):
    word = "z" if name == "MLPVAE" else "code"
    record(
        f"networks.{name}.decode",
        lambda net=net, **a: net().decode(**a),
        lambda word=word: {word: normal(2, 2)},
        **{word: Array()},
    )
    record(f"networks.{name}.encode", lambda net=net, **a: net().encode(**a), lambda: {"x": images(2, 1, 28, 28)})
    lead = (1, 2) if "Machine" in name else (2,)
    record(
        f"networks.{name}.bound",
        lambda net=net, **a: net().bound(**a),
        lambda lead=lead, name=name: {
            "x": images(*lead, 1, 28, 28),
            "generator": None,
            **({"sequential": False, "sample_memory": True} if "Machine" in name else {}),
            **({"fresh_address": False} if name == "KanervaMachine" else {}),
        },
    )
    if "Machine" not in name:
        record(
            f"networks.{name}.posterior", lambda net=net, **a: net().posterior(**a), lambda: {"x": images(2, 1, 28, 28)}
        )
        continue
    record(f"networks.{name}.features", lambda net=net, **a: net().features(**a), lambda: {"x": images(2, 1, 28, 28)})
    record(f"networks.{name}.written", lambda net=net, **a: net().written(**a), lambda: {"x": images(1, 2, 1, 28, 28)})
    record(
        f"networks.{name}.read",
        lambda net=net, **a: net().read(**a),
        lambda: {"mean": normal(1, 2, 2), "cue": images(1, 2, 1, 28, 28), "steps": 1},
    )
record(
    "networks.DynamicKanervaMachine.write",
    lambda **a: dynamic().write(**a),
    lambda: {"code": normal(2, 2), "sequential": False},
)
record("networks.KanervaMachine.weights", lambda **a: kanerva().weights(**a), lambda: {"latent": normal(2, 2)})
record(
    "networks.KanervaMachine.address_posterior",
    lambda **a: kanerva().address_posterior(**a),
    lambda: {"features": normal(2, 8)},
)
record(
    "networks.KanervaMachine.code_posterior",
    lambda **a: kanerva().code_posterior(**a),
    lambda: {"features": normal(2, 8), "recalled": normal(2, 2)},
)
for method in ("encode", "posterior", "bound"):
    record(
        f"networks.ConditionalVAE.{method}",
        lambda method=method, **a: getattr(conditional(), method)(**a),
        lambda method=method: {
            "x": rows(),
            "y": torch.tensor([0, 2]),
            **({"generator": None} if method == "bound" else {}),
        },
    )
record(
    "networks.ConditionalVAE.decode",
    lambda **a: conditional().decode(**a),
    lambda: {"code": normal(2, 2), "y": torch.tensor([0, 2])},
)
record(
    "networks.FrozenEncoder",
    N.FrozenEncoder,
    lambda: {"autoencoder": N.MLPVAE(2, hidden=4), "code": "mean", "mean": 0.0, "std": 1.0},
    autoencoder=MODULE,
)
record("networks.FrozenEncoder.forward", lambda **a: N.FrozenEncoder(mlp())(**a), lambda: {"x": images(2, 1, 28, 28)})
record(
    "networks.MemoryNetwork",
    N.MemoryNetwork,
    lambda: {"size": 8, "code_size": 3, "hidden": 4, "memory": True, "linear": True},
)
record(
    "networks.MemoryNetwork.start_at",
    lambda **a: N.MemoryNetwork(8, 3, hidden=4, linear=True).start_at(**a),
    lambda: {"images": images(4, 8)},
)
record("networks.MemoryNetwork.write", lambda **a: slots().write(**a), lambda: {"x": images(1, 2, 8)})
record(
    "networks.MemoryNetwork.forward",
    lambda **a: slots()(**a),
    lambda: {"x": images(1, 2, 8), "cue": images(1, 2, 8), "known": None},
    known=KNOWN,
)
for method in ("read", "attention"):
    record(
        f"networks.MemoryNetwork.{method}",
        lambda method=method, **a: getattr(slots(), method)(**a),
        lambda: {"slots": normal(1, 2, 3), "cue": images(1, 2, 8), "known": None},
        known=KNOWN,
    )
for kind in (N.MANN, N.DNC):
    name = f"networks.{kind.__name__}"
    more = {"decay": 0.9} if kind is N.MANN else {"free_gate": False, "gate_bias": 0.0}
    record(
        name,
        kind,
        lambda more=more: {"size": 8, "slots": 3, "width": 4, "controller": 2, "hidden": 4, **more},
        **{"decay": Number(least=0, most=1)} if kind is N.MANN else {"free_gate": Flag(), "gate_bias": Number()},
    )
    record(f"{name}.blank", lambda kind=kind, **a: small(kind).blank(**a), lambda: {"episodes": 1})
    record(
        f"{name}.write",
        lambda kind=kind, **a: small(kind).write(**a),
        lambda: {"x": images(1, 2, 8), "state": None},
        state=Values((3, "x")),
    )
    record(
        f"{name}.read",
        lambda kind=kind, **a: small(kind).read(**a),
        lambda kind=kind: {"state": small(kind).blank(1), "cue": images(1, 2, 8)},
        state=Values((3, "x", None)),
    )
    record(
        f"{name}.forward",
        lambda kind=kind, **a: small(kind)(**a),
        lambda: {"x": images(1, 2, 8), "cue": images(1, 2, 8)},
    )
    record(
        f"{name}.slots_used",
        lambda kind=kind, **a: small(kind).slots_used(**a),
        lambda kind=kind: {"state": small(kind).blank(1)},
        state=Values((3, "x", None)),
    )
record(
    "networks.RetrievalClassifier",
    N.RetrievalClassifier,
    lambda: {
        "autoencoder": N.MLPVAE(2, hidden=4),
        "memory": EpisodicMemory(4),
        "classes": 3,
        "neighbours": 2,
        "labels": True,
        "same": 0.1,
        "hidden": 4,
        "layers": 1,
        "mean": 0.0,
        "std": 1.0,
    },
    autoencoder=MODULE,
    memory=Thing(),
    same=Number(least=0),
    layers=Integer(least=0),
)
record("networks.RetrievalClassifier.forward", lambda **a: retrieval()(**a), lambda: {"x": images(2, 1, 28, 28)})
record("networks.RetrievalClassifier.retrieve", lambda **a: retrieval().retrieve(**a), lambda: {"query": normal(2, 2)})
record(
    "networks.ProbabilisticRetrievalClassifier",
    N.ProbabilisticRetrievalClassifier,
    lambda: {
        "autoencoder": N.MLPVAE(2, hidden=4),
        "classes": 3,
        "n": 2,
        "alpha_std": 0.5,
        "draws": 1,
        "hidden": 4,
        "layers": 1,
        "mean": 0.0,
        "std": 1.0,
        "seed": 0,
    },
    autoencoder=MODULE,
    alpha_std=Number(least=0),
    draws=Integer(least=0),
    layers=Integer(least=0),
)
record(
    "networks.ProbabilisticRetrievalClassifier.forward",
    lambda **a: probabilistic()(**a),
    lambda: {"x": images(2, 1, 28, 28)},
)
record(
    "networks.retrieval_mlp",
    N.retrieval_mlp,
    lambda: {"inputs": 2, "classes": 3, "hidden": 4, "layers": 1},
    layers=Integer(least=0),
)
record(
    "networks.train_memory_network",
    N.train_memory_network,
    lambda: {
        "network": N.MemoryNetwork(8, 3, hidden=4),
        "episodes": lambda: (images(1, 2, 8), images(1, 2, 8)),
        "steps": 1,
        "lr": 0.1,
        "warm_up": 1,
        "clip": 1.0,
        "after_step": None,
    },
    network=MODULE,
    episodes=Values((None, 3, "x")),
    after_step=Values((3, "x")),
)
record(
    "networks.train_on_episodes",
    N.train_on_episodes,
    lambda: {
        "network": small(N.MANN),
        "episodes": lambda count: (images(1, count, 8), images(1, count, 8)),
        "steps": 1,
        "patterns": (1,),
        "advance_below": 1.0,
        "loss": None,
        "lr": 0.1,
        "warm_up": 1,
        "clip": 1.0,
        "after_step": None,
    },
    network=Thing(),
    episodes=Values((None, 3, "x")),
    patterns=Values((3, "x", (), (0,), (1.5,), None)),
    loss=Values((3, "x")),
    after_step=Values((3, "x")),
)
record(
    "networks.train_vae",
    N.train_vae,
    lambda: {
        "vae": N.MLPVAE(2, hidden=4),
        "x": images(2, 1, 28, 28),
        "epochs": 1,
        "batch_size": 2,
        "lr": 0.1,
        "seed": 0,
        "after_epoch": None,
    },
    vae=MODULE,
    x=Array(finite=True, empty=True),
    after_epoch=Values((3, "x")),
)


# ---------------------------------------------------------------- energy networks


@lru_cache(maxsize=1)
def gated() -> E.GatedEnergy:
    return E.GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1)


@lru_cache(maxsize=1)
def convolutional() -> E.ConvolutionalEnergy:
    return E.ConvolutionalEnergy(
        (1, 8, 8), writable=1, channels=(2, 2), width=2, bottleneck=2, hops=1, hidden=2, write_steps=1, read_steps=1
    )


@lru_cache(maxsize=1)
def connected() -> E.FullyConnectedEnergy:
    return E.FullyConnectedEnergy(
        (1, 8, 8), writable=1, code=2, width=2, hops=1, channels=(2, 2, 2), hidden=2, write_steps=1, read_steps=1
    )


STEPS: dict[str, Any] = {
    "write_steps": 1,
    "read_steps": 1,
    "write_rate": 20.0,
    "slope_rate": None,
    "deviation_rate": None,
    "read_rate": 1.0,
}
STEP_KINDS: dict[str, Any] = {
    "write_steps": Integer(least=0),
    "read_steps": Integer(),
    "write_rate": Number(above=0, most=1e4),
    "slope_rate": Number(above=0, most=1e4, none=True),
    "deviation_rate": Number(above=0, most=1e4, none=True),
    "read_rate": Number(above=0, most=1e4),
}
record(
    "networks.energy.GatedEnergy",
    E.GatedEnergy,
    lambda: {"shape": (8,), "writable": 2, "width": 4, "hops": 1, "whitening": None, "rank": None, **STEPS},
    shape=Shape(number=True),
    whitening=Values((3, "x", E.Whitening)),
    rank=Integer(none=True),
    **STEP_KINDS,
)
record(
    "networks.energy.ConvolutionalEnergy",
    E.ConvolutionalEnergy,
    lambda: {
        "shape": (1, 8, 8),
        "writable": 1,
        "channels": (2, 2),
        "width": 2,
        "bottleneck": 2,
        "hops": 1,
        "hidden": 2,
        **STEPS,
    },
    channels=Shape(),
    **STEP_KINDS,
)
record(
    "networks.energy.FullyConnectedEnergy",
    E.FullyConnectedEnergy,
    lambda: {
        "shape": (1, 8, 8),
        "writable": 1,
        "code": 2,
        "width": 2,
        "hops": 1,
        "channels": (2, 2, 2),
        "hidden": 2,
        **STEPS,
    },
    channels=Shape(),
    **STEP_KINDS,
)
for name, energy_net, at in (
    ("GatedEnergy", gated, (8,)),
    ("ConvolutionalEnergy", convolutional, (1, 8, 8)),
    ("FullyConnectedEnergy", connected, (1, 8, 8)),
):
    record(
        f"networks.energy.{name}.write",
        lambda net=energy_net, **a: net().write(**a),
        lambda at=at: {"x": images(1, 2, *at), "steps": 1, "first_order": False, "checkpoint": False},
        steps=Integer(least=0, none=True),
    )
    record(
        f"networks.energy.{name}.read",
        lambda net=energy_net, **a: net().read(**a),
        lambda at=at: {
            "cue": images(1, 2, *at),
            "weights": None,
            "steps": 1,
            "known": None,
            "temperature": 0.0,
            "generator": None,
            "checkpoint": False,
        },
        weights=Values((3, "x", (3,), (torch.ones(1, 1),))),
        steps=Integer(none=True),
        known=Values((3, "x", torch.ones(1, 2, 8))),
        temperature=Number(least=0),
    )
    record(
        f"networks.energy.{name}.energy",
        lambda net=energy_net, **a: net().energy(**a),
        lambda net=energy_net, at=at: {"x": images(1, 2, *at), "weights": net().initial},
        weights=Values((None, 3, "x", (3,))),
    )
    record(
        f"networks.energy.{name}.precondition",
        lambda net=energy_net, **a: net().precondition(**a),
        lambda at=at: {"slope": images(1, 2, *at)},
        slope=Array(last=False, flat=False),
    )
record("networks.energy.Whitening", E.Whitening, lambda: {"mean": normal(4), "into": normal(4, 2), "out": normal(4, 2)})
record(
    "networks.energy.Whitening.of",
    E.Whitening.of,
    lambda: {"x": normal(5, 4), "rank": 2, "eps": 0.05},
    x=Array(last=False, finite=True, empty=True),
    rank=Integer(none=True),
    eps=Number(least=0),
)
record("networks.energy.Whitening.empty", E.Whitening.empty, lambda: {"size": 4, "rank": 2})
WHITENED = E.Whitening(normal(4), normal(4, 2), normal(4, 2))
record("networks.energy.Whitening.forward", lambda **a: WHITENED(**a), lambda: {"x": normal(5, 4)})
record(
    "networks.energy.Whitening.precondition", lambda **a: WHITENED.precondition(**a), lambda: {"slope": normal(5, 4)}
)

record(
    "codecs.Uint8.check_and_encode",
    lambda **a: C.Uint8().check_and_encode(**a),
    lambda: {"x": levels(2, *IMAGE)},
    x=Array(finite=True, last=False),
)
record(
    "networks.Scattering",
    N.Scattering,
    lambda: {
        "shape": (1, 8, 8),
        "numbers": 3,
        "scales": 2,
        "angles": 3,
        "seed": 0,
        "basis": "random",
        "mean": 0.0,
        "std": 1.0,
    },
    shape=Values((None, 3, "x", (8, 8), (0, 8, 8))),
    numbers=Integer(none=True),
    seed=Integer(least=0),
)
record(
    "networks.RandomProjection",
    N.RandomProjection,
    lambda: {"shape": (1, 8, 8), "numbers": 3, "seed": 0},
    seed=Integer(least=0),
)
record("networks.RandomProjection.forward", N.RandomProjection((1, 8, 8), 3), lambda: {"x": images(2, 1, 8, 8)})
record("networks.Scattering.forward", N.Scattering((1, 8, 8), 3, scales=2), lambda: {"x": images(2, 1, 8, 8)})
