"""Names in texts exist: those of the kernel's headers, and paths of our own modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from houselib import table
from houselib.table import HEADERS, OTHER_NAMES
from houselib.tree import Module, Tree
from houselib.violation import Violation, stale

# In capitals, of two words or more; with a star at its end it stands for all that begin so.
NAME = re.compile(r"(?<![\w-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?:_?\*)?(?!\w)")
PATH = re.compile(r"(?<![\w/.-])(?:pyvfio|virtiomem)(?:\.[A-Za-z_]\w*)+")


def names(tree: Tree, pages: Mapping[str, str]) -> Iterator[Violation]:
    """Rule "name": each is one of a header, or the end of one (MAP_DMA), or a name of our code, or in OTHER_NAMES.

    It holds for all the text of the modules of tree, docstrings, comments and messages alike, and for pages, by path.
    """
    headers = {name for module in tree.modules.values() if module.path.startswith(HEADERS) for name in _named(module)}
    ends = {"_".join(parts[start:]) for parts in (name.split("_") for name in headers) for start in range(len(parts))}
    others = {name for names in OTHER_NAMES.values() for name in names.split()}
    known = headers | ends | {name for module in tree.modules.values() for name in _named(module)}
    needed = set()
    for path, line, word in _found(NAME, tree, pages):
        if word in known or (word.endswith("*") and any(name.startswith(word[:-1]) for name in known)):
            continue
        needed.add(word)
        if word not in others:
            says = f"{word} is in no header that we mirror: correct it, or say in {table.PATH} where it comes from"
            yield Violation(f"name: {path}: {word}", path, line, says)
    for word in sorted(others - needed):
        yield stale("name", word, f"{word} is needed no more: take it out of OTHER_NAMES")


def paths(tree: Tree, pages: Mapping[str, str]) -> Iterator[Violation]:
    """Rule "path": pyvfio.kernel.limits or pyvfio.Container, said anywhere, is a module or a name in one."""
    for path, line, word in _found(PATH, tree, pages):
        if word in tree.modules:
            continue
        origin, _, name = word.rpartition(".")
        while origin not in tree.modules and "." in origin:
            origin, _, name = origin.rpartition(".")
        if name not in _named(tree.modules[origin]) and not name.startswith("__"):
            yield Violation(f"path: {path}: {word}", path, line, f"{word} is not there: say where it is now")


def _found(pattern: re.Pattern[str], tree: Tree, pages: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    texts = {**{module.path: module.text for module in tree.modules.values()}, **pages}
    for path, text in texts.items():
        for line, words in enumerate(text.splitlines(), 1):
            for word in pattern.findall(words):
                yield path, line, word


def _named(module: Module) -> Iterator[str]:
    for node in module.nodes:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case ast.alias(name=name):
                yield name
