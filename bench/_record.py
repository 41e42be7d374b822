"""Write a measurement into bench/RESULTS.md: one section a benchmark, replaced whole on every run."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "RESULTS.md"
PLOTS = Path(__file__).parent / "plots"
HEAD = """# Results

What the scripts in this folder measured. Each section is written by the command it names: run that again to
replace it.
"""


def versions() -> str:
    """Say what the numbers depend on: interpreter, libraries and processor, in one line."""
    parts = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for name in ("torchvision", "avalanche-lib", "avalanche-memplugins"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    parts.append(f"{torch.get_num_threads()} thread(s)")
    parts.append(torch.cuda.get_device_name() if torch.cuda.is_available() else _processor())
    return ", ".join(parts)


def record(section: str, markdown: str, command: str, *, path: Path = RESULTS) -> None:
    """Put a section into the results file, in place of the section of that name if there is one.

    Safe to call from several processes at once: readers see the old file or the new one, and no writer loses
    another's section.

    :param section: the heading, one line without ``#``; names the section for the next run.
    :param markdown: the body: tables, links to plots below ``plots/``, remarks. Must hold no ``## `` heading.
    :param command: how to run it again, relative to the repository.
    :param path: the file to write.
    :raises ValueError: if the heading is empty or not one line, or the body holds a ``## `` heading.
    """
    section = section.strip()
    if not section or "\n" in section or section.startswith("#"):
        raise ValueError(f"section: got {section!r}, want one line of text without '#'")
    if re.search(r"^## ", markdown, flags=re.MULTILINE):
        raise ValueError("markdown: got a '## ' heading, want '### ' or lower: '## ' separates sections")
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    block = f"## {section}\n\n`{command}` · {date}\n\n{versions()}\n\n{markdown.strip()}\n"

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Path(tempfile.gettempdir()) / f"memplugins-results-{os.getuid()}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        text = path.read_text(encoding="utf-8") if path.exists() else HEAD
        head, *blocks = re.split(r"^(?=## )", text, flags=re.MULTILINE)
        title = f"## {section}"
        names = [b.split("\n", 1)[0].rstrip() for b in blocks]
        if title in names:
            blocks[names.index(title)] = block
        else:
            blocks.append(block)
        parts = [head.rstrip(), *(b.rstrip() for b in blocks)]
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".results")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write("\n\n".join(parts) + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)


def table(header: list[str], rows: list[list[object]]) -> str:
    """Lay out a markdown table: first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def interval(values: Sequence[float], digits: int = 1) -> str:
    """A cell of a table: mean ± half the 95 % interval (Student's t); of one value itself, and ``-`` of none."""
    from avalanche_memplugins.lab.table import interval as mean_and_half

    if not values:
        return "-"
    mean, half = mean_and_half(values)
    return f"{mean:.{digits}f}" if len(values) == 1 else f"{mean:.{digits}f} ± {half:.{digits}f}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()
