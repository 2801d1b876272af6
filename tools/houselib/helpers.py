"""What tests share is apart from them."""

from __future__ import annotations

from collections.abc import Iterator

from houselib.tree import Tree, is_in
from houselib.violation import Violation

SUPPORT = "tests.support"


def helpers(tree: Tree) -> Iterator[Violation]:
    """Rule "helper": nothing is imported from a module of tests or a conftest; tests/support stands on itself."""
    for module in tree.below("tests"):
        for found in tree.imports(module):
            if not is_in(found.module, "tests"):
                continue
            last = found.module.rpartition(".")[2]
            if last.startswith("test_") or last == "conftest":
                says = f"imports from {found.module}, which has tests or fixtures: move what is shared to tests/support"
            elif is_in(module.name, SUPPORT) and not is_in(found.module, SUPPORT):
                says = f"imports {found.module} into tests/support, which is for all tests: move what is shared there"
            else:
                continue
            yield Violation(f"helper: {module.path} -> {found.module}", module.path, found.line, says)
