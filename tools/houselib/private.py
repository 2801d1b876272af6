"""What begins with an underscore is its file's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from houselib import table
from houselib.table import NOT_PRIVATE
from houselib.tree import Module, Tree
from houselib.violation import Violation

BY_NAME = ("getattr", "setattr", "hasattr", "delattr")


def private(tree: Tree) -> Iterator[Violation]:
    """Rule "private": no file reads or writes x._member, but of self and cls, and of what it makes private itself."""
    needed = set()
    for module in tree.modules.values():
        own = _own(module)
        for line, name, text in _used(module):
            if name in own:
                continue
            exceptions = {(path, each) for path, each, _ in NOT_PRIVATE if each == name and path in ("*", module.path)}
            needed |= exceptions
            if not exceptions:
                says = f"{text} is private to another file: ask for what is wanted by a public method"
                yield Violation(f"private: {module.path}: {name}", module.path, line, says)
    for path, name, _ in NOT_PRIVATE:
        if (path, name) not in needed:
            says = f"{name} of {path} is used no more: take it out of NOT_PRIVATE"
            yield Violation(f"private: {path}: {name}", table.PATH, table.line_of(f'("{path}", "{name}"'), says)


def _own(module: Module) -> set[str]:
    """Private names that the file gives: functions, classes, variables, and members of self and cls."""
    own = set()
    for node in module.nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                own.add(name)
    return own


def _used(module: Module) -> Iterator[tuple[int, str, str]]:
    """Line, name and text of each use of a private member that is not of self or cls."""
    for node in module.nodes:
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                pass
            case ast.Attribute(attr=name) if _is_private(name):
                yield node.lineno, name, ast.unparse(node)
            case ast.ImportFrom(names=aliases):
                yield from ((node.lineno, each.name, each.name) for each in aliases if _is_private(each.name))
            case ast.Call(func=ast.Name(id=function), args=[thing, ast.Constant(value=str(name)), *_]):
                if function in BY_NAME and _is_private(name) and ast.unparse(thing) not in ("self", "cls"):
                    yield node.lineno, name, ast.unparse(node)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))
