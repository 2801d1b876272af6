"""Open until closed: the life of every object that owns something of the kernel's."""

from __future__ import annotations

import errno
import functools
import os
import threading
import warnings
from types import TracebackType
from typing import Self

from pyvfio.errors import ClosedError


class Resource:
    """Owned by whoever opened it, until close().

    close() is idempotent, closes children first (newest first), and runs to its end even when a step fails; the first
    failure is raised then. Use after close raises ClosedError. So does use in a forked child: there, close() only gives
    up the child's copies and changes nothing that the parent process still uses.

    A resource and its children share one lock. A child made with own_lock has another one, shared with its own
    children: it may get another parent, and work in it does not wait for its parent's work. A thread takes a parent's
    lock before a child's, and holds the locks of no two resources of which neither is above the other.
    """

    def __init__(self, parent: Resource | None = None, *, own_lock: bool = False) -> None:
        """parent: the resource that closes this one when it is closed itself; None for none.

        Raises ClosedError if the parent is closed; nothing has to be closed then.
        """
        self._lock: threading.RLock = threading.RLock() if parent is None or own_lock else parent._lock
        self._parent = parent
        self._children: list[Resource] = []
        self._needed: list[Resource] = []
        self._process = os.getpid()
        self._closing = False
        # _closed comes last: an object that could not be opened has none, and is not missed.
        if parent is None:
            self._closed = False
            return
        with parent._lock:
            parent.require_open()
            parent._children.append(self)
            self._closed = False

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

        Raises the first OSError of any step, after the last step.
        """
        # Another thread may give this object another parent while this one waits for the locks.
        while not self._close_below(self._parent):
            pass

    def _close_below(self, parent: Resource | None) -> bool:
        """Close the object if parent is its parent; whether it is."""
        failures: list[OSError] = []
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
            for above in (parent, *self._needed):
                if above is not None and self in above._children:
                    above._children.remove(self)
            _attempt(self._release, failures)
            if parent is not None:
                _attempt(functools.partial(parent._child_closed, self), failures)
        if failures:
            raise failures[0]
        return True

    def _need(self, other: Resource) -> None:
        """Be closed before other too, as its children are. Both share one lock."""
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
        return self._process != os.getpid()

    def __enter__(self) -> Self:
        self.require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not self._inherited:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)


def _attempt(step: object, failures: list[OSError]) -> None:
    assert callable(step)
    try:
        step()
    except OSError as error:
        failures.append(error)
