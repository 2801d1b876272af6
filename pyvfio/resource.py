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
    up the child's copies and changes nothing the parent still uses.
    """

    def __init__(self, parent: Resource | None = None) -> None:
        self._lock: threading.RLock = parent._lock if parent else threading.RLock()
        self._parent = parent
        self._children: list[Resource] = []
        self._needed: list[Resource] = []
        self._process = os.getpid()
        self._closed = self._closing = False
        if parent is not None:
            parent._check_open()
            parent._children.append(self)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        with self._lock:
            # A child that owns this closes it with itself, meanwhile.
            if self._closed or self._closing:
                return
            failures: list[OSError] = []
            self._closing = True
            try:
                for child in reversed(self._children.copy()):
                    _attempt(child.close, failures)
            finally:
                self._closing = False
            self._closed = True
            for parent in (self._parent, *self._needed):
                if parent is not None and self in parent._children:
                    parent._children.remove(self)
            _attempt(self._release, failures)
            if self._parent is not None:
                _attempt(functools.partial(self._parent._child_closed, self), failures)
        if failures:
            raise failures[0]

    def _need(self, other: Resource) -> None:
        """This cannot be without other either: it is closed before it, as a child is. Both share one lock."""
        other._check_open()
        other._children.append(self)
        self._needed.append(other)

    def _release(self) -> None:
        """Give back what this object owns. Called once."""

    def _child_closed(self, child: Resource) -> None:
        """A child is closed, and gone from the children."""

    def _move(self, parent: Resource | None) -> None:
        """Be the child of another, or of none; shares that one's lock from now on. Must have no children itself."""
        with self._lock:
            if self._parent is not None:
                self._parent._children.remove(self)
            if parent is not None:
                parent._children.append(self)
            self._parent = parent
        self._lock = parent._lock if parent else threading.RLock()

    @property
    def _inherited(self) -> bool:
        return self._process != os.getpid()

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

    # What the areas that have not followed yet call require_open().
    _check_open = require_open

    def __enter__(self) -> Self:
        self._check_open()
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
