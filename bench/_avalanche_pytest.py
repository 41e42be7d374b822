"""A pytest plugin: every strategy that a test makes is given plugins, and what happened to the test is noted.

Beside errors it sees what a test of Avalanche's own does not look for: a memory that nothing was written to or read
from and nobody said so, batches of another size than without ours, and what stays on strategy or model afterwards.
"""

from __future__ import annotations

import functools
import inspect
import random
import re
import sys
import warnings
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import torch
from _avalanche_injections import ACCELERATIONS, PLUGINS, Unsuited
from avalanche.core import SupervisedPlugin
from avalanche.training.templates.base import BaseTemplate

import avalanche_memplugins

HOME = str(Path(avalanche_memplugins.__file__).parent)
NAMED = re.compile(r"[a-z_]\w*(\[[^\]]*\])?: \S")
TAKEN_OVER = ("forward", "criterion", "backward", "optimizer_step", "training_epoch", "eval_epoch")
Seen = tuple[str, int, int, int, bool]  # event; rows of x, of y, of the output; whether the loss is finite
Sizes = dict[str, list[Seen]]


@dataclass(frozen=True)
class Variant:
    """What is injected, and where in the list of plugins."""

    plugin: str
    acceleration: str = "off"
    place: str = "last"  # or "first"

    def __str__(self) -> str:
        accelerated = "" if self.acceleration == "off" else f", {self.acceleration}"
        return f"{self.plugin}{accelerated}, {self.place}"


@dataclass
class Outcome:
    """What happened to one test."""

    test: str
    strategies: list[str] = field(default_factory=list)
    injected: int = 0  # strategies that got ours
    unsuited: list[str] = field(default_factory=list)
    error: str = ""  # type and message
    where: str = ""  # the last frame, and the last of ours before it
    refused: bool = False
    warned: list[str] = field(default_factory=list)  # warnings of ours
    faults: list[str] = field(default_factory=list)  # what no error told
    sizes: list[Sizes] = field(default_factory=list)  # of batches, a strategy each


class Witness(SupervisedPlugin, supports_distributed=True):  # type: ignore[call-arg, misc]
    """Notes the sizes of batches at its place in the list of plugins."""

    def __init__(self, seen: list[Seen]) -> None:
        super().__init__()
        self._seen = seen

    def _note(self, event: str, strategy: Any) -> None:
        # A batch may be a dictionary.
        columns = strategy.mbatch if isinstance(strategy.mbatch, list | tuple) else list(strategy.mbatch.values())
        finite = bool(torch.as_tensor(strategy.loss).isfinite().all())
        self._seen.append((event, _len(columns[0]), _len(columns[1]), _len(strategy.mb_output), finite))

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Before the loss goes back."""
        self._note("before_backward", strategy)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """What the metrics see."""
        self._note("after_training_iteration", strategy)


class Injector:
    """The pytest plugin.

    :param variant: what to inject; None: nothing, the baseline.
    :param leave_out: names of tests that are not run.
    :param rows: of each class in the tests' data; None: as many as the test asks for.
    """

    def __init__(
        self, variant: Variant | None, leave_out: frozenset[str] = frozenset(), rows: int | None = None
    ) -> None:
        self.rows = rows
        self.variant = variant
        self.leave_out = leave_out
        self.outcomes: dict[str, Outcome] = {}
        self._now = Outcome("")
        self._made: list[tuple[Any, list[Any], dict[int, int]]] = []

    # ---------------------------------------------------------------- pytest's hooks

    def pytest_sessionstart(self) -> None:
        """Put ours in the way."""
        self._init, self._warn = BaseTemplate.__init__, warnings.warn
        BaseTemplate.__init__ = self._injecting(self._init)  # type: ignore[method-assign]
        warnings.warn = self._listening(self._warn)  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        """Take ours away."""
        utilities = sys.modules.get("tests.unit_tests_utils")
        if utilities is not None and hasattr(utilities.dummy_classification_datasets, "__wrapped__"):
            utilities.dummy_classification_datasets = utilities.dummy_classification_datasets.__wrapped__
        BaseTemplate.__init__, warnings.warn = self._init, self._warn  # type: ignore[method-assign]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out."""
        items[:] = [item for item in items if _name(item) not in self.leave_out]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin every test with the same random numbers, whatever ran before."""
        self._seed = zlib.crc32(_name(item).encode())
        _seed_all(self._seed)
        # Data that the test makes after a strategy has been trained must not depend on what ours drew.
        utilities = sys.modules.get("tests.unit_tests_utils")
        if utilities is not None and not hasattr(utilities.dummy_classification_datasets, "__wrapped__"):
            utilities.dummy_classification_datasets = self._seeding(utilities.dummy_classification_datasets)
        self._now = self.outcomes[_name(item)] = Outcome(_name(item))
        self._made = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, None, None]:
        """Note how the test ended."""
        yield
        if call.excinfo is not None and not self._now.error:
            error: BaseException = call.excinfo.value
            frames = list(_frames(error.__traceback__))
            self._now.error = f"{type(error).__name__}: {_one_line(str(error))}"
            self._now.where = _where(frames)
            self._now.refused = _is_refusal(error, frames)
        if call.when == "call":
            self._now.faults += [fault for made in self._made for fault in self._faults(*made)]
            self._made = []

    # ---------------------------------------------------------------- parts of the above

    def _injecting(self, init: Any) -> Any:
        @functools.wraps(init)
        def injecting(strategy: Any, *, model: Any, plugins: Any = None, **kwargs: Any) -> None:
            theirs, ours = list(plugins or []), self._ours(model, type(strategy).__name__)
            sizes: Sizes = {"before ours": [], "after ours": []}
            first, last = Witness(sizes["before ours"]), Witness(sizes["after ours"])
            self._now.sizes.append(sizes)
            self._now.strategies.append(type(strategy).__name__)
            between = [*ours, *theirs] if self.variant and self.variant.place == "first" else [*theirs, *ours]
            init(strategy, model=model, plugins=[first, *between, last], **kwargs)
            self._made.append((strategy, ours, {id(p): _count_reads(p) for p in ours if hasattr(p, "memory")}))

        return injecting

    def _seeding(self, make: Any) -> Any:
        @functools.wraps(make)
        def seeding(*args: Any, **kwargs: Any) -> Any:
            self._seed += 1
            _seed_all(self._seed)
            if self.rows is not None:
                kwargs = {**inspect.signature(make).bind(*args, **kwargs).arguments, "n_samples_per_class": self.rows}
                args = ()
            return make(*args, **kwargs)

        return seeding

    def _ours(self, model: Any, strategy: str) -> list[Any]:
        if self.variant is None:
            return []
        try:
            ours = [*PLUGINS[self.variant.plugin](model, strategy), *ACCELERATIONS[self.variant.acceleration]()]
        except Unsuited as reason:
            self._now.unsuited.append(f"{strategy}: {reason}")
            return []
        self._now.injected += 1
        return ours

    def _listening(self, warn: Any) -> Any:
        @functools.wraps(warn)
        def listening(message: Any, category: Any = None, stacklevel: int = 1, *args: Any, **kwargs: Any) -> None:
            if str(sys._getframe(1).f_globals.get("__name__", "")).startswith("avalanche_memplugins"):
                self._now.warned.append(_one_line(str(message)))
            warn(message, category, stacklevel + 1, *args, **kwargs)

        return listening

    def _faults(self, strategy: Any, ours: list[Any], reads: dict[int, Any]) -> Iterator[str]:
        name = type(strategy).__name__
        left = [attribute for attribute in TAKEN_OVER if attribute in vars(strategy)]
        hooks = [
            module
            for module, part in strategy.model.named_modules()
            for hook in [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
            if str(getattr(hook, "__module__", "")).startswith("avalanche_memplugins")
        ]
        if left or hooks:
            yield f"left behind on {name}: {[*left, *(f'a hook on {module!r}' for module in hooks)]}"
        if not strategy.clock.train_iterations or self._now.error or self._now.warned:
            return
        for plugin in ours:
            if not hasattr(plugin, "memory"):
                continue
            if not len(plugin.memory):
                yield f"unused and unsaid: {type(plugin).__name__} on {name}, nothing was written"
            elif hasattr(plugin, "last_replay") and not reads[id(plugin)] and strategy.clock.train_exp_counter > 1:
                yield f"unused and unsaid: {type(plugin).__name__} on {name}, nothing was replayed"


class _Count(list[int]):
    """How often a memory was read from: true if it was."""


def _count_reads(plugin: Any) -> Any:
    count, sample = _Count(), plugin.memory.sample

    @functools.wraps(sample)
    def counting(*args: Any, **kwargs: Any) -> Any:
        count.append(1)
        return sample(*args, **kwargs)

    plugin.memory.sample = counting
    return count


def compare_sizes(with_ours: Outcome, without: Outcome) -> Iterator[str]:
    """Where a batch had another size than without ours, or a loss that is not finite: a line a place and event."""
    told = set()
    for ours, theirs in zip(with_ours.sizes, without.sizes, strict=False):
        for place in theirs:
            for seen, wanted in zip(ours[place], theirs[place], strict=False):
                event = wanted[0]
                # A penalty that is not finite is the test's own affair.
                finite = seen[4] or not wanted[4]
                if (seen[1:4] == wanted[1:4] and finite) or (place, event) in told:
                    continue
                told.add((place, event))
                if not finite:
                    yield f"plugins listed {place} see a loss that is not finite in {event}"
                else:
                    what = "rows that are not the stream's" if sum(seen[1:4]) > sum(wanted[1:4]) else "fewer rows"
                    yield f"plugins listed {place} see {what} in {event}"


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def _name(item: pytest.Item) -> str:
    return item.nodeid.split("/")[-1].replace(".py::", "::")


def _len(value: Any) -> int:
    try:
        return len(value)
    except TypeError:
        return -1


def _one_line(text: str) -> str:
    return " ".join(text.split())[:240]


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        yield code.co_filename, traceback.tb_lineno, code.co_name
        traceback = traceback.tb_next


def _where(frames: list[tuple[str, int, str]]) -> str:
    if not frames:
        return ""
    ours = [frame for frame in frames if frame[0].startswith(HOME)]
    places = [_place(*frames[-1])]
    if ours and ours[-1] != frames[-1]:
        places.append(f"from {_place(*ours[-1])}")
    theirs = [frame for frame in frames if "/avalanche/training/" in frame[0] and frame[2] != "trigger_plugins"]
    if theirs and theirs[-1] != frames[-1]:
        places.append(f"in {_place(*theirs[-1])}")
    return ", ".join(places)


def _place(path: str, line: int, function: str) -> str:
    for package in ("/avalanche_memplugins/", "/avalanche/", "/site-packages/"):
        if package in path:
            return f"{package.strip('/') if package != '/site-packages/' else ''}/{path.split(package)[-1]}:{line}"
    return f"{Path(path).name}:{line} {function}"


def _is_refusal(error: BaseException, frames: list[tuple[str, int, str]]) -> bool:
    if not frames or not frames[-1][0].startswith(HOME):
        return False
    own = type(error).__module__.startswith("avalanche_memplugins")
    return (own or type(error) in (ValueError, TypeError, RuntimeError)) and bool(NAMED.match(str(error)))
