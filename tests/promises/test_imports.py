"""What imports what in the library, read from its source: floors, circles, private names, and who needs Avalanche."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import avalanche_memplugins
from avalanche_memplugins import strategies

PACKAGE = "avalanche_memplugins"
FLOORS = ("functional", "networks", "codecs", "memories", "plugins", "strategies", "lab", "cli")
WITHOUT_AVALANCHE = ("functional", "networks", "codecs", "memories")
FOLDERS = {
    PACKAGE: Path(avalanche_memplugins.__file__).parent,
    f"{PACKAGE}.strategies": Path(strategies.__file__).parent,  # lies beside the package in a checkout
}


class Import(NamedTuple):
    """``name``, dotted in full, in a module of a subpackage; ``at`` says where."""

    package: str
    name: str
    at: str


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted names and files of the library's modules, and of no installed copy of the strategies twice."""
    seen = set()
    for top, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            name = ".".join([top, *path.relative_to(folder).with_suffix("").parts])
            if path not in seen:
                seen.add(path)
                yield name, path


def subpackage(name: str) -> str:
    """The part below the package's own name, or the home of a class at its top; empty for the package itself."""
    parts = name.removesuffix(".__init__").split(".")
    return avalanche_memplugins._HOME.get(parts[1], parts[1]) if len(parts) > 1 else ""


def imported_by(name: str, source: str) -> list[str]:
    """Dotted names that a module imports anywhere in it, relative ones made absolute."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


IMPORTS = [
    Import(subpackage(name), other, f"{path.name}: {other}")
    for name, path in modules()
    for other in imported_by(name, path.read_text(encoding="utf-8"))
]
OWN = [one for one in IMPORTS if one.name.split(".")[0] == PACKAGE]


def is_private(name: str) -> bool:
    """Whether a part of the name below its subpackage begins with one underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split(".")[2:])


def edges() -> set[tuple[str, str]]:
    """Which subpackage imports which other one; what lies at the root is for all."""
    names = {subpackage(name) for name, _ in modules()}
    pairs = {(one.package, subpackage(one.name)) for one in OWN}
    return {(a, b) for a, b in pairs if a != b and {a, b} <= names and not a.startswith("_") and not b.startswith("_")}


def circles(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of the edges that lie in circles, or between two of them."""
    while True:
        inside = {(a, b) for a, b in pairs if b in {c for c, _ in pairs} and a in {d for _, d in pairs}}
        if inside == pairs:
            return inside
        pairs = inside


def test_imports_are_read() -> None:
    here = imported_by(
        "a.b.c", "import x.y\nfrom . import d\nfrom .e import f\nfrom ..g import h\ndef i():\n  from j import k"
    )
    assert here == ["x.y", "a.b.d", "a.b.e.f", "a.g.h", "j.k"]
    assert is_private(f"{PACKAGE}.codecs._base.Base")
    assert is_private(f"{PACKAGE}.codecs.base._base")
    assert not is_private(f"{PACKAGE}._checks.text")
    assert not is_private(f"{PACKAGE}.lab.__init__")
    assert {"memories", "plugins"} <= {a for a, _ in edges()}
    assert ("plugins", "memories") in edges()
    assert ("strategies", "plugins") in edges()


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_run_one_way(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    assert not [one.at for one in OWN if one.package == floor and subpackage(one.name) in above]


def test_there_is_no_circle() -> None:
    assert circles({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")}) == {("b", "c"), ("c", "b")}
    assert not circles({("a", "b"), ("b", "c"), ("a", "c")})
    assert not circles({(a, b) for a, b in edges() if a})


def test_no_private_name_crosses_into_another_subpackage() -> None:
    crossing = {(one.package, one.name) for one in OWN if subpackage(one.name) != one.package and is_private(one.name)}
    assert not crossing


@pytest.mark.parametrize("package", WITHOUT_AVALANCHE)
def test_lower_floors_do_without_avalanche(package: str) -> None:
    found = [one.at for one in IMPORTS if one.package == package and one.name.split(".")[0] == "avalanche"]
    assert not found
