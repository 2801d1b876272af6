"""Check the house by tools/houselib/table.py: which package stands on which, what is private, what is too long."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from houselib.circles import circles
from houselib.floors import directions, faces, public_modules_are_there
from houselib.helpers import helpers
from houselib.names import names, paths
from houselib.private import private
from houselib.sizes import sizes
from houselib.table import HOUSES, USERS
from houselib.texts import texts
from houselib.tree import Tree
from houselib.violation import Violation

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(house.name for house in HOUSES if "." not in house.name)


def main() -> int:
    """Print each violation in a sentence; the exit status is 1 if there is one."""
    argparse.ArgumentParser(prog="tools/house", description=__doc__).parse_args()
    lines = dict.fromkeys(map(str, violations(Tree.read(ROOT, (*PACKAGES, *USERS, "tests")), pages(ROOT))))
    for line in lines:
        print(line)
    if lines:
        print(f"tools/house: {len(lines)} to mend", file=sys.stderr)
    return int(bool(lines))


def pages(root: Path) -> dict[str, str]:
    """The text of the README and the docs, by path. Not the changelog: it says what was."""
    files = [root / page for page in ("README.md", "CONTRIBUTING.md", "tests/README.md")]
    files += [*sorted((root / "docs").rglob("*.md"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}


def violations(tree: Tree, pages: Mapping[str, str]) -> Iterator[Violation]:
    """What the rules find in the two packages, in who uses them, in the tests, and in pages."""
    packages = tree.only(PACKAGES)
    yield from directions(packages)
    yield from faces(tree.only((*PACKAGES, *USERS)), pages)
    yield from public_modules_are_there(packages)
    yield from circles(packages)
    yield from names(packages, pages)
    yield from paths(packages, pages)
    yield from private(packages)
    yield from sizes(packages)
    yield from texts(packages)
    yield from helpers(tree)
