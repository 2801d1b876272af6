"""Texts of others are taken apart at the separators of who wrote them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from houselib.tree import Tree
from houselib.violation import Violation


def texts(tree: Tree) -> Iterator[Violation]:
    """Rule "text": no splitlines(), and no split() without a separator: Python's own are more than anybody's."""
    for module in tree.modules.values():
        for node in module.nodes:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            is_split = node.func.attr in ("split", "rsplit") and not node.args and not node.keywords
            if is_split or node.func.attr == "splitlines":
                says = f"{node.func.attr}() takes U+2028 for a separator: take lines_of() or words_of() of pyvfio.texts"
                yield Violation(f"text: {module.path}: {node.lineno}", module.path, node.lineno, says)
