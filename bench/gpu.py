"""The library on a GPU: does it run, what waits, is it the same as on a CPU, what does a step cost.

Made for a machine that is lent for minutes and has no way to a package index. Each section runs in a process of its
own, so that one which hangs or breaks the device leaves the others alone (all in one with ``--cpu``). Every result is
printed and written at once.

    python bench/gpu.py --out FOLDER             # at most eight minutes; gpu.jsonl, gpu.json and gpu.md in the folder
    python bench/gpu.py --cpu --out FOLDER       # the same script, small, without a GPU
    python bench/gpu.py --record FOLDER          # puts what was measured elsewhere into RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SECTIONS = {"tour": 30, "waits": 50, "same": 60, "steps": 120, "rows": 60, "search": 60, "kernels": 40}
IN_ALL = 480
IMPORTS = 30  # seconds that a section's process may take beside its own


def prepare() -> None:
    """Find the checkout, its tests' cases and its strategies, whether it is installed or not."""
    if str(HERE) in sys.path[1:]:
        return
    sys.path[:0] = [str(ROOT), str(HERE), str(ROOT / "tests" / "promises")]
    import _gpu_standins

    _gpu_standins.install()
    import avalanche_memplugins

    if not (Path(avalanche_memplugins.__file__).parent / "strategies").exists():
        avalanche_memplugins.__path__.append(str(ROOT))


def section(name: str, *, cpu: bool, seconds: float, out: Path) -> None:
    """Run one section in this process."""
    prepare()
    import torch
    from _gpu_run import Run

    if not cpu and not torch.cuda.is_available():
        sys.exit("device: expected a CUDA device, got none; --cpu runs everything small without one")
    torch.set_num_threads(1 if cpu else min(8, os.cpu_count() or 1))
    device = torch.device("cpu" if cpu else "cuda:0")
    # A pool of compilers takes longer to start than these models take to compile.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    work: Callable[[Any], None]
    if name in ("tour", "waits", "same"):
        import _gpu_checks as part
    else:
        import _gpu_speed as part  # type: ignore[no-redef]
    work = getattr(part, name)
    bench = Run(name, device, small=cpu, seconds=seconds, out=out)
    with bench.attempt(name):
        work(bench)


def measure(names: list[str], *, cpu: bool, out: Path, in_all: float) -> None:
    """Run the sections one after the other, each with its share of the time."""
    begun = time.perf_counter()
    log = out / "gpu.jsonl"
    log.unlink(missing_ok=True)
    for name in names:
        spent = time.perf_counter() - begun
        left = in_all - spent - IMPORTS / 3
        if left < 10:
            print(f"[{spent:5.1f} s] {name}: left out, no time", flush=True)
            _note(log, name, "left out", items=["all"])
            continue
        seconds = min(SECTIONS[name], left)
        print(f"[{spent:5.1f} s] {name}: {seconds:.0f} s", flush=True)
        if cpu:
            section(name, cpu=True, seconds=seconds, out=log)
            continue
        command = [
            sys.executable,
            str(HERE / "gpu.py"),
            "--section",
            name,
            "--seconds",
            str(seconds),
            "--out",
            str(out),
        ]
        try:
            done = subprocess.run(command, timeout=min(seconds, left) + IMPORTS)
            if done.returncode:
                print(f"  FAILED {name}: exit status {done.returncode}", flush=True)
                _note(log, name, "error", what=name, error=f"exit status {done.returncode}", at=name)
        except subprocess.TimeoutExpired:
            print(f"  FAILED {name}: stopped after {seconds + IMPORTS:.0f} s", flush=True)
            _note(log, name, "error", what=name, error="stopped, it took too long", at=name)
    print(f"[{time.perf_counter() - begun:5.1f} s] done", flush=True)


def _note(log: Path, section: str, kind: str, **more: Any) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"section": section, "kind": kind, **more}) + "\n")


def results(out: Path) -> list[dict[str, Any]]:
    """Every line that was written; one that was cut off is left out."""
    lines = []
    for text in (out / "gpu.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def markdown(lines: list[dict[str, Any]]) -> str:
    """A section for the results: a table for each name, then what failed and what was left out."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "row":
            tables.setdefault(line["table"], []).append(line["cells"])
    machine = tables.pop("machine", [{}])[0]
    parts = [", ".join(f"{name} {value}".replace("versions ", "") for name, value in machine.items())]
    for name, rows in tables.items():
        header = list(dict.fromkeys(key for row in rows for key in row))
        body = [[str(row.get(key, "-")).replace("|", "/") for key in header] for row in rows]
        heads = [key.strip("_").replace("_", " ") for key in header]
        table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        table += ["| " + " | ".join(row) + " |" for row in body]
        parts.append(f"### {name[0].upper()}{name[1:]}\n\n" + "\n".join(table))
    failed = [f"- {line['what']}: {line['error']} (`{line['at']}`)" for line in lines if line["kind"] == "error"]
    parts += ["### What failed\n\n" + "\n".join(failed)] if failed else []
    left = [f"- {line['section']}: {', '.join(line['items'])}" for line in lines if line["kind"] == "left out"]
    parts += ["### Left out for want of time\n\n" + "\n".join(left)] if left else []
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for the results")
    parser.add_argument("--cpu", action="store_true", help="small, without a GPU: does everything still run?")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="these sections")
    parser.add_argument("--in-all", type=float, default=IN_ALL, help="seconds after which nothing is begun")
    parser.add_argument("--record", type=Path, help="folder whose results go into RESULTS.md; nothing is measured")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.record is not None:
        prepare()
        from _record import record

        record("The library on a GPU", markdown(results(arguments.record)), "python bench/gpu.py --out FOLDER")
        return
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.section is not None:
        section(arguments.section, cpu=arguments.cpu, seconds=arguments.seconds, out=out / "gpu.jsonl")
        return
    measure(arguments.only, cpu=arguments.cpu, out=out, in_all=arguments.in_all)
    lines = results(out)
    (out / "gpu.json").write_text(json.dumps(lines, indent=1), encoding="utf-8")
    (out / "gpu.md").write_text(markdown(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
