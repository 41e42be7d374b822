"""Damaged files and interrupted writes: what is tried, on what, and how the outcome is told.

A target is an entry of ``TARGETS``: how its files are made, an object to load them into, how they are loaded, and all
that the object is. Whoever adds something that is saved adds a target here; ``tests/test_faults.py`` tries a few
hundred damages on each, ``bench/faults.py`` many more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training import Naive
from avalanche.training.plugins import EWCPlugin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory, _drafts, _folders, pretrained
from avalanche_memplugins.checkpointing import load_run_state, save_run_state
from avalanche_memplugins.codecs import Bits, EntropyCoded, LatentCodec, StreamCodec, Uint8
from avalanche_memplugins.energy_training.options import EnergyTraining
from avalanche_memplugins.energy_training.train import Training
from avalanche_memplugins.lab import ResultStore, RunResult, RunSpec
from avalanche_memplugins.lab.reproduce import PRESETS, load_preset
from avalanche_memplugins.lab.store import sealed
from avalanche_memplugins.lab.table import summarise, tidy
from avalanche_memplugins.memories import (
    CodedMemory,
    DynamicKanervaMemory,
    EnergyMemory,
    EpisodicMemory,
    GaussianMemory,
    KanervaMemory,
    LatentMemory,
    MixedMemory,
    RandomProjectionMemory,
    VAEMemory,
)
from avalanche_memplugins.networks import VAE, ConditionalVAE, KanervaMachine
from avalanche_memplugins.networks.energy import GatedEnergy
from avalanche_memplugins.pretrained import _weights

LIMIT = 10.0  # seconds a try may take
OUTCOMES = ("loaded equal", "refused, unchanged", "raw error", "changed", "silently other", "hang")
BAD = OUTCOMES[2:]


@dataclass(frozen=True)
class Target:
    """Something that is saved.

    :param make: writes it to a path, whole; called twice, for other content, with ``seed`` 0 and 1.
    :param fresh: an object to load into, not empty where it can be; None if loading makes the object.
    :param load: loads into that object; gives what was loaded.
    :param state: all that a loaded or fresh object is, as nested dicts and lists of tensors and plain values.
    :param argument: with which its errors begin.
    :param use: does with what was loaded what a user would; whatever could be loaded must stand it.
    :param ours: whether this library writes it, with a checksum. What people write by hand says something else when it
        is changed, and has no writer to interrupt.
    """

    make: Callable[[Path, int], Any]
    fresh: Callable[[], Any]
    load: Callable[[Any, Path], Any]
    state: Callable[[Any], Any]
    argument: tuple[str, ...] = ("folder: ",)
    use: Callable[[Any], Any] = lambda found: None
    ours: bool = True


# ------------------------------------------------------------------------------------------------ targets

PIXELS = {"mean": 0.5, "std": 0.05}


class Autoencoder(nn.Module):
    """Rows of eight numbers as three."""

    code_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(B, 3)``."""
        return x @ self.weight.T

    def decode(self, z: Tensor) -> Tensor:
        """Rows ``(B, 8)``."""
        return torch.sigmoid(z @ self.weight)


class RowMachine(KanervaMachine):
    """A Kanerva machine for rows of eight numbers."""

    def __init__(self) -> None:
        super().__init__(code_size=3, rows=4, address_size=2, key_size=4, width=1)
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(3, 8)


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _latent_codec() -> LatentCodec:
    return LatentCodec(Autoencoder(), code_mean=torch.zeros(3), code_std=torch.ones(3), **PIXELS)


def _energy(**options: Any) -> EnergyMemory:
    network = _seeded(lambda: GatedEnergy(8, writable=2, width=4, write_steps=1, read_steps=1))
    return EnergyMemory(network, slots=10, slot_size=4, **PIXELS, **options)


def _vae(classes: int | None) -> VAEMemory:
    network = _seeded(lambda: ConditionalVAE((8,), code_size=3, hidden=(8,), classes=classes, likelihood="gaussian"))
    return VAEMemory(network, steps=2, batch_size=8)


MEMORIES: dict[str, Callable[[], Any]] = {
    "RandomMemory": lambda: RandomMemory(20),
    "RandomMemory, ring, cycle": lambda: RandomMemory(20, write_policy="ring", read_policy="cycle", labels="uint8"),
    "RandomMemory, class balanced": lambda: RandomMemory(
        20, write_policy="class_balanced", read_policy="class_balanced"
    ),
    "RandomMemory, task balanced": lambda: RandomMemory(20, write_policy="task_balanced", read_policy="task_balanced"),
    "RandomMemory, not full": lambda: RandomMemory(100, read_policy="task_balanced"),
    "RandomMemory, float16": lambda: RandomMemory(20, codec="float16"),
    "RandomMemory, int8": lambda: RandomMemory(20, codec="int8", storage="host"),
    "RandomMemory, 4 bits": lambda: RandomMemory(20, codec=Bits(4, **PIXELS)),
    "RandomMemory, latent codec": lambda: RandomMemory(20, codec=_latent_codec()),
    "RandomMemory, keys": lambda: RandomMemory(20, embedding=_seeded(lambda: nn.Linear(8, 3)), keep="both"),
    "RandomMemory, keys only": lambda: RandomMemory(20, embedding=_seeded(lambda: nn.Linear(8, 3)), keep="key"),
    "RandomMemory, logits": lambda: RandomMemory(20, store_logits=True),
    "EpisodicMemory": lambda: EpisodicMemory(20),
    "LatentMemory": lambda: LatentMemory(20, codec=StreamCodec(Autoencoder(), steps=2, **PIXELS)),
    "CodedMemory": lambda: CodedMemory(800, codec=EntropyCoded(Bits(4, **PIXELS)), store_tasks=True),
    "GaussianMemory": lambda: GaussianMemory(rank=2),
    "GaussianMemory, full": lambda: GaussianMemory(rank=None),
    "GaussianMemory, latent codec": lambda: GaussianMemory(rank=1, codec=_latent_codec()),
    "DynamicKanervaMemory": lambda: DynamicKanervaMemory(rows=4),
    "DynamicKanervaMemory, shared": lambda: DynamicKanervaMemory(rows=4, share="all"),
    "KanervaMemory": lambda: KanervaMemory(_seeded(RowMachine), **PIXELS),
    "VAEMemory": lambda: _vae(6),
    "VAEMemory without classes": lambda: _vae(None),
    "RandomProjectionMemory": lambda: RandomProjectionMemory(width=6),
    "MixedMemory": lambda: MixedMemory(RandomMemory(20, codec="float16", labels="uint8"), GaussianMemory(rank=1)),
    "EnergyMemory, stored cues": lambda: _energy(cue=Uint8(lossy=True, **PIXELS)),
    "EnergyMemory, int8": lambda: _energy(by_class=True, precision="int8"),
}


def _rows(seed: int, rows: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=generator).clamp(-3, 3)
    return x, torch.randint(6, (rows,), generator=generator), torch.full((rows,), seed)


def _filled(make: Callable[[], Any], seed: int) -> Any:
    memory = _seeded(make)  # a memory draws its seed, and a crashed writer's is compared with one made here
    x, y, t = _rows(seed)
    if isinstance(memory, CodedMemory):  # it codes images
        x = x.view(-1, 1, 2, 4)
    if hasattr(memory, "consolidate") and not isinstance(memory, EnergyMemory):
        memory.consolidate([(x, y, t)], origin=seed)
    else:
        memory.write(x, y, t, **({"logits": x} if getattr(memory, "store_logits", False) else {}))
    return memory


def _used(memory: Any) -> None:
    x, y, t = _rows(3, 8)
    if len(memory):
        found = memory.predict(x) if isinstance(memory, RandomProjectionMemory) else memory.sample(5).x
        if not bool(found.isfinite().all()):
            raise ValueError("samples are not finite")
    # What was written may have been of other rows or labels; then that is said.
    with contextlib.suppress(ValueError):
        memory.check_rows(x)
        if not isinstance(memory, VAEMemory | LatentMemory):
            memory.write(x, y, t, **({"logits": x} if getattr(memory, "store_logits", False) else {}))
    memory.summary()


def _memory_target(make: Callable[[], Any]) -> Target:
    return Target(
        make=lambda path, seed: _filled(make, seed).save(path),
        fresh=lambda: _filled(make, 2),
        load=lambda memory, path: memory.load(path),
        state=lambda memory: [repr(memory), len(memory), memory.nbytes, dict(memory.state_dict())],
        use=_used,
    )


def _strategy(seed: int) -> Naive:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator is part of a run state
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
    plugins = [MemoryReplayPlugin(RandomMemory(20, write_policy="class_balanced")), EWCPlugin(0.1)]
    optimizer = torch.optim.Adam(model.parameters())
    return Naive(
        model=model,
        optimizer=optimizer,
        train_mb_size=10,
        plugins=plugins,
        evaluator=None,
    )


def _trained(seed: int) -> Naive:
    x, y, _ = _rows(seed)
    data = TensorDataset(x, y)
    data.targets = y.tolist()  # type: ignore[attr-defined]
    strategy = _strategy(seed)
    for experience in nc_benchmark(data, data, 1, task_labels=False, shuffle=False).train_stream:
        strategy.train(experience, num_workers=0)
    return strategy


def _of_strategy(strategy: Naive) -> Any:
    memory, ewc = strategy.plugins[0], strategy.plugins[1]
    return [
        dict(strategy.model.state_dict()),
        strategy.optimizer.state_dict(),
        memory.state_dict(),
        {str(key): {name: part.data for name, part in of.items()} for key, of in ewc.importances.items()},
        {str(key): {name: part.data for name, part in of.items()} for key, of in ewc.saved_params.items()},
        [strategy.clock.train_exp_counter, strategy.clock.train_iterations],
        [module.training for module in strategy.model.modules()],
        [torch.get_rng_state(), str(random.getstate()), str(np.random.get_state())],  # noqa: NPY002
    ]


def _loaded_run(strategy: Naive, path: Path) -> Naive:
    load_run_state(strategy, path)
    return strategy


def _fresh_run() -> Naive:
    return _trained(2)


def _saved_codec(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    pretrained.save(
        path / "w.safetensors",
        VAE(code_size=4, width=2),
        code_mean=torch.zeros(4),
        code_std=torch.ones(4),
        manifest={"scores": [seed, 0.5]},
        card=f"# {seed}\n",
    )


def _saved_energy(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = GatedEnergy(8, writable=2, width=4, hops=2, write_steps=2, read_steps=3)
    pretrained.save_energy(path / "w.safetensors", network, patterns=4 + seed, manifest={"a": seed}, card=f"# {seed}\n")


TARGETS: dict[str, Target] = {name: _memory_target(make) for name, make in MEMORIES.items()}
TARGETS["run state"] = Target(
    make=lambda path, seed: save_run_state(_trained(seed), path),
    fresh=_fresh_run,
    load=_loaded_run,
    state=_of_strategy,
    argument=("folder: ", "strategy"),
)
TARGETS["pretrained codec"] = Target(
    make=_saved_codec,
    fresh=lambda: None,
    load=lambda _, path: pretrained.load(path / "w.safetensors"),
    state=lambda found: found and [dict(found.autoencoder.state_dict()), found.autoencoder.architecture(), *found[1:]],
    argument=("name: ",),
)
TARGETS["pretrained energy network"] = Target(
    make=_saved_energy,
    fresh=lambda: None,
    load=lambda _, path: pretrained.load_energy(path / "w.safetensors"),
    state=lambda found: found and [dict(found.network.state_dict()), found.network.architecture(), *found[1:]],
    argument=("name: ",),
)


def _result(seed: int) -> RunResult:
    of = {"benchmark": "split-digits", "strategy": "rma", "seed": 0, "n_experiences": 2, "epochs": 1, "hidden": 8}
    return RunResult(
        spec=RunSpec(**of),
        untrained=(0.1, 0.125),
        accuracy=((0.9, 0.1), (0.6 + seed / 10, 0.8)),
        train_seconds=(1.5, 2.5),
        memory_bytes=(10, 20 + seed),
        fixed_bytes=3,
        weights="ab" * 32,
        warnings=(f"warned {seed}",),
        environment={"torch": "2"},
    )


def _read_result(path: Path) -> RunResult:
    found = ResultStore(path).get(_result(0).spec)
    if found is None:  # the store has no error: the run is done again
        raise ValueError("result: none, the run is done again")
    return found


def _reported(result: RunResult) -> None:
    summarise(tidy([result]), result.spec.strategy)


def _write_preset(path: Path, seed: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    preset = PRESETS / f"{('der-split-mnist', 'clb-split-mnist')[seed]}.yaml"
    shutil.copy(preset, path / "own.yaml")


def _training(out: Path) -> Training:
    sizes: dict[str, Any] = {
        "bits": 12,
        "writable": 4,
        "width": 8,
        "write_steps": 2,
        "read_steps": 2,
        "patterns": (2, 3),
    }
    return Training(EnergyTraining(out=out, rows=6, steps=12, validate_every=4, write_rate=2.0, **sizes))


@lru_cache(maxsize=2)
def _begun(seed: int) -> Training:
    found = _training(Path(os.devnull).with_name("none.safetensors"))
    for _ in range(1 + seed):
        _go_on(found)
    return found


def _go_on(training: Training) -> None:
    training._round()
    training.best_score = training.validate()
    training.history.append([training.step, training.seconds, *training.best_score])


def _save_training(path: Path, seed: int) -> None:
    training = _begun(seed)
    training.folder = path / "net.checkpoint"
    training._save()


def _of_training(training: Training | None) -> Any:
    return training and [
        [dict(training.network.state_dict()), dict(training.average.state_dict()), dict(training.best)],
        [training.optimizer.state_dict(), training.generator.get_state()],
        [training.step, training.seconds, training.skipped, training.best_score, training.history],
    ]


TARGETS["result file"] = Target(
    make=lambda path, seed: ResultStore(path).put(_result(seed)),
    fresh=lambda: None,
    load=lambda _, path: _read_result(path),
    state=lambda found: found and found.to_json(),
    argument=("result: ", "out: "),
    use=_reported,
)
TARGETS["preset"] = Target(
    make=_write_preset,
    fresh=lambda: None,
    load=lambda _, path: load_preset(path / "own.yaml"),
    state=lambda found: found and dataclasses.asdict(found),
    argument=("preset",),
    use=lambda found: [row.spec(seed) for row in found.rows for seed in (0, 1)],
    ours=False,
)
TARGETS["energy training checkpoint"] = Target(
    make=_save_training,
    fresh=lambda: None,
    load=lambda _, path: _training(path / "net.safetensors"),
    state=_of_training,
    argument=("folder: ", "out: "),
    use=_go_on,
)


# ------------------------------------------------------------------------------------------------ damages


def flip(content: bytearray, draw: random.Random) -> bytearray:
    """One bit."""
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def cut(content: bytearray, draw: random.Random) -> bytearray:
    """The end is missing."""
    return content[: draw.randrange(len(content) + 1)]


def lengthen(content: bytearray, draw: random.Random) -> bytearray:
    """More at the end."""
    return content + draw.randbytes(draw.randrange(1, 64))


def swap(content: bytearray, draw: random.Random) -> bytearray:
    """Two pieces have changed places."""
    size = draw.randrange(1, 65)
    one, other = (draw.randrange(max(1, len(content) - size)) for _ in range(2))
    first, second = content[one : one + size], content[other : other + size]
    content[one : one + size], content[other : other + size] = second, first
    return content


def overwrite(content: bytearray, draw: random.Random) -> bytearray:
    """A piece is zeros, or noise, or of elsewhere."""
    size = draw.randrange(1, 65)
    place, source = (draw.randrange(max(1, len(content) - size)) for _ in range(2))
    piece = draw.choice([bytes(size), draw.randbytes(size), bytes(content[source : source + size])])
    content[place : place + size] = piece
    return content


def remove(content: bytearray, draw: random.Random) -> bytearray:
    """A piece is missing in the middle, or there twice."""
    size, place = draw.randrange(1, 9), draw.randrange(max(1, len(content)))
    piece = bytes(content[place : place + size]) * draw.choice([0, 2])
    content[place : place + size] = piece
    return content


DAMAGES: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    "bit flip": flip,
    "truncation": cut,
    "bytes appended": lengthen,
    "pieces swapped": swap,
    "piece overwritten": overwrite,
    "piece removed or doubled": remove,
}
HOSTILE = (
    None, True, -1, 0, 1, 10**9, 10**30, 2**63, 1.5, 1e308, float("nan"), "", "x", "float32", "load", "../../x",
    [], [1], [[]], {}, {"$": "tensor", "at": "x", "home": True}, {"$": "nothing"}, {"dict": {}}, {"tensor": "x"},
)  # fmt: skip


def _mutated(value: Any, draw: random.Random) -> Any:
    """A JSON value with one thing in it that is wrong."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        what = draw.random()
        if what < 0.08:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.12:
            return {**value, key + "x": value[key]}
        return {**value, key: _mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        what = draw.random()
        if what < 0.1:
            return value[:place] + value[place + 1 :]
        if what < 0.2:
            return [*value, value[place]]
        return [*value[:place], _mutated(value[place], draw), *value[place + 1 :]]
    return draw.choice(HOSTILE)


def _mutated_tensors(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    name = draw.choice(sorted(tensors))
    value = tensors[name]
    choices: list[Callable[[], dict[str, Tensor]]] = [
        lambda: {k: v for k, v in tensors.items() if k != name},
        lambda: {**tensors, name + "x": value.clone()},
        lambda: {**tensors, name: value.to(draw.choice([torch.float64, torch.int64, torch.uint8, torch.float16]))},
        lambda: {**tensors, name: value.flatten()},
        lambda: {**tensors, name: value[None].clone()},
        lambda: {**tensors, name: value[:0].clone() if value.ndim else value[None].clone()},
        lambda: {**tensors, name: torch.cat([value, value]) if value.ndim else value.clone()},
        lambda: {**tensors, name: (torch.zeros(value.shape) + draw.choice([0, 1, 100])).to(value.dtype)},
        lambda: {**tensors, name: (-value.double() - 1).to(value.dtype)},
    ]
    if value.is_floating_point() and value.numel():
        choices += [lambda: {**tensors, name: torch.full_like(value, draw.choice([float("nan"), float("inf")]))}] * 4
    return draw.choice(choices)()


def agree(folder: Path, draw: random.Random) -> bool:
    """Something wrong with right checksums, as from somebody who knows of them.

    :returns: False if these files have no checksums that are known here.
    """
    weights = folder / "w.safetensors"
    if weights.is_file():
        with safe_open(weights, framework="pt") as file:
            header = dict(file.metadata())
        tensors = load_file(weights)
        if draw.random() < 0.5:
            tensors = _mutated_tensors(tensors, draw)
            header["fingerprint"] = _weights.fingerprint(tensors)
        else:
            part = draw.choice(["kwargs", "manifest"])
            header[part] = json.dumps(_mutated(json.loads(header[part]), draw))
        save_file(tensors, weights, metadata={**header, "header_sha256": _weights._digest(header)})
        return True
    for result in folder.glob("*.json"):
        if "protocol" in (values := json.loads(result.read_text())):
            del values["sha256"]
            mutated = _mutated(values, draw)
            try:
                result.write_bytes(sealed(mutated) if isinstance(mutated, dict) else json.dumps(mutated).encode())
            except ValueError:  # what JSON cannot hold
                return False
            return True
    folder = next((found.parent for found in folder.rglob(_folders.MANIFEST)), folder)
    if not (folder / _folders.MANIFEST).is_file():
        return False
    manifest = json.loads((folder / _folders.MANIFEST).read_text())
    if draw.random() < 0.5:
        tensors = _mutated_tensors(load_file(folder / _folders.TENSORS), draw)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / _folders.TENSORS)
        manifest["sha256"] = _folders._digest(folder / _folders.TENSORS)
    elif "state" in manifest:
        manifest["state"] = _mutated(manifest["state"], draw)
    else:
        mutated = _mutated(manifest, draw)
        manifest = {**(mutated if isinstance(mutated, dict) else {}), "sha256": manifest["sha256"]}
    manifest["manifest_sha256"] = _folders.manifest_digest(manifest)
    (folder / _folders.MANIFEST).write_text(json.dumps(manifest))
    return True


# ------------------------------------------------------------------------------------------------ tries


def digest(value: Any) -> str:
    """A short name for all that is in a nested value, types and bits of tensors included."""
    out = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, Tensor):
            plain = item.detach().cpu().contiguous()
            out.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            out.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
        elif isinstance(item, dict):
            out.update(b"{")
            for key, inner in item.items():
                out.update(f"{key!r}:".encode())
                add(inner)
        elif isinstance(item, list | tuple):
            out.update(b"[")
            for inner in item:
                add(inner)
        else:
            out.update(repr(item).encode())

    add(value)
    return out.hexdigest()


class Hang(BaseException):
    """A try took too long."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise :class:`Hang` in what takes longer."""

    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """One target, on which damages are tried one after the other.

    :param name: in ``TARGETS``.
    :param scratch: an empty folder.
    """

    def __init__(self, name: str, target: Target, scratch: Path) -> None:
        self.name, self.target = name, target
        self.sound, self.spoilt = scratch / "sound", scratch / "spoilt"
        scratch.mkdir(parents=True, exist_ok=True)
        target.make(self.sound, 0)
        self.loaded = digest(target.state(target.load(target.fresh(), self.sound)))
        self._renew()
        self.notes: list[str] = []

    def _renew(self) -> None:
        self.object = self.target.fresh()
        self.before = digest(self.target.state(self.object))

    def try_damage(self, kind: str, draw: random.Random) -> str | None:
        """The outcome of a damage, one of ``OUTCOMES``; None if it left the files as they were."""
        shutil.rmtree(self.spoilt, ignore_errors=True)
        shutil.copytree(self.sound, self.spoilt)
        if kind == "wrong with right checksums":
            if not agree(self.spoilt, draw):
                return None
        else:
            files = sorted(path for path in self.spoilt.rglob("*") if path.is_file() and path.suffix != ".md")
            path = draw.choice(files)
            content = path.read_bytes()
            damaged = bytes(DAMAGES[kind](bytearray(content), draw))
            if damaged == content:
                return None
            path.write_bytes(damaged)
        return self._outcome(kind)

    def _outcome(self, kind: str) -> str:
        try:
            with limited(LIMIT):
                found = self.target.load(self.object, self.spoilt)
        except Hang:
            self._renew()
            return self._noted("hang", kind, "")
        except Exception as error:
            own = isinstance(error, ValueError) and str(error).startswith(self.target.argument)
            same = digest(self.target.state(self.object)) == self.before
            if not same:
                self._renew()
            if not own:
                return self._noted("raw error", kind, repr(error)[:300])
            return "refused, unchanged" if same else self._noted("changed", kind, str(error)[:300])
        now = digest(self.target.state(found))
        try:
            with limited(LIMIT):
                self.target.use(found)
        except (Exception, Hang) as error:
            self._renew()
            return self._noted("silently other", kind, f"and then {error!r}"[:300])
        self._renew()
        # Whoever makes the checksums right may say something else; it must only make sense.
        if now == self.loaded or kind == "wrong with right checksums" or not self.target.ours:
            return "loaded equal"
        return self._noted("silently other", kind, "")

    def _noted(self, outcome: str, kind: str, said: str) -> str:
        self.notes.append(f"{self.name}, {kind}: {outcome} {said}")
        return outcome


KINDS = (*DAMAGES, "wrong with right checksums")


def try_all(
    name: str, target: Target, tries: int, seed: int, scratch: Path
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Outcomes by kind of damage of ``tries`` damages of one target, and what is to be known of the bad ones."""
    bench, draw = Bench(name, target, scratch), random.Random(f"{seed} {name}")
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for number in range(tries):
        kind = "bit flip" if number % 3 == 0 else KINDS[number % len(KINDS)]
        outcome = bench.try_damage(kind, draw)
        if outcome is not None:
            found[kind][outcome] += 1
    return found, bench.notes


# ------------------------------------------------------------------------------------------------ writers


def try_kills(name: str, target: Target, tries: int, seed: int, scratch: Path) -> tuple[Counter[str], list[str]]:
    """Kill a process that saves one of two contents over and over, and look at what it leaves."""
    draw, place, notes = random.Random(f"{seed} {name} kills"), scratch / "saved", []
    scratch.mkdir(parents=True, exist_ok=True)
    wanted = set()
    for version in (0, 1):
        target.make(place, version)
        wanted.add(digest(target.state(target.load(target.fresh(), place))))
    begun = time.perf_counter()
    target.make(place, 0)
    took = time.perf_counter() - begun
    out: Counter[str] = Counter()
    for _ in range(tries):
        writer = os.fork()
        if not writer:
            try:
                while True:
                    for version in (0, 1):
                        target.make(place, version)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.3, 2.5) * took)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        try:
            found = digest(target.state(target.load(target.fresh(), place)))
            outcome = "whole" if found in wanted else "silently other"
        except Exception as error:
            outcome = "lost"
            notes.append(f"{name}, kill: {error!r}"[:300])
        target.make(place, 0)
        if left := sorted(path.name for path in scratch.rglob("*") if path.name.startswith(".")):
            outcome = "whole, but a draft is left"
            notes.append(f"{name}, kill: {left}")
        out[outcome] += 1
    return out, notes


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond ``room`` bytes, and nobody notice beforehand."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with mock.patch.object(_drafts, "free_bytes", return_value=None):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def try_full_disks(name: str, target: Target, tries: int, seed: int, scratch: Path) -> tuple[Counter[str], list[str]]:
    """Save where there is no room: the old content stays, the error is the target's own, nothing is left behind."""
    draw, place, notes = random.Random(f"{seed} {name} disk"), scratch / "saved", []
    scratch.mkdir(parents=True, exist_ok=True)
    target.make(place, 0)
    wanted = digest(target.state(target.load(target.fresh(), place)))
    largest = max(path.stat().st_size for path in place.rglob("*") if path.is_file())
    out: Counter[str] = Counter()
    for _ in range(tries):
        try:
            with full_disk(draw.randrange(largest)):
                target.make(place, 1)
            outcome = "raw error"
            notes.append(f"{name}, full disk: no error")
        except ValueError as error:
            outcome = "refused, unchanged" if str(error).startswith(target.argument) else "raw error"
            if outcome == "raw error":
                notes.append(f"{name}, full disk: {error!r}"[:300])
        except Exception as error:
            outcome = "raw error"
            notes.append(f"{name}, full disk: {error!r}"[:300])
        if digest(target.state(target.load(target.fresh(), place))) != wanted:
            outcome = "changed"
        files = [path.name for path in scratch.rglob("*") if path.name.startswith(".")]
        if files:
            outcome = "changed"
            notes.append(f"{name}, full disk: {files}")
        out[outcome] += 1
    return out, notes


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of its own for the files of a trial."""
    return tempfile.TemporaryDirectory(prefix="faults-")
