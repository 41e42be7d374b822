"""Saves where a training run stands, so that it can go on later as if it had never stopped."""

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from avalanche_memplugins import _checks as check
from avalanche_memplugins._folders import (
    CorruptedFolderError,
    check_folder,
    holds_folder,
    load_folder,
    save_folder,
    shown,
)
from avalanche_memplugins._loading import telling_misfits
from avalanche_memplugins._random import capture_random, restore_random
from avalanche_memplugins.checkpointing._model import capture_model, check_model, grow_model, restore_model
from avalanche_memplugins.checkpointing._objects import ObjectDecoder, ObjectEncoder, TrialDecoder
from avalanche_memplugins.checkpointing._optimizer import (
    capture_optimizer,
    check_optimizer,
    restore_optimizer,
)
from avalanche_memplugins.checkpointing._plugins import (
    capture_plugins,
    capture_rest,
    match_plugins,
    references,
    restore_plugin,
    try_plugin,
)
from avalanche_memplugins.checkpointing._tree import Node
from avalanche_memplugins.checkpointing.errors import CheckpointError, UnsavableError

KIND = "avalanche run state"
FORMAT = 1
_STRATEGY = ("model", "optimizer", "plugins", "clock", "is_training")


def save_run_state(strategy: Any, folder: str | Path, *, strict: bool = True) -> None:
    """Save the state of a training run between two experiences, as safetensors and JSON, without pickle.

    Saved are the model with the heads it has grown, the optimiser, the clock, every plugin, the recorded
    metrics, the criterion, and the global random states of Python, NumPy and PyTorch. Data sets, loggers
    and settings are not: the script that builds the strategy brings them back. A plugin is saved through
    its ``state_dict()`` if it has one, else by its attributes; learning rate schedulers, modules and random
    generators among them included. Writing is atomic: if it is interrupted, the earlier checkpoint remains.

    :param strategy: an Avalanche strategy, outside its ``train()`` and ``eval()``.
    :param folder: where to; a checkpoint that is there is replaced.
    :param strict: whether a plugin that cannot be saved is an error; otherwise it is left out with a warning.
    :raises CheckpointError: if something cannot be saved, or ``folder`` holds something else or cannot be written;
        nothing has been then.

    >>> import tempfile, torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> def build():
    ...     model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    ...     return Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None)
    >>> strategy = build()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_run_state(strategy, f"{folder}/run")
    ...     load_run_state(build(), f"{folder}/run")
    0
    """
    check.flag("strict", strict)
    check.having("strategy", strategy, _STRATEGY, "a strategy of Avalanche")
    check.path("folder", folder)
    _check_idle(strategy)
    try:
        check_folder(folder, kind=KIND)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    encoder = ObjectEncoder(strategy.device, references=references(strategy))
    try:
        state = {
            "model": capture_model(strategy.model, encoder.plain, "model"),
            "optimizer": capture_optimizer(strategy, encoder.plain, "optimizer"),
            "random": encoder.plain.encode(capture_random(), "random"),
        }
    except UnsavableError as error:
        raise CheckpointError(f"strategy: {error}") from error
    state["plugins"], left_out = capture_plugins(strategy, encoder, strict=strict)
    state["strategy"], left_out_too = capture_rest(strategy, encoder, strict=strict)
    left_out += left_out_too
    for complaint in left_out:
        warnings.warn(f"left out of the checkpoint: {complaint}", stacklevel=2)
    manifest = {
        "kind": KIND,
        "format": FORMAT,
        "trained_experiences": strategy.clock.train_exp_counter,
        "strategy": type(strategy).__qualname__,
        "written_with": _versions(),
        "left_out": left_out,
        "state": state,
    }
    try:
        save_folder(folder, encoder.tensors, manifest)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def load_run_state(
    strategy: Any,
    folder: str | Path,
    *,
    experiences: Iterable[Any] | None = None,
    missing_ok: bool = False,
    strict: bool = True,
) -> int:
    """Put a saved run state into a freshly built strategy, and tell where to go on.

    On a CPU, training on the remaining experiences then gives bitwise the weights of a run that never stopped.
    Nothing in the checkpoint is run or imported. Everything is checked before the strategy is touched:
    after an error it is as it was.

    :param strategy: built by the same code as the saved one: same model, optimiser and plugins.
    :param folder: where :func:`save_run_state` wrote to.
    :param experiences: the stream that the saved run was trained on. Only needed for models that grow by
        modules of your own: Avalanche's classifiers and multi-head models grow by what was saved.
    :param missing_ok: if there is no checkpoint yet, leave the strategy as it is and return 0.
    :param strict: whether other plugins than at saving, or plugins left out then, are an error.
    :return: the number of experiences that the saved run was trained on.
    :raises CheckpointError: if the checkpoint is missing, damaged, not a run state, or does not fit.

    >>> import tempfile, torch
    >>> from avalanche.training import Naive
    >>> from avalanche_memplugins.benchmarks import SplitDigits
    >>> def build():
    ...     model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    ...     return Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None)
    >>> strategy, stream = build(), SplitDigits(5).train_stream
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = strategy.train(stream[0])
    ...     save_run_state(strategy, f"{folder}/run")
    ...     again = build()
    ...     for experience in stream[load_run_state(again, f"{folder}/run") : 2]:
    ...         _ = again.train(experience)
    >>> again.clock.train_exp_counter
    2
    """
    check.flags(missing_ok=missing_ok, strict=strict)
    check.having("strategy", strategy, _STRATEGY, "a strategy of Avalanche")
    check.path("folder", folder)
    if experiences is not None and not isinstance(experiences, Iterable):
        raise TypeError(f"experiences: expected the stream that was trained on, or None, got {check.show(experiences)}")
    _check_idle(strategy)
    if missing_ok and not _holds(folder):
        return 0
    tensors, manifest = _read(folder)
    if manifest["left_out"] and strict:
        raise CheckpointError(
            "folder: the checkpoint is without the state of some plugins; pass strict=False to load the rest:\n"
            + "\n".join(manifest["left_out"])
        )
    state, trained = manifest["state"], int(manifest["trained_experiences"])
    decoder = ObjectDecoder(tensors, strategy.device, strategy.model)
    random_before = capture_random()
    stream = None if experiences is None else list(experiences)
    try:
        with telling_misfits("folder", type(strategy).__name__, CheckpointError):
            check_model(strategy.model, state["model"], decoder.plain, stream, trained)
            check_optimizer(strategy, state["optimizer"], decoder.plain)
            plugins = match_plugins(strategy, state["plugins"], strict=strict)
            _rehearse(strategy, state, decoder, stream, trained)
        _restore_parts(strategy, plugins, state["strategy"], decoder)
    except BaseException:
        restore_random(random_before)
        raise
    # From here on nothing is left to go wrong.
    strategy.model.to(strategy.device)
    grow_model(strategy.model, state["model"], decoder.plain, stream, trained)
    restore_model(strategy.model, state["model"], decoder.plain)
    restore_optimizer(strategy, state["optimizer"], decoder.plain)
    restore_random(decoder.plain.decode(state["random"]))
    return trained


def _rehearse(strategy: Any, state: Node, decoder: ObjectDecoder, stream: list[Any] | None, trained: int) -> None:
    """Do to copies of model and optimiser, and to the random generators, what is then done to the strategy's own."""
    try:
        model, optimizer, optimized = copy.deepcopy(
            (strategy.model, strategy.optimizer, strategy.optimized_param_id), {id(strategy): strategy}
        )
    except (RuntimeError, TypeError, ValueError):  # a model of somebody's own that cannot be copied
        return
    trial = SimpleNamespace(model=model, optimizer=optimizer, optimized_param_id=optimized)
    model.to(strategy.device)
    grow_model(model, state["model"], decoder.plain, stream, trained)
    restore_model(model, state["model"], decoder.plain)
    restore_optimizer(trial, state["optimizer"], decoder.plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again
        restore_random(decoder.plain.decode(state["random"]))


def _restore_parts(strategy: Any, plugins: list[tuple[Any, Node]], rest: Node, decoder: ObjectDecoder) -> None:
    # What plugins make of a state is their own business and may fail, so the way back is kept open.
    encoder = ObjectEncoder(strategy.device, copies=True, references=references(strategy))
    before, _ = capture_plugins(strategy, encoder, strict=False)
    rest_before, _ = capture_rest(strategy, encoder, strict=False)
    known = [(holder, set(vars(holder))) for holder in (strategy, *strategy.plugins)]
    trial = TrialDecoder(decoder.tensors, strategy.device, strategy.model)
    by_state = [pair for pair in plugins if "state_dict" in pair[1]]
    by_attributes = [pair for pair in plugins if "state_dict" not in pair[1]]
    try:
        for plugin, node in by_attributes:
            try_plugin(plugin, node, trial)
        trial.restore_attributes(strategy, rest)
        # Those with a load_state_dict of their own cannot be tried; what has been tried comes after them.
        for plugin, node in (*by_state, *by_attributes):
            restore_plugin(plugin, node, decoder)
        decoder.restore_attributes(strategy, rest)
    except BaseException as error:
        back = ObjectDecoder(encoder.tensors, strategy.device, strategy.model)
        for plugin, node in zip(strategy.plugins, before, strict=True):
            if node["value"] is not None:
                restore_plugin(plugin, node["value"], back)
        back.restore_attributes(strategy, rest_before)
        for holder, names in known:
            for name in set(vars(holder)) - names:
                del vars(holder)[name]
        if isinstance(error, CheckpointError) or not isinstance(error, Exception):
            raise
        raise CheckpointError(f"folder: the checkpoint does not fit the strategy's plugins: {error}") from error


def _read(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors, manifest = load_folder(folder, kind=KIND)
    except CorruptedFolderError as error:
        raise CheckpointError(str(error)) from error
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"folder: expected a run state of format {FORMAT}, got {manifest.get('format')!r} in {folder}"
        )
    if "manifest_sha256" not in manifest:
        raise CheckpointError(f"folder: the manifest in {folder} is damaged: it lacks its checksum")
    _check_manifest(manifest)
    _check_tensors(manifest["state"], tensors)
    return tensors, manifest


def _check_manifest(manifest: dict[str, Any]) -> None:
    trained, left_out, state = (manifest.get(key) for key in ("trained_experiences", "left_out", "state"))
    if isinstance(trained, bool) or not isinstance(trained, int) or trained < 0:
        raise CheckpointError(f"folder: expected a number of trained experiences, got {shown(trained)}")
    if not isinstance(left_out, list) or not all(isinstance(complaint, str) for complaint in left_out):
        raise CheckpointError(f"folder: expected a list of what was left out, got {shown(left_out)}")
    parts = {"model", "optimizer", "random", "plugins", "strategy"}
    if not isinstance(state, dict) or state.keys() != parts:
        raise CheckpointError(f"folder: expected the state of {', '.join(sorted(parts))}, got {shown(state)}")


def _check_tensors(node: Node, tensors: dict[str, Tensor]) -> None:
    if (
        isinstance(node, dict)
        and "$" in node
        and "at" in node
        and not (isinstance(node["at"], str) and node["at"] in tensors)
    ):
        raise CheckpointError(f"folder: lacks the tensor {shown(node['at'])} that the manifest names")
    if isinstance(node, list | dict):
        for item in node if isinstance(node, list) else node.values():
            _check_tensors(item, tensors)


def _check_idle(strategy: Any) -> None:
    if strategy.experience is not None:
        raise CheckpointError("strategy: expected one between two calls of train() or eval(), got one inside a call")


def _holds(folder: str | Path) -> bool:
    try:
        return holds_folder(folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _versions() -> dict[str, str]:
    out = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("avalanche-lib", "avalanche-memplugins"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            continue
    return out
