"""Whether everything runs on a GPU, what waits for it there, and whether it gives what the CPU gives."""

from __future__ import annotations

import contextlib
import copy
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from _gpu_run import Run
from _record import versions
from fake_cuda import GPU, fake_cuda, place
from memories_and_plugins import CODECS, MEMORIES, PLUGINS, POLICIES, rows
from torch import Tensor, nn
from waits import CASES, steps_of

from avalanche_memplugins import MemoryReplayPlugin, RandomMemory, TensorLoaderPlugin
from avalanche_memplugins.testing import MemoryCase, PluginCase
from avalanche_memplugins.testing.cases import vectors
from avalanche_memplugins.testing.streams import SCENARIOS, run, weights

PLAIN = SCENARIOS["x, y, t"]
CLOSE = 1e-3


# ------------------------------------------------------------------------------------------------ does it run


def tour(bench: Run) -> None:
    """One small run of every plugin, one write and read of every memory."""
    bench.row("machine", versions=versions(), cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    plugins, memories = (PLUGINS[:4], MEMORIES[:4]) if bench.small else (PLUGINS, MEMORIES)
    done = Counter[str]()
    for memory in bench.each(memories, lambda case: case.name):
        with bench.attempt(f"memory {memory.name}"):
            _write_and_read(memory, bench.device)
            done["memories"] += 1
    for case in bench.each(plugins, lambda case: case.name):
        with bench.attempt(f"plugin {case.name}"):
            strategy = run(PLAIN, _with_loader(case), device=bench.device)
            assert bool(weights(strategy).isfinite().all()), "weights are not finite"
            done["plugins"] += 1
    bench.row("ran", plugins=f"{done['plugins']} of {len(plugins)}", memories=f"{done['memories']} of {len(memories)}")


def _with_loader(case: PluginCase) -> list[Any]:
    plugin = case.make()
    return [plugin] if isinstance(plugin, TensorLoaderPlugin) else [TensorLoaderPlugin(seed=0), plugin]


def _write_and_read(case: MemoryCase, device: torch.device) -> None:
    memory = case.make().to(device)
    for number in range(3):
        x, y = case.rows(12, number).to(device), (torch.arange(12) % case.classes).to(device)
        needs = {*getattr(memory, "needs", ()), *(["logits"] if getattr(memory, "store_logits", False) else [])}
        known = {"logits": torch.rand(12, case.classes, device=device), "loss": torch.rand(12, device=device)}
        if case.write is not None:
            case.write(memory, x, y, number)
        elif case.writes == "experiences":
            memory.consolidate([(x, y, torch.zeros_like(y))], origin=number)
        else:
            memory.write(x, y, number, origin=number, **{name: known[name] for name in known if name in needs})
    if case.read is not None:
        if case.rows is vectors:
            case.read(memory, case.rows(12, 77).to(device))
    elif case.reads == "sample":
        assert memory.sample(5).x.device.type == device.type, "rows are on another device"
    else:
        (memory.read if case.reads == "cue" else memory.predict)(case.rows(12, 77).to(device))


# ------------------------------------------------------------------------------------------------ what waits


class SyncRecord:
    """Waits that CUDA itself tells of in its debug mode, by place."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str, str]] = Counter()
        self._on = False

    @property
    def on(self) -> bool:
        return self._on

    @on.setter
    def on(self, value: bool) -> None:
        if value != self._on:
            torch.cuda.set_sync_debug_mode("warn" if value else "default")
        self._on = value

    def show(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if self._on and "synchronizing CUDA operation" in str(message):
            self.found["wait", "CUDA", place(sys._getframe(1))] += 1


@contextlib.contextmanager
def sync_record() -> Iterator[SyncRecord]:
    record = SyncRecord()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = record.show
        try:
            yield record
        finally:
            record.on = False


def waits(bench: Run) -> None:
    """Waits a step with every plugin, codec and policy."""
    on_gpu = bench.device.type == "cuda"
    cases = CASES[:3] if bench.small else CASES
    for case in bench.each(cases, lambda case: case.name):
        with bench.attempt(case.name):
            if on_gpu:
                step = steps_of(case, recording=sync_record, device=bench.device)
            else:
                step = steps_of(case, recording=fake_cuda, device=GPU)
            ours, others = Counter[str](), 0
            for (kind, operation, where), times in step.found.items():
                if kind == "wait" and where.startswith(("avalanche/", "torch/")):
                    others += times
                elif kind == "wait":
                    ours[where if on_gpu else f"{operation} at {where}"] += times
            told = "; ".join(f"{times / step.steps:g} {where}" for where, times in ours.most_common())
            bench.row(
                "waits a step",
                case=case.name,
                ours=f"{sum(ours.values()) / step.steps:g}",
                others=f"{others / step.steps:g}",
                where=told or "-",
            )


# ------------------------------------------------------------------------------------------------ is it the same


def same(bench: Run) -> None:
    """The CPU's results against the device's."""
    codecs, policies, plugins = (CODECS[:3], POLICIES[:3], PLUGINS[:3]) if bench.small else (CODECS, POLICIES, PLUGINS)
    for storage in ("device", "host"):
        for policy in bench.each(policies, lambda case: case.name):
            with bench.attempt(f"slots of {policy.name}, {storage}"):
                kind = "write_policy" if hasattr(policy.probe, "place") else "read_policy"
                here, there = (
                    _sampled(rows(**{kind: policy.make()}, storage=storage), device)
                    for device in (torch.device("cpu"), bench.device)
                )
                equal = all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
                bench.row("same slots", policy=policy.name, storage=storage, equal=equal)
    for codec in bench.each(codecs, lambda case: case.name):
        with bench.attempt(f"codec {codec.name}"):
            bench.row("codecs", codec=codec.name, **_codec(codec, bench.device))
    with bench.attempt("save and load"):
        bench.row("save and load", **_saved(bench.device))
    with bench.attempt("prefetch"):
        pair = [
            weights(
                run(
                    PLAIN,
                    [
                        TensorLoaderPlugin(seed=0),
                        MemoryReplayPlugin(rows(storage="host"), prefetch=prefetch, seed=0),
                    ],
                    device=bench.device,
                )
            )
            for prefetch in (False, True)
        ]
        bench.row("prefetch", equal_bit_for_bit=torch.equal(*pair))
    for case in bench.each(plugins, lambda case: case.name):
        with bench.attempt(f"weights with {case.name}"):
            pair = [weights(run(PLAIN, _with_loader(case), device=device)).cpu() for device in ("cpu", bench.device)]
            off = float((pair[0] - pair[1]).abs().max())
            bench.row("trained weights", plugin=case.name, largest_difference=f"{off:.1e}", close=off < CLOSE)


def _sampled(memory: RandomMemory, device: torch.device) -> list[Tensor]:
    memory.to(device)
    found = []
    for number in range(6):
        x, y = vectors(20, number).to(device), (torch.arange(20) % 6).to(device)
        generator = torch.Generator().manual_seed(number)
        logits = torch.randn(20, 6, generator=generator).to(device)
        needs = {"logits": logits, "loss": logits[:, 0].exp()}
        memory.write(x, y, 0, origin=number // 2, **{k: v for k, v in needs.items() if k in memory.needs})
        recall = memory.sample(8)
        found += [part.cpu() for part in (recall.x, recall.y, recall.origin)]
    return found


def _codec(case: Any, device: torch.device) -> dict[str, Any]:
    x = case.rows(200, 3)
    results = []
    for where in (torch.device("cpu"), device):
        codec = copy.deepcopy(case.make())
        if isinstance(codec, nn.Module):
            codec.to(where)
        rows_there = x.to(where)
        code = codec.encode(rows_there)
        results.append((code.cpu(), codec.decode(code, x.shape[1:], x.dtype).cpu()))
    (code, back), (code_there, back_there) = results
    return {
        "equal_codes": f"{float((code == code_there).float().mean()):.4f}",
        "largest_difference": f"{float((back - back_there).abs().max()):.1e}",
        "error": f"{float((back_there - x).abs().max()):.2g}",
        "bound": case.error,
    }


def _saved(device: torch.device) -> dict[str, bool]:
    found = {}
    for name, (first, second) in {
        "from_device": (device, torch.device("cpu")),
        "to_device": (torch.device("cpu"), device),
    }.items():
        memory = rows(codec="float16").to(first)
        memory.write(vectors(60, 1).to(first), (torch.arange(60) % 6).to(first))
        with tempfile.TemporaryDirectory() as folder:
            memory.save(f"{folder}/memory")
            loaded = rows(codec="float16").to(second)
            loaded.load(f"{folder}/memory")
        pairs = zip(memory.rows(memory.slots())[:4], loaded.rows(loaded.slots())[:4], strict=True)
        equal = all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)
        found[name] = equal and torch.equal(memory.sample(9).x.cpu(), loaded.sample(9).x.cpu())
    return found
