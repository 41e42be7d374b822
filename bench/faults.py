"""Damaged files and interrupted writes of all that is saved, in numbers: what was tried, and how it came out.

    OMP_NUM_THREADS=1 python bench/faults.py --tries 140        three minutes

Each target (``_faults.TARGETS``) is damaged ``--tries`` times and loaded into an object that holds something else;
its writer is killed ``--kills`` times, and as often finds the disk full.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from _common import Options, launch
from _faults import BAD, KINDS, OUTCOMES, TARGETS, scratch_folder, try_all, try_full_disks, try_kills
from _record import table
from rich.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """How much."""

    tries: int = 200
    """Damages a target."""
    kills: int = 10
    """Killed writers a target, and full disks."""
    seed: int = 0
    only: tuple[str, ...] = ()
    """Targets whose names begin like this; none given: all."""


def main(options: Settings) -> int:
    """Try, print the tables, and put them into the results; gives 1 if anything came out badly."""
    if options.quick:
        options = replace(options, tries=4, kills=1)
    warnings.simplefilter("ignore")  # of what a wrong state makes libraries say
    begun, notes = time.perf_counter(), []
    by_kind: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    kills: Counter[str] = Counter()
    full: Counter[str] = Counter()
    chosen = {n: t for n, t in TARGETS.items() if not options.only or n.startswith(tuple(options.only))}
    with Progress() as bar:
        for name, target in bar.track(chosen.items(), description="targets"):
            with scratch_folder() as scratch:
                found, said = try_all(name, target, options.tries, options.seed, Path(scratch) / "damages")
                for kind, outcomes in found.items():
                    by_kind[kind] += outcomes
                notes += said
                if not target.ours:
                    continue
                writers = (options.kills, options.seed)
                killed, more = try_kills(name, target, *writers, Path(scratch) / "kills")
                fulls, rest = try_full_disks(name, target, *writers, Path(scratch) / "full")
            kills, full, notes = kills + killed, full + fulls, [*notes, *more, *rest]
    rows = [[kind, sum(of.values()), *(of[outcome] for outcome in OUTCOMES)] for kind, of in by_kind.items()]
    total = sum(by_kind.values(), Counter())
    rows.append(["all", sum(total.values()), *(total[outcome] for outcome in OUTCOMES)])
    damages = table(["damage", "tries", *OUTCOMES], rows)
    writing = table(
        ["interrupted write", "tries", "outcomes"],
        [
            [
                "killed (SIGKILL) at a random moment, then read, then saved to again",
                sum(kills.values()),
                _listed(kills),
            ],
            ["no room after a random number of bytes", sum(full.values()), _listed(full)],
        ],
    )
    for note in sorted(set(notes)):
        print(note)
    body = (
        f"{len(chosen)} targets: {', '.join(chosen)}. {time.perf_counter() - begun:.0f} s.\n\n"
        "Each is damaged and loaded into an object that holds something else. *Loaded equal*: what was saved came "
        "back, or (right checksums, or a preset, which has none) something that might be meant and works. *Refused*: "
        "by the error that is documented (a result that is damaged is none, and its run is done again), and the "
        f"object is bit for bit as it was.\n\n{damages}\n\n{writing}"
    )
    options.write("Damaged files and interrupted writes", body, f"python bench/faults.py --tries {options.tries}")
    bad = sum(total[outcome] for outcome in BAD) + sum(kills.values()) - kills["whole"]
    return int(bool(bad + sum(full.values()) - full["refused, unchanged"]))


def _listed(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))


if __name__ == "__main__":
    raise SystemExit(launch(main, Settings, __doc__))
