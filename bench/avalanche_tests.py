"""Avalanche's own tests with each plugin injected into every strategy that they make: nothing may fail that passes
without ours, unless a plugin of ours refuses it by name.

    git clone -b v0.6.0 https://github.com/ContinualAI/avalanche CHECKOUT
    OMP_NUM_THREADS=1 python bench/avalanche_tests.py --tests CHECKOUT --record        hours; --jobs N

The tests come from the checkout, Avalanche itself is the installed one. Strategies that those tests leave out (SCR,
LaMAML, GSS, RAR, generative replay, ...) are made by bench/_avalanche_strategies.py and run with them. Every plugin is
listed last and first, without and with both accelerations. Tests that fail without ours are run once, and not again.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from _avalanche_injections import ACCELERATIONS, PLUGINS
from _avalanche_pytest import Injector, Outcome, Variant, compare_sizes
from _common import Options as Common
from _common import launch
from _record import table

COMMAND = "OMP_NUM_THREADS=1 python bench/avalanche_tests.py --tests CHECKOUT"
FILES = (
    "test_strategies.py",
    "test_online_strategies.py",
    "test_replay.py",
    "test_losses.py",
    "test_dictionary_mbatches.py",
)
OWN = Path(__file__).parent / "_avalanche_strategies.py"
CLASSES = ("as without", "refused by name", "not made for it", "other batch", "FAILS")


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """What to run."""

    tests: Path
    """A checkout of Avalanche, of the installed version."""
    plugin: tuple[str, ...] = ()
    """Only plugins with this in their name; none given: all."""
    files: tuple[str, ...] = FILES
    """Test files in tests/training of the checkout; "own" is bench/_avalanche_strategies.py."""
    own: bool = True
    """Run bench/_avalanche_strategies.py as well."""
    only: str = ""
    """Only tests with this in their name."""
    accelerations: tuple[Literal["off", "TensorLoaderPlugin", "LeanStepPlugin", "both"], ...] = ("off", "both")
    """Beside the plugin. Each one alone is run without any other plugin in any case."""
    places: tuple[Literal["last", "first"], ...] = ("last", "first")
    """In the list of plugins."""
    rows: int | None = None
    """Rows of each class, for a quick look; none given: those that the tests ask for, which is 100."""
    jobs: int = 1
    """Processes."""
    record: bool = False
    """Write the table into bench/RESULTS.md: only of a whole run."""
    out: Path | None = None
    """Write all outcomes there as JSON."""


def variants(options: Options) -> list[Variant]:
    """All that is to be injected."""
    plugins = [name for name in PLUGINS if name != "nothing else"]
    made = [Variant(*choice) for choice in itertools.product(plugins, options.accelerations, options.places)]
    alone = [name for name in ACCELERATIONS if name != "off"]
    made += [Variant("nothing else", *choice) for choice in itertools.product(alone, options.places)]
    wanted = [word.lower() for word in options.plugin]
    return [v for v in made if not wanted or any(word in str(v).lower() for word in wanted)]


def run(
    options: Options, variant: Variant | None, leave_out: frozenset[str]
) -> tuple[Variant | None, list[Outcome], float]:
    """Run all files once, in this process."""
    import avalanche
    import pytest

    home = options.tests.resolve()
    if Path(avalanche.__file__).is_relative_to(home):
        raise RuntimeError(f"avalanche: expected the installed one, got that of {home}")
    sys.path[:] = [str(home), *(entry for entry in sys.path if entry != str(home))]
    paths = [str(home / "tests" / "training" / file) for file in options.files]
    paths += [str(OWN)] if options.own else []
    arguments = [*paths, "-p", "no:terminal", "-p", "no:cacheprovider", "-c", os.devnull]
    arguments += ["--rootdir", str(home), "-W", "ignore", *(["-k", options.only] if options.only else [])]
    start = time.perf_counter()
    injector = Injector(variant, leave_out, options.rows)
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            code = pytest.main(arguments, plugins=[injector])
        finally:
            os.chdir(before)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest: ended with {code!r} for {' '.join(arguments)}")
    return variant, list(injector.outcomes.values()), time.perf_counter() - start


def judge(outcome: Outcome, without: Outcome, variant: Variant) -> tuple[str, list[str]]:
    """The class of an outcome, and a line for each fault."""
    left = [fault for fault in outcome.faults if fault.startswith("left behind")]
    if outcome.refused and not left:
        return "refused by name", []
    if outcome.error:
        return "FAILS", [f"{outcome.error} ({outcome.where})", *left]
    if outcome.faults:
        return "FAILS", list(dict.fromkeys(outcome.faults))
    # Replay that replaces rows of the stream leaves fewer of them on purpose.
    other = [] if '"replace"' in variant.plugin else list(compare_sizes(outcome, without))
    if other:
        return ("FAILS" if any("finite" in line for line in other) else "other batch"), other
    return ("as without" if outcome.injected or not outcome.strategies else "not made for it"), []


def report(
    results: Iterable[tuple[Variant, list[Outcome]]], baseline: dict[str, Outcome]
) -> tuple[str, list[str], dict[str, int]]:
    """The table, and what is to be said beside it."""
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    fails: dict[str, list[tuple[str, Variant]]] = defaultdict(list)
    others: dict[str, list[tuple[str, Variant]]] = defaultdict(list)
    refusals: dict[str, list[tuple[str, Variant]]] = defaultdict(list)
    unsuited: dict[str, list[tuple[str, Variant]]] = defaultdict(list)
    warned: dict[str, list[tuple[str, Variant]]] = defaultdict(list)
    for variant, outcomes in results:
        row = variant.plugin if variant.plugin != "nothing else" else f"{variant.acceleration}, nothing else"
        for outcome in outcomes:
            kind, faults = judge(outcome, baseline[outcome.test], variant)
            tallies[row][kind] += 1
            for fault in faults:
                (others if kind == "other batch" else fails)[fault].append((outcome.test, variant))
            if outcome.refused:
                refusals[outcome.error].append((outcome.test, variant))
            for reason in outcome.unsuited:
                unsuited[reason].append((outcome.test, variant))
            for warning in dict.fromkeys(outcome.warned):
                warned[warning].append((outcome.test, variant))
    rows: list[list[object]] = [[name, *(tally[kind] for kind in CLASSES)] for name, tally in tallies.items()]
    totals = {kind: sum(tally[kind] for tally in tallies.values()) for kind in CLASSES}
    rows.append(["all", *totals.values()])
    lines: list[str] = []
    for heading, found in (
        ("FAILS", fails),
        ("Other batch", others),
        ("Refused by name", refusals),
        ("Not made for it", unsuited),
        ("Warnings of ours", warned),
    ):
        if found:
            lines += [f"**{heading}**", ""]
            lines += [f"- {_whom(whom)}: `{said}`" for said, whom in _grouped(found)]
            lines += [""]
    return table(["plugin", *CLASSES], rows), lines, totals


def _grouped(found: dict[str, list[tuple[str, Variant]]]) -> list[tuple[str, list[tuple[str, Variant]]]]:
    """Messages that differ only in numbers come under the first of them; the most frequent first."""
    together: dict[str, tuple[str, list[tuple[str, Variant]]]] = {}
    for said, whom in found.items():
        key = re.sub(r"0x\w+|(?<![:\d])\d+(\.\d+)?", "#", said)
        together.setdefault(key, (said, []))[1].extend(whom)
    return sorted(together.values(), key=lambda entry: -len(entry[1]))


def _whom(whom: Sequence[tuple[str, Variant]]) -> str:
    tests = list(dict.fromkeys(test.split("::")[-1] for test, _ in whom))
    plugins = list(dict.fromkeys(variant.plugin for _, variant in whom))
    parts = [_some(tests, 8), _some(plugins, 4)]
    for what in ("acceleration", "place"):
        values = {getattr(variant, what) for _, variant in whom}
        if len(values) == 1 and what == "place":
            parts.append(f"listed {values.pop()}")
        elif len(values) == 1 and values != {"off"}:
            parts.append(values.pop())
    return f"{len(whom)} x {'; '.join(parts)}"


def _some(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def main(options: Options) -> None:
    """Run, print, record."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not (options.tests / "tests" / "training").is_dir():
        raise SystemExit(f"tests: expected a checkout of Avalanche, got {options.tests} without tests/training")
    if options.quick:
        few = {"files": (), "accelerations": ("off",), "places": ("last",), "rows": 4, "only": options.only or "lwf"}
        options = replace(options, **few)
    wanted = variants(options)[: 1 if options.quick else None]
    if not wanted:
        raise SystemExit(f"plugin: expected a part of one of {list(PLUGINS)}, got {options.plugin}")
    results: list[tuple[Variant, list[Outcome]]] = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        _, outcomes, seconds = pool.submit(run, options, None, frozenset()).result()
        baseline = {outcome.test: outcome for outcome in outcomes}
        broken = frozenset(test for test, outcome in baseline.items() if outcome.error)
        print(f"without ours: {len(baseline)} tests, {len(broken)} fail, {seconds:.0f} s", flush=True)
        running = [pool.submit(run, options, variant, broken) for variant in wanted]
        for number, future in enumerate(as_completed(running), 1):
            variant, outcomes, seconds = future.result()
            results.append((variant, outcomes))
            kinds = Counter(judge(outcome, baseline[outcome.test], variant)[0] for outcome in outcomes)
            said = ", ".join(f"{kinds[kind]} {kind}" for kind in CLASSES if kinds[kind])
            print(f"{number}/{len(wanted)} {variant}: {said} ({seconds:.0f} s)", flush=True)
    results.sort(key=lambda result: wanted.index(result[0]))
    if options.out is not None:
        found = [{"variant": str(v), **_brief(outcome)} for v, outcomes in results for outcome in outcomes]
        found += [{"variant": "without ours", **_brief(outcome)} for outcome in baseline.values()]
        options.out.write_text(json.dumps(found, indent=1))
    counted, lines, totals = report(results, baseline)
    text = "\n".join(
        [
            f"{len(baseline)} tests: {', '.join(options.files)} of Avalanche's tests/training"
            + (f" and {OWN.name}, which makes the strategies that they leave out" if options.own else "")
            + f". {len(broken)} of them fail without ours and are left out"
            + (f": {', '.join(sorted(test.split('::')[-1] for test in broken))}" if broken else "")
            + f". Each number counts tests over {len(options.places)} places in the list of plugins"
            + f" ({' and '.join(options.places)}) and accelerations {' and '.join(options.accelerations)}. "
            "FAILS counts errors that no plugin of ours names, and what a test does not look for: a memory that is not "
            "used and does not say so, anything left on strategy or model. Other batch: the test passes, but in "
            "before_backward or after_training_iteration plugins listed before or after ours meet inputs, labels or "
            "outputs of another number than without ours.",
            "",
            counted,
            "",
            *lines,
        ]
    )
    options.write("Avalanche's own tests", text, COMMAND)
    raise SystemExit(1 if totals["FAILS"] + totals["other batch"] else 0)


def _brief(outcome: Outcome) -> dict[str, object]:
    return {key: value for key, value in asdict(outcome).items() if key != "sizes"}


if __name__ == "__main__":
    launch(main, Options, __doc__)
