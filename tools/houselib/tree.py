"""The files that are checked, each read and parsed once."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Import:
    """module: what is imported from, of the tree. name: what of it; empty where it is the module itself."""

    line: int
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Module:
    """A file. name: as imports have it, a package's face by the package's name. path: from the root.

    nodes: all of its syntax tree. exported: the names of __all__; None without one.
    """

    name: str
    path: str
    text: str
    nodes: tuple[ast.AST, ...]
    exported: frozenset[str] | None

    @classmethod
    def parse(cls, name: str, path: str, text: str) -> Module:
        tree = ast.parse(text, path)
        return cls(name, path, text, tuple(ast.walk(tree)), _exported(tree))

    @property
    def is_face(self) -> bool:
        return self.path.endswith("/__init__.py")


@dataclass(frozen=True, slots=True)
class Tree:
    """Modules, by name."""

    modules: dict[str, Module] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, directories: Iterable[str]) -> Tree:
        """The modules below some directories of root."""
        tree = cls()
        for directory in directories:
            for path in sorted((root / directory).rglob("*.py")):
                name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
                place = path.relative_to(root).as_posix()
                tree.modules[name] = Module.parse(name, place, path.read_text(encoding="utf-8"))
        return tree

    def only(self, packages: Iterable[str]) -> Tree:
        """The part of this tree that is in packages."""
        chosen = [module for package in packages for module in self.below(package)]
        return Tree({module.name: module for module in chosen})

    def below(self, package: str) -> Iterator[Module]:
        return (module for name, module in self.modules.items() if is_in(name, package))

    def imports(self, module: Module) -> Iterator[Import]:
        """What module imports of this tree, wherever in the file it stands."""
        for node in module.nodes:
            if isinstance(node, ast.Import):
                yield from (Import(node.lineno, each.name, "") for each in node.names if each.name in self.modules)
            elif isinstance(node, ast.ImportFrom):
                origin = _origin(module, node)
                face = self.modules.get(origin)
                for each in node.names:
                    # A name that a face hands on hides the module of the same name.
                    handed_on = face is not None and each.name in (face.exported or ())
                    if (whole := f"{origin}.{each.name}") in self.modules and not handed_on:
                        yield Import(node.lineno, whole, "")
                    elif face is not None:
                        yield Import(node.lineno, origin, each.name)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _origin(module: Module, node: ast.ImportFrom) -> str:
    """The whole name of what a `from … import` names, with its dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + module.is_face]
    return ".".join([*base, *([node.module] if node.module else [])])


def _exported(tree: ast.Module) -> frozenset[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return None
