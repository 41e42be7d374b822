"""Every public callable, called wrongly: an error that names the argument, nothing raw, nothing taken in silence."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import bad_calls_codecs as bad_calls_codecs
import bad_calls_comparators as bad_calls_comparators
import bad_calls_functional as bad_calls_functional
import bad_calls_memories as bad_calls_memories
import bad_calls_networks as bad_calls_networks
import bad_calls_training as bad_calls_training
import pytest
from _call_record import RECORDS, Record

PACKAGES = (
    "benchmarks", "checkpointing", "codecs", "functional", "lab", "memories", "memories.comparators",
    "memories.policies", "metrics", "networks", "networks.energy", "plugins", "pretrained", "strategies",
)  # fmt: skip
RESULT = "a tuple or record that the library makes and gives back; it has no call of its own"
BARE = "takes no arguments"
PROTOCOL = "says what a class of the user's own has; it is not called"
DATA = "a table, or the name of a type"
FILES = "opens files that a test does not have, and hands its arguments to the function of Avalanche or to split_stream"
LAB = "values of the lab, checked as runs are described; their wrong calls are in tests/lab"
EXCEPTIONS = {
    **dict.fromkeys(
        (
            "functional.Neighbours", "functional.PackedCovariance", "memories.Nearest", "memories.Recall",
            "memories.Summary", "networks.DNCState", "networks.EpisodeBound",
            "networks.MANNState", "networks.VAEBound", "plugins.Replayed",
            "memories.policies.Placement", "memories.policies.Offered", "benchmarks.DigitsData",
            "benchmarks.BenchmarkInfo", "pretrained.Pretrained", "pretrained.PretrainedEnergy", "lab.Outcome",
            "lab.MemoryInfo", "lab.Absent", "lab.Recipe", "checkpointing.CheckpointError",
        ),
        RESULT,
    ),
    **dict.fromkeys(
        (
            "memories.policies.Cycle", "memories.policies.Herding", "memories.policies.Ring",
            "memories.policies.Reservoir",
            "plugins.GradientAveragingPlugin", "metrics.MemoryNovelty", "checkpointing.avalanche_checkpoint_compat",
            "benchmarks.digits", "pretrained.names", "pretrained.energy_names",
        ),
        BARE,
    ),
    **dict.fromkeys(
        (
            "memories.policies.ReadPolicy", "memories.policies.WritePolicy", "lab.Executor",
            "networks.energy.EnergyNetwork", "memories.Memory", "memories.WritableMemory", "memories.LearningMemory",
            "memories.SupportsForget", "memories.SupportsPredict",
        ),
        PROTOCOL,
    ),
    **dict.fromkeys(
        (
            "memories.GaussianMemory.normalise_as", "memories.DynamicKanervaMemory.normalise_as",
            "memories.RandomProjectionMemory.normalise_as",
        ),
        "inherited; a memory that does not work on pixels does nothing",
    ),
    **dict.fromkeys(
        (
            "memories.RandomProjectionMemory.sample", "memories.RandomProjectionMemory.forget",
            "memories.VAEMemory.forget",
        ),
        "always raises",
    ),
    **dict.fromkeys(
        (
            "memories.policies.Balanced.forget", "memories.policies.GroupBalanced.forget",
            "memories.policies.Uniform.forget",
        ),
        "called by the memory, with what it has checked",
    ),
    "metrics.on_device": "leaves whatever is no metric of accuracy or loss as it is",
    **dict.fromkeys(
        ("memories.policies.Grouping", "benchmarks.BENCHMARKS", "lab.ABSENT", "lab.MEMORIES", "lab.STRATEGIES"), DATA
    ),
    **dict.fromkeys(
        (
            "benchmarks.permuted_mnist", "benchmarks.permuted_mnist_tensors", "benchmarks.split_cifar10",
            "benchmarks.split_cifar10_features", "benchmarks.split_fmnist", "benchmarks.split_fmnist_tensors",
            "benchmarks.split_mnist", "benchmarks.split_mnist_tensors", "benchmarks.split_omniglot",
        ),
        FILES,
    ),
    **dict.fromkeys(
        (
            "lab.Comparison", "lab.InProcess", "lab.LocalProcesses", "lab.RunResult", "lab.RunSpec", "lab.Settings",
            "lab.run_all",
        ),
        LAB,
    ),
}  # fmt: skip
METHODS = {
    **dict.fromkeys(
        ("state_dict", "load_state_dict", "get_extra_state", "set_extra_state"), "states, tried with damaged files"
    ),
    **dict.fromkeys(
        ("assign", "choose", "place", "start", "encode_checked", "decode_checked"),
        "called by the memory, with what it has checked",
    ),
    **dict.fromkeys(
        (
            "architecture", "step_counts", "prior", "patterns", "clear", "summary", "extra_repr", "result", "reset",
            "with_defaults", "slots", "slots_used",
        ),
        "takes no arguments of the user's",
    ),
    **dict.fromkeys(
        ("train", "update", "serve", "make_optimizer", "training_epoch"), "called by torch, Avalanche or a plugin"
    ),
}  # fmt: skip

# Two arguments do not go together: either may be named.
BETWEEN = ("too wide", "a row more", "no dimensions")


def wrong_calls(record: Record) -> Iterator[tuple[str, str, Any]]:
    for argument, kind in record.kinds.items():
        for label, value in kind.wrong(record.arguments()[argument]):
            yield argument, label, value


def fault(record: Record, argument: str, label: str, value: Any) -> str | None:
    """What is wrong with how a wrong call is answered."""
    arguments = {**record.arguments(), argument: value}
    try:
        record.call(**arguments)
    except (ValueError, TypeError) as error:
        told = str(error)
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    else:
        return "accepted"
    names = record.named.get(argument, (argument,))
    if label in BETWEEN:
        names = (*names, *record.kinds)
    if not any(told.startswith((f"{known}: ", f"{known}, ")) for known in names):
        return f"does not begin with the argument: {told}"
    by_name = any(word in told for word in ("; did you mean ", "; there are "))
    if not by_name and (not any(word in told for word in ("expected ", "wants ", "want ")) or "got " not in told):
        return f"does not say what is expected and got: {told}"
    return f"too long: {told}" if len(told) > 600 else None


@pytest.mark.parametrize("name", RECORDS)
def test_the_call_that_others_are_made_wrong_from_is_right(name: str) -> None:
    RECORDS[name].call(**RECORDS[name].arguments())


@pytest.mark.parametrize("name", RECORDS)
def test_wrong_arguments_are_named(name: str) -> None:
    record = RECORDS[name]
    faults = {
        f"{argument}: {label}": fault(record, argument, label, value) for argument, label, value in wrong_calls(record)
    }
    assert not {call: told for call, told in faults.items() if told}


def public_calls() -> Iterator[str]:
    for package in PACKAGES:
        module = importlib.import_module(f"avalanche_memplugins.{package}")
        for exported in module.__all__:
            value = getattr(module, exported)
            yield f"{package}.{exported}"
            if (
                not inspect.isclass(value)
                or f"{package}.{exported}" in EXCEPTIONS
                or getattr(value, "_is_protocol", False)
            ):
                continue
            for method, member in inspect.getmembers(value, callable):
                ours = str(getattr(member, "__module__", None)).startswith("avalanche_memplugins")
                if ours and not method.startswith(("_", "before_", "after_")) and method not in METHODS:
                    yield f"{package}.{exported}.{method}"


def test_every_public_callable_is_tried_or_excused() -> None:
    missing = [name for name in public_calls() if name not in RECORDS and name not in EXCEPTIONS]
    # What the lab checks of its own values is in its own tests.
    assert [name for name in missing if not name.startswith("lab.")] == []
    assert not set(EXCEPTIONS) & set(RECORDS)


def test_there_are_many() -> None:
    assert sum(1 for record in RECORDS.values() for _ in wrong_calls(record)) >= 5_000
