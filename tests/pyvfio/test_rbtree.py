"""The tree of the simulated type1: red-black, and its items in their order, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pyvfio.sim.rbtree import Node, RedBlackTree


def black_height(node: Node[int] | None) -> int:
    """How many black nodes are on each way down; fails where there are not as many on all, or two red ones meet."""
    if node is None:
        return 0
    below = [each for each in (node.left, node.right) if each is not None]
    assert all(each.parent is node for each in below)
    assert not (node.is_red and any(each.is_red for each in below))
    left, right = black_height(node.left), black_height(node.right)
    assert left == right
    return left + (not node.is_red)


def insert(tree: RedBlackTree[int], number: int) -> Node[int]:
    return tree.insert(number, lambda other: number <= other)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=80))
def test_it_stays_balanced_and_in_order(numbers: list[int]) -> None:
    """Each number comes, or goes if it is there."""
    tree: RedBlackTree[int] = RedBlackTree()
    nodes: dict[int, Node[int]] = {}
    for number in numbers:
        if number in nodes:
            tree.remove(nodes.pop(number))
        else:
            nodes[number] = insert(tree, number)
        assert list(tree) == sorted(nodes)
        assert tree.root is None or not tree.root.is_red
        black_height(tree.root)


def test_its_shape_is_the_textbooks() -> None:
    tree: RedBlackTree[int] = RedBlackTree()
    nodes = {number: insert(tree, number) for number in (41, 38, 31, 12, 19, 8)}
    assert shape(tree.root) == "38(19r(12(8r,-),31),41)"
    for number, after in ((8, "38(19r(12,31),41)"), (12, "38(19(-,31r),41)"), (19, "38(31,41)")):
        tree.remove(nodes[number])
        assert shape(tree.root) == after


def shape(node: Node[int] | None) -> str:
    if node is None:
        return "-"
    name = f"{node.item}{'r' if node.is_red else ''}"
    return name if node.left is None and node.right is None else f"{name}({shape(node.left)},{shape(node.right)})"
