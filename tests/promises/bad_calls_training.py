"""Calls of ``plugins``, ``strategies``, ``metrics``, ``benchmarks``, ``pretrained``, ``checkpointing`` and ``lab``."""

from __future__ import annotations

from typing import Any

import torch
from _call_record import record
from bad_calls_memories import TMP
from bad_calls_networks import gated, mlp
from bad_values import Array, Flag, Folder, Integer, Name, Number, Seed, Thing, Values
from memories_and_plugins import energy_memory
from torch import nn

from avalanche_memplugins import benchmarks as B
from avalanche_memplugins import checkpointing as K
from avalanche_memplugins import lab as L
from avalanche_memplugins import metrics as M
from avalanche_memplugins import plugins as P
from avalanche_memplugins import pretrained as W
from avalanche_memplugins import strategies as S
from avalanche_memplugins.memories import EpisodicMemory, GaussianMemory, RandomMemory
from avalanche_memplugins.networks import MLPVAE

AMOUNT = Values((0, -1, True, 1.5, "grow", [3], float("nan")))
CALLABLE = Values((3, "x"))
LAYER = Values((3, "", ["features"], nn.Identity(), True))
REPLAY: dict[str, Any] = {
    "replay_size": AMOUNT, "write_every": Integer(), "write_at": Name(none=True, typo="iterations"),
    "write_epochs": Name(), "batch_policy": Name(),
    "replay_weight": Values((0.0, 1.0, -1, "grow", True, float("nan"), [0.5])), "labels": Name(), "augment": CALLABLE,
    "at": LAYER, "origin": Name(), "prefetch": Flag(), "seed": Seed(),
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "replay_size": None, "write_every": 1, "write_at": None, "write_epochs": "first", "batch_policy": "append",
    "replay_weight": None, "labels": "memory", "augment": None, "at": None, "origin": "experience", "prefetch": False,
    "seed": 0,
}  # fmt: skip
record(
    "plugins.MemoryReplayPlugin",
    P.MemoryReplayPlugin,
    lambda: {"memory": RandomMemory(4), **OPTIONS},
    memory=Thing(),
    **REPLAY,
)
record(
    "plugins.LatentReplayPlugin",
    P.LatentReplayPlugin,
    lambda: {"memory": RandomMemory(4), "at": "features", "freeze_below": True},
    memory=Thing(),
    at=Values((3, "", None, ["a"], True)),
)
record(
    "plugins.EnergyReplayPlugin",
    P.EnergyReplayPlugin,
    lambda: {"memory": energy_memory(), "cue": "stored"},
    memory=Thing(),
)
record(
    "plugins.RandomMemoryPlugin",
    P.RandomMemoryPlugin,
    lambda: {
        "mem_size": 4,
        "write_every": 1,
        "replay_size": None,
        "write_policy": "ring",
        "read_policy": "uniform",
        "codec": "raw",
        "seed": 0,
    },
    replay_size=AMOUNT,
)
record(
    "plugins.DarkReplayPlugin",
    P.DarkReplayPlugin,
    lambda: {
        "memory": RandomMemory(4, store_logits=True),
        "alpha": 0.1,
        "beta": 0.5,
        "replay_size": None,
        "augment": None,
        "at": None,
        "seed": 0,
    },
    memory=Thing(),
    alpha=Number(least=0),
    beta=Number(least=0),
    replay_size=AMOUNT,
    augment=CALLABLE,
    at=LAYER,
)
READING: dict[str, Any] = {
    "memory": Thing(), "neighbours": Integer(), "key": LAYER, "writes": Flag(), "write_every": Integer(),
    "max_bytes": Integer(huge=False), "backend": Name(),
}  # fmt: skip
READ: dict[str, Any] = {
    "neighbours": 2,
    "key": None,
    "writes": False,
    "write_every": 1,
    "max_bytes": 1 << 20,
    "backend": "torch",
}
record(
    "plugins.LocalAdaptationPlugin",
    P.LocalAdaptationPlugin,
    lambda: {
        "memory": EpisodicMemory(4),
        **READ,
        "steps": 1,
        "lr": 0.1,
        "beta": 0.0,
        "kernel": "nearest_relative",
        "adapt": 1,
    },
    steps=Integer(least=0),
    beta=Number(least=0, most=1),
    kernel=Values(("nearest", "", 3, None, [1])),
    adapt=Values((0, True, 1.5, None, "", [], [3])),
    **READING,
)
record(
    "plugins.NearestNeighbourPlugin",
    P.NearestNeighbourPlugin,
    lambda: {"memory": EpisodicMemory(4), **READ, "mix": 1.0, "kernel": "uniform"},
    mix=Number(above=0, most=1),
    **READING,
)
record("plugins.LeanStepPlugin", P.LeanStepPlugin, lambda: {"train": True, "evaluate": True})
record(
    "plugins.TensorLoaderPlugin",
    P.TensorLoaderPlugin,
    lambda: {
        "max_bytes": 1 << 20,
        "assume_deterministic": False,
        "augment": None,
        "train": True,
        "evaluate": True,
        "seed": 0,
    },
    max_bytes=Integer(huge=False),
    augment=CALLABLE,
)

# ---------------------------------------------------------------- strategies


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(8, 4), nn.Linear(4, 2)


def template(**more: Any) -> dict[str, Any]:
    model = Head()
    return {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1), "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 2, "train_epochs": 1, "eval_mb_size": None, "device": "cpu", "plugins": None,
        "evaluator": None, "eval_every": -1, **more,
    }  # fmt: skip


TEMPLATE: dict[str, Any] = {
    "model": Thing(), "optimizer": Thing(), "criterion": Values((None, 3, "x")), "train_mb_size": Integer(),
    "train_epochs": Integer(), "eval_mb_size": Integer(none=True), "device": Values((None, 3.5, "gpu0", "", [1])),
    "plugins": Values((3, "x", [3], ["replay"])), "evaluator": Values((3, "x")), "eval_every": Integer(least=-1),
}  # fmt: skip
ROWS: dict[str, Any] = {
    "mem_size": 4,
    "replay_size": None,
    "write_policy": "ring",
    "read_policy": "uniform",
    "codec": "raw",
    "seed": 0,
}
ROW_KINDS: dict[str, Any] = {
    "mem_size": Integer(),
    "replay_size": AMOUNT,
    "write_policy": Name(),
    "read_policy": Name(),
    "codec": Name(),
    "seed": Seed(),
}
for name in ("RMA", "ExperienceReplay"):
    record(
        f"strategies.{name}",
        getattr(S, name),
        lambda: template(**ROWS, write_every=1, augment=None),
        augment=CALLABLE,
        **ROW_KINDS,
        **TEMPLATE,
    )
record(
    "strategies.DarkExperienceReplay",
    S.DarkExperienceReplay,
    lambda: template(**ROWS, alpha=0.1, beta=0.5, augment=None),
    alpha=Number(least=0),
    beta=Number(least=0),
    augment=CALLABLE,
    **ROW_KINDS,
    **TEMPLATE,
)
record(
    "strategies.MbPA",
    S.MbPA,
    lambda: template(
        mem_size=4,
        write_policy="ring",
        codec="raw",
        write_every=1,
        replay=False,
        neighbours=2,
        steps=1,
        lr=0.1,
        beta=0.0,
        kernel="nearest_relative",
        adapt=1,
        key=None,
        max_bytes=1 << 20,
        seed=0,
    ),
    steps=Integer(least=0),
    beta=Number(least=0, most=1),
    kernel=Values(("nearest", 3, None)),
    adapt=Values((0, True, 1.5, None)),
    key=LAYER,
    max_bytes=Integer(huge=False),
    **TEMPLATE,
)
record(
    "strategies.ProbabilisticRetrieval",
    S.ProbabilisticRetrieval,
    lambda: template(**ROWS, write_every=1),
    **{**ROW_KINDS, "mem_size": Integer(none=True)},
    **TEMPLATE,
)
record(
    "strategies.ProbabilisticRetrieval.published",
    S.ProbabilisticRetrieval.published,
    lambda: {"autoencoder": MLPVAE(2, hidden=4), "classes": 3, "seed": 0, "evaluator": None},
    autoencoder=Thing(),
)
record(
    "strategies.VAEReplay",
    S.VAEReplay,
    lambda: template(
        shape=(8,),
        network=None,
        classes=None,
        labels="old_model",
        prior="fitted",
        steps=1,
        batch_size=2,
        lr=0.1,
        mean=0.0,
        std=1.0,
        replay_size=None,
        seed=0,
    ),
    network=Values((3, "x", nn.Linear(2, 2), MLPVAE)),
    classes=Integer(none=True),
    replay_size=AMOUNT,
    **TEMPLATE,
)
record(
    "strategies.EnergyRehearsal",
    S.EnergyRehearsal,
    lambda: template(
        network="rehearsal-28",
        budget=60_000,
        shape=(1, 28, 28),
        classes=2,
        cue=7,
        memory=None,
        replay_from="stored",
        mean=0.0,
        std=1.0,
        replay_size=None,
        seed=0,
    ),
    network=Folder(),
    cue=Integer(none=True),
    memory=Values((3, "x", [1])),
    replay_size=AMOUNT,
    **TEMPLATE,
)

# ---------------------------------------------------------------- metrics

for name in ("MemoryBytes", "MemoryFixedBytes", "ReplayAccuracy", "ReplayBound"):
    record(f"metrics.{name}", getattr(M, name), lambda: {"emit_at": "epoch"})
record("metrics.ReplayAgreement", M.ReplayAgreement, lambda: {"judge": None, "emit_at": "epoch"}, judge=CALLABLE)
record("metrics.memory_metrics", M.memory_metrics, lambda: {"minibatch": True, "epoch": False, "experience": False})

# ---------------------------------------------------------------- benchmarks

record(
    "benchmarks.SplitDigits",
    B.SplitDigits,
    lambda: {
        "n_experiences": 5,
        "return_task_id": False,
        "seed": 0,
        "fixed_class_order": None,
        "shuffle": True,
        "class_ids_from_zero_in_each_exp": False,
        "class_ids_from_zero_from_first_exp": False,
        "train_transform": None,
        "eval_transform": None,
    },
    fixed_class_order=Values((3, "x", [], [11], [0, 0], ["a"], [0.5])),
    train_transform=CALLABLE,
    eval_transform=CALLABLE,
)
record(
    "benchmarks.PermutedDigits",
    B.PermutedDigits,
    lambda: {"n_experiences": 2, "return_task_id": False, "seed": 0, "train_transform": None, "eval_transform": None},
    train_transform=CALLABLE,
    eval_transform=CALLABLE,
)
record("benchmarks.get_benchmark", B.get_benchmark, lambda: {"name": "split-digits"}, {"name": ("name", "benchmark")})
record(
    "benchmarks.data_root", B.data_root, lambda: {"root": TMP}, {"root": ("root", "data_root")}, root=Folder(none=True)
)
record(
    "benchmarks.BenchmarkInfo.build",
    lambda **a: B.get_benchmark("split-digits").build(**a),
    lambda: {"n_experiences": 5, "seed": 0},
    n_experiences=Integer(none=True),
)

# ---------------------------------------------------------------- pretrained

STATISTICS: dict[str, Any] = {"code_mean": torch.zeros(2), "code_std": torch.ones(2)}
record("pretrained.load", W.load, lambda: {"name": "omniglot28-vae"}, **{"name": Folder()})
record("pretrained.load_energy", W.load_energy, lambda: {"name": "rehearsal-28"}, **{"name": Folder()})
record(
    "pretrained.register_architecture",
    W.register_architecture,
    lambda: {"cls": type("Mine", (nn.Module,), {})},
    cls=Values((None, 3, "x", nn.Linear(2, 2), int)),
)
record(
    "pretrained.save",
    W.save,
    lambda: {
        "name": TMP / "vae",
        "autoencoder": mlp(),
        "architecture": {"code_size": 2, "hidden": 4},
        **STATISTICS,
        "manifest": None,
        "card": None,
    },
    autoencoder=Thing(),
    architecture=Values((3, "x", [1])),
    code_mean=Array(floats=False),
    code_std=Array(floats=False),
    manifest=Values((3, "x")),
    card=Values((3, b"x")),
)
record(
    "pretrained.save_energy",
    W.save_energy,
    lambda: {"name": TMP / "energy", "network": gated(), "patterns": 2, "manifest": {}, "card": None},
    network=Thing(),
    manifest=Values((None, 3, "x")),
    card=Values((3, b"x")),
)

# ---------------------------------------------------------------- checkpointing


def strategy() -> Any:
    return S.ExperienceReplay(**{**template(), "mem_size": 4})


def saved_run() -> Any:
    folder = TMP / "run"
    if not folder.exists():
        K.save_run_state(strategy(), folder)
    return folder


record(
    "checkpointing.save_run_state",
    K.save_run_state,
    lambda: {"strategy": strategy(), "folder": TMP / "run", "strict": True},
    strategy=Thing(),
)
record(
    "checkpointing.load_run_state",
    K.load_run_state,
    lambda: {"strategy": strategy(), "folder": saved_run(), "experiences": None, "missing_ok": False, "strict": True},
    strategy=Thing(),
    experiences=Values((3,)),
)

# ---------------------------------------------------------------- lab

record("lab.ResultStore", L.ResultStore, lambda: {"folder": TMP / "results"})
record(
    "lab.compare",
    lambda **a: L.compare(**a) if a["comparison"] != "right" else None,
    lambda: {"comparison": "right"},
    comparison=Values((None, 3, "x", L.Comparison)),
)


def answering(**more: Any) -> dict[str, Any]:
    left_out = ("model", "optimizer", "criterion", "train_epochs")
    return {**{k: v for k, v in template().items() if k not in left_out}, "num_classes": 3, "model": None, **more}


ANSWERING = {
    name: kind for name, kind in TEMPLATE.items() if name not in ("model", "optimizer", "criterion", "train_epochs")
}
ANSWERING |= {"num_classes": Integer(), "model": Values((3, "x", nn.Linear)), "precision": Values((None, 5, True, "x"))}
SHRUNK = {"shrinkage": Number(least=0, most=1), "ridge": Number(least=0)}
record(
    "strategies.NearestMean",
    S.NearestMean,
    lambda: answering(precision=4),
    {"model": ("model", "embedding")},
    **ANSWERING,
)
record(
    "strategies.StreamingLDA",
    S.StreamingLDA,
    lambda: answering(precision=4, ridge=0.1),
    {"model": ("model", "embedding")},
    ridge=SHRUNK["ridge"],
    **ANSWERING,
)
record(
    "strategies.StreamingQDA",
    S.StreamingQDA,
    lambda: answering(precision=4, rank=2, components=2, by="class", ridge=0.1, shrinkage=0.1, seed=0),
    {"model": ("model", "embedding")},
    rank=Integer(least=0, none=True),
    **SHRUNK,
    **ANSWERING,
)
record(
    "strategies.RanPAC",
    S.RanPAC,
    lambda: answering(width=8, ridge=0.1, seed=0),
    ridge=Values((None, "own", -1, True)),
    **{name: kind for name, kind in ANSWERING.items() if name != "precision"},
)
MODELLED: dict[str, Any] = {"balance": Name(), "codec": Values((3, "x")), "seed": Seed()}
record(
    "strategies.GaussianReplay",
    S.GaussianReplay,
    lambda: template(
        rank=2, components=2, precision=4, balance="class", codec=None, replay_size=2, replay_weight=0.5, seed=0
    ),
    rank=Integer(least=0, none=True),
    precision=Values((None, 5, True, "x")),
    **MODELLED,
    **TEMPLATE,
    replay_size=None,
    replay_weight=None,
)
record(
    "strategies.MixedReplay",
    S.MixedReplay,
    lambda: template(
        budget_bytes=10_000,
        classes=2,
        shape=(8,),
        experiences=2,
        by="class",
        share=0.5,
        codec="raw",
        embedding=None,
        precision=4,
        weight=0.5,
        replay_size=2,
        replay_weight=0.5,
        seed=0,
    ),
    {"budget_bytes": ("budget_bytes", "nbytes")},
    budget_bytes=Values((0, -1, True, 1.5, "many", None)),
    share=Values((0, 1, -1, True, "x", None)),
    embedding=Values((3, "x")),
    precision=Values((None, 5, True, "x")),
    **TEMPLATE,
    replay_size=None,
    replay_weight=None,
)
record(
    "strategies.KanervaReplay",
    S.KanervaReplay,
    lambda: template(rows=2, share="class", balance="class", codec=None, replay_size=2, replay_weight=0.5, seed=0),
    **MODELLED,
    **TEMPLATE,
    replay_size=None,
    replay_weight=None,
)
record(
    "plugins.MemoryPredictionPlugin",
    P.MemoryPredictionPlugin,
    lambda: {
        "memory": GaussianMemory(),
        "combine": "product",
        "temperature": 1.0,
        "at": None,
        "rows": None,
        "options": None,
        "fit_rows": None,
        "fit_size": 4,
        "writes": True,
        "write_every": 1,
    },
    memory=Thing(),
    at=Values((3, "")),
    options=Values((3, "x")),
    rows=Values((3, "x", GaussianMemory())),
    fit_rows=Values((3, "x", GaussianMemory())),
)
