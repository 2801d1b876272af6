"""Open until closed: the life of every object that owns something of the kernel's."""

from __future__ import annotations

import errno
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from pyvfio.errors import ClosedError, InvalidArgument
from pyvfio.lifetime import are_waiting, collect, drop, lock_of

R = TypeVar("R", bound="Resource")

_exclusive: dict[int, weakref.ref[Resource]] = {}
"""What this process has open and can be open only once, by id()."""


class Resource:
    """Owned by whoever opened it, until close().

    close() is idempotent, closes children first (newest first), and runs to its end even when a step fails or Ctrl-C
    comes; the first failure is raised then. Use after close raises ClosedError. So does use in a forked child: there,
    close() only gives up the child's copies and changes nothing that the parent process still uses, and it waits for no
    lock that a thread of the parent held at the fork.

    A parent refers to its children and they to it, so they are dropped as a whole, if nothing outside refers to any of
    them. That is a ResourceWarning for the outermost one, which closes them all. A child that is not kept while its
    parent is stays open: it is the parent's.

    A resource and its children share one lock. A child whose class has _has_own_lock has another one, shared with its
    own children: it may get another parent, and work in it does not wait for its parent's work. A thread takes a
    parent's lock before a child's, and holds the locks of no two resources of which neither is above the other; the
    lock of a Memory comes after all others, and nothing is called under it that takes one of them.
    """

    _has_own_lock = False
    """Whether an object of this class does not share its parent's lock."""
    _is_exclusive = False
    """Whether what an object of this class stands for can be open only once in the whole system."""

    def __init__(self, parent: Resource | None = None) -> None:
        """parent: the resource that closes this one when it is closed itself; None for none.

        Raises ClosedError if the parent is closed; nothing has to be closed then.
        """
        self._living_lock: threading.RLock = (
            threading.RLock() if self._has_own_lock or parent is None else parent._living_lock
        )
        self._parent = parent
        self._spokesman: Resource | None = None
        self._children: list[Resource] = []
        self._needed: list[Resource] = []
        self._process = os.getpid()
        self._is_handed_over = False
        self._closing = False
        self._is_dropped = False
        # _closed comes last: an object that could not be opened has none, and is not missed.
        if parent is None:
            self._closed = False
        else:
            with parent._lock:
                parent.require_open()
                parent._children.append(self)
                self._closed = False
        if self._is_exclusive:
            _exclusive[id(self)] = weakref.ref(self)

    @property
    def closed(self) -> bool:
        """Whether close() has been called, on this object or on one above it."""
        return self._closed

    def require_open(self) -> None:
        """Raise ClosedError if the object is closed, or belongs to the process that forked this one."""
        if self._closed:
            raise ClosedError(errno.EBADF, repr(self), meaning="it is closed")
        if self._inherited:
            raise ClosedError(
                errno.EBADF,
                repr(self),
                meaning=f"process {self._process} opened it and forked this one",
                advice="Open a new one here: DMA mappings belong to the process that made them",
            )

    def close(self) -> None:
        """Close the children and then this object. Does nothing for an object that is closed.

        Raises the first OSError of any step, after the last step, or KeyboardInterrupt if that came meanwhile.
        """
        # Another thread may give this object another parent while this one waits for the locks.
        while not self._close_below(self._parent):
            pass

    def _close_below(self, parent: Resource | None) -> bool:
        """Close the object if parent is its parent; whether it is."""
        failures: list[BaseException] = []
        with (parent or self)._lock, self._lock:
            if self._parent is not parent:
                return False
            # A child that owns this closes it with itself, meanwhile.
            if self._closed or self._closing:
                return True
            self._closing = True
            try:
                for child in reversed(self._children.copy()):
                    with child._lock:
                        # It may have left for another parent before its lock was taken.
                        if child in self._children:
                            _attempt(child.close, failures)
            finally:
                self._closing = False
            self._closed = True
            _exclusive.pop(id(self), None)
            for above in (parent, *self._needed):
                if above is not None and self in above._children:
                    above._children.remove(self)
            _attempt(self._release, failures)
            if parent is not None:
                _attempt(functools.partial(parent._child_closed, self), failures)
        if failures:
            # A KeyboardInterrupt is for the whole program.
            raise next((each for each in failures if not isinstance(each, Exception)), failures[0])
        return True

    def _need(self, other: Resource) -> None:
        """Be closed before other too, as its children are. The caller holds the lock of this object, which is that of
        other or of other's parent."""
        other.require_open()
        other._children.append(self)
        self._needed.append(other)

    def _adopt(self, child: Resource) -> None:
        """Be the parent of child from now on, instead of the parent that it has or of none.

        child has a lock of its own, and the caller holds this object's lock and child's: see _lock_of.
        """
        self.require_open()
        child.require_open()
        if child._parent is not self:
            child._leave_parent()
            child._parent = self
            self._children.append(child)

    def _let_go(self, child: Resource) -> None:
        """Leave a child without a parent: whoever holds it closes it. Locks as for _adopt."""
        child._leave_parent()

    def _leave_parent(self) -> None:
        # Without the parent's lock, which may not be taken here: its own close() looks who is still there.
        if self._parent is not None:
            self._parent._children.remove(self)
            self._parent = None

    def _speak_for_parent(self) -> None:
        """Be named when the parent is dropped open: the program knows this object, which made its own parent."""
        if self._parent is not None:
            self._parent._spokesman = self

    @property
    def _lock(self) -> threading.RLock:
        """The lock of this object and its children."""
        return lock_of(self._process, self._living_lock)

    @property
    def _upper_lock(self) -> threading.RLock:
        """The lock of the parent, which is this object's own unless its class has _has_own_lock."""
        return (self._parent or self)._lock

    def _lock_of(self, child: Resource) -> threading.RLock:
        """The lock that a child, present or future, shares with its own children. To be taken after self._lock."""
        return child._lock

    def _siblings(self) -> tuple[Resource, ...]:
        """The children of this object's parent, this one among them; this one alone if it has no parent."""
        parent = self._parent
        return (self,) if parent is None else tuple(parent._children)

    def _release(self) -> None:
        """Give back what this object owns. Called once."""

    def _child_closed(self, child: Resource) -> None:
        """Called after a child was closed; the child is no longer among the children."""

    @property
    def _inherited(self) -> bool:
        """Whether what the object stands for is another process's now, so that close() gives only copies up."""
        return self._is_handed_over or self._process != os.getpid()

    def _hand_over(self) -> None:
        """Close this object and all below it as a forked child does: whoever has the descriptors, too, goes on."""
        with self._lock:
            self.require_open()
            for each in self._family():
                each._is_handed_over = True
        self.close()

    def __enter__(self) -> Self:
        self.require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def outermost(self) -> Resource:
        """The object that closes this one when it is closed or dropped: the one above all above it, or itself."""
        place = self
        while place._parent is not None:
            place = place._parent
        return place

    def _family(self) -> Iterator[Resource]:
        yield self
        for child in self._children:
            yield from child._family()

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        # All of the family are dropped with this one, and Python begins with any of them.
        outermost = self.outermost
        if not outermost._is_dropped:
            outermost._is_dropped = True
            packages = {
                kind.__module__.partition(".")[0] for each in outermost._family() for kind in type(each).__mro__
            }
            drop(
                outermost._spokesman or outermost,
                outermost.close,
                warn=not self._inherited,
                packages=packages - {"builtins"},
            )


def collected(kind: type[R], matches: Callable[[R], bool]) -> bool:
    """Whether something of ours that was dropped may have been in the way until now. It is released then.

    kind, matches: what would be in the way. The collector runs only if such an object is open in this process, or
    something that was dropped is yet to be released. For callers that hold no lock.
    """
    if not are_waiting() and opened(kind, matches) is None:
        return False
    collect()
    return True


def opened(kind: type[R], matches: Callable[[R], bool]) -> R | None:
    """The object of a kind that this process has open and for which matches() is true; None if there is none.

    kind: a class whose objects stand for what can be open only once in the whole system.
    """
    for reference in list(_exclusive.values()):
        each = reference()
        if isinstance(each, kind) and not each.closed and not each._inherited and matches(each):
            return each
    return None


def held_here(holder: Resource) -> tuple[str, str]:
    """That this process itself has open what can be open only once, by which object, and what to do about it."""
    above = holder.outermost
    owner = "" if above is holder else f" of {above!r}"
    return (
        f"this process has it open already: {holder!r}{owner}",
        "Close that. If no name is left for it, a traceback or the last result of a REPL may refer to it",
    )


def require_kind(thing: object, kind: type[Resource], operation: str) -> None:
    """Raise InvalidArgument unless thing is of a kind. operation: what was asked to be done with it."""
    if not isinstance(thing, kind):
        raise InvalidArgument(errno.EINVAL, operation, meaning=f"{thing!r} is no {kind.__name__}")


def _attempt(step: Callable[[], object], failures: list[BaseException]) -> None:
    try:
        step()
    except BaseException as error:
        failures.append(error)
