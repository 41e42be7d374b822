"""Damaged files and interrupted writes of all that is saved, in numbers: what was tried, and how it came out.

    OMP_NUM_THREADS=1 python bench/faults.py --tries 1000

Each target (``_faults.TARGETS``) is damaged ``--tries`` times and loaded into an object that holds something else;
its writer is killed ``--kills`` times, and as often finds the disk full.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from _faults import BAD, KINDS, OUTCOMES, TARGETS, scratch_folder, try_all, try_full_disks, try_kills
from _record import record, table
from rich.progress import Progress


def main() -> int:
    """Try, print the tables, and put them into the results; gives 1 if anything came out badly."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--tries", type=int, default=200, help="damages a target")
    parser.add_argument("--kills", type=int, default=10, help="killed writers a target, and full disks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="targets whose names begin like this")
    parser.add_argument("--no-record", action="store_true", help="leave bench/RESULTS.md as it is")
    options = parser.parse_args()
    torch.set_num_threads(1)
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
    print(f"\n{damages}\n\n{writing}\n")
    for note in sorted(set(notes)):
        print(note)
    body = (
        f"{len(chosen)} targets: {', '.join(chosen)}. {time.perf_counter() - begun:.0f} s.\n\n"
        "Each is damaged and loaded into an object that holds something else. *Loaded equal*: what was saved came "
        "back, or (right checksums, or a preset, which has none) something that might be meant and works. *Refused*: "
        "by the error that is documented (a result that is damaged is none, and its run is done again), and the "
        f"object is bit for bit as it was.\n\n{damages}\n\n{writing}"
    )
    if not options.no_record:
        record("Damaged files and interrupted writes", body, f"python bench/faults.py --tries {options.tries}")
    bad = sum(total[outcome] for outcome in BAD) + sum(kills.values()) - kills["whole"]
    return int(bool(bad + sum(full.values()) - full["refused, unchanged"]))


def _listed(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))


if __name__ == "__main__":
    raise SystemExit(main())
