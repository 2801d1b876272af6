"""A red-black tree whose shape is what the textbook's insertion and deletion leave, as in Linux's lib/rbtree.c.

Who searches a tree by an order that its items do not keep finds what its shape lets be found: so the shape counts.
Source: Cormen, Leiserson, Rivest, Stein, Introduction to Algorithms, the chapter on red-black trees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Node(Generic[T]):
    """A node of a tree, with its item. left, right: the nodes below it; None for none."""

    __slots__ = ("is_red", "item", "left", "parent", "right")

    def __init__(self, item: T, parent: Node[T] | None) -> None:
        self.item = item
        self.parent = parent
        self.left: Node[T] | None = None
        self.right: Node[T] | None = None
        self.is_red = True


class RedBlackTree(Generic[T]):
    """root: the node to begin a search at; None while the tree is empty."""

    def __init__(self) -> None:
        self.root: Node[T] | None = None

    def __iter__(self) -> Iterator[T]:
        """The items from the left to the right. Nobody may change the tree meanwhile."""
        node = self.root
        while node is not None and node.left is not None:
            node = node.left
        yield from items_from(node)

    def insert(self, item: T, goes_left: Callable[[T], bool]) -> Node[T]:
        """Add an item. goes_left: whether it belongs to the left of another one. Returns its node."""
        parent, below, is_left = None, self.root, False
        while below is not None:
            parent, is_left = below, goes_left(below.item)
            below = below.left if is_left else below.right
        node = Node(item, parent)
        if parent is None:
            self.root = node
        elif is_left:
            parent.left = node
        else:
            parent.right = node
        self._mend_insertion(node)
        return node

    def remove(self, node: Node[T]) -> None:
        """Take a node out of the tree."""
        if node.left is None or node.right is None:
            below, above, lost_red = node.right or node.left, node.parent, node.is_red
            self._replace(node, below)
        else:
            heir = node.right
            while heir.left is not None:
                heir = heir.left
            below, above, lost_red = heir.right, heir.parent, heir.is_red
            if above is node:
                above = heir
            else:
                self._replace(heir, below)
                heir.right, node.right.parent = node.right, heir
            self._replace(node, heir)
            heir.left, node.left.parent = node.left, heir
            heir.is_red = node.is_red
        if not lost_red:
            self._mend_removal(below, above)

    def _replace(self, node: Node[T], other: Node[T] | None) -> None:
        """Have other where node is."""
        parent = node.parent
        if parent is None:
            self.root = other
        elif parent.left is node:
            parent.left = other
        else:
            parent.right = other
        if other is not None:
            other.parent = parent

    def _rotate(self, node: Node[T], *, left: bool) -> None:
        """Have node below the one that is on its other side."""
        up = node.right if left else node.left
        assert up is not None
        between = up.left if left else up.right
        self._replace(node, up)
        if left:
            node.right, up.left = between, node
        else:
            node.left, up.right = between, node
        node.parent = up
        if between is not None:
            between.parent = node

    def _mend_insertion(self, node: Node[T]) -> None:
        while (parent := node.parent) is not None and parent.is_red:
            above = parent.parent
            assert above is not None
            is_left = above.left is parent
            uncle = above.right if is_left else above.left
            if uncle is not None and uncle.is_red:
                parent.is_red = uncle.is_red = False
                above.is_red = True
                node = above
                continue
            if node is (parent.right if is_left else parent.left):
                self._rotate(parent, left=is_left)
                parent = node
            parent.is_red, above.is_red = False, True
            self._rotate(above, left=not is_left)
            break
        assert self.root is not None
        self.root.is_red = False

    def _mend_removal(self, node: Node[T] | None, parent: Node[T] | None) -> None:
        """One black node is missing on the ways through node, which is below parent; None if nothing is there."""
        while parent is not None and (node is None or not node.is_red):
            is_left = parent.left is node
            sibling = parent.right if is_left else parent.left
            assert sibling is not None
            if sibling.is_red:
                sibling.is_red, parent.is_red = False, True
                self._rotate(parent, left=is_left)
                sibling = parent.right if is_left else parent.left
                assert sibling is not None
            near, far = (sibling.left, sibling.right) if is_left else (sibling.right, sibling.left)
            if not _is_red(near) and not _is_red(far):
                sibling.is_red = True
                node, parent = parent, parent.parent
                continue
            if far is None or not far.is_red:
                assert near is not None
                near.is_red, sibling.is_red = False, True
                self._rotate(sibling, left=not is_left)
                sibling, far = near, sibling
            sibling.is_red, parent.is_red, far.is_red = parent.is_red, False, False
            self._rotate(parent, left=is_left)
            return
        if node is not None:
            node.is_red = False


def items_from(node: Node[T] | None) -> Iterator[T]:
    """The items from a node on to the right; none for None. Nobody may change the tree meanwhile."""
    while node is not None:
        yield node.item
        node = _next(node)


def _next(node: Node[T]) -> Node[T] | None:
    if node.right is not None:
        node = node.right
        while node.left is not None:
            node = node.left
        return node
    while node.parent is not None and node.parent.right is node:
        node = node.parent
    return node.parent


def _is_red(node: Node[T] | None) -> bool:
    return node is not None and node.is_red
