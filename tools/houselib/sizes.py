"""A module and a package are small enough to be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from houselib.table import FILES_OF_A_PACKAGE, LINES_OF_A_MODULE
from houselib.tree import Tree
from houselib.violation import Violation


def sizes(tree: Tree) -> Iterator[Violation]:
    """Rule "size": lines of a module, and files beside each other, without the package's face."""
    beside: dict[str, int] = defaultdict(int)
    for module in tree.modules.values():
        directory = module.path.rpartition("/")[0]
        beside[directory] += not module.is_face
        if (lines := module.text.count("\n")) > LINES_OF_A_MODULE:
            says = f"{lines} lines, more than {LINES_OF_A_MODULE}: it has two subjects, give each a file"
            yield Violation(f"size: {module.path}", module.path, LINES_OF_A_MODULE + 1, says)
    for directory, files in beside.items():
        if files > FILES_OF_A_PACKAGE:
            says = f"{files} files beside each other, more than {FILES_OF_A_PACKAGE}: make a package of some"
            yield Violation(f"size: {directory}", f"{directory}/__init__.py", 1, says)
