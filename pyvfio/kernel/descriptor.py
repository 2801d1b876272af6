"""Descriptor: a file descriptor that stays open as long as a call uses it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvfio.errors import ClosedError


class Descriptor:
    """A descriptor that close() closes, or the last of those who use it at that moment.

    Its number is given away again as soon as it is closed: a call that looked whether it is open, and is made after
    another thread has closed it, would reach somebody else's file. So every call is made as a use. Takes no lock: safe
    from several threads, signal handlers and finalizers, none of which waits for another. A forked child may not use
    it.
    """

    def __init__(self, number: int, name: str, close: Callable[[], object]) -> None:
        """number: the descriptor's. name: what it stands for, for messages. close: closes it, and is called once."""
        self.number = number
        self.name = name
        self._close = [close]
        # Who uses it, each with its thread. Adding and removing are one step each.
        self._uses: dict[object, int] = {}
        self._process = os.getpid()
        self._closed = False
        self._left = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether close() has been called."""
        return self._closed

    @property
    def inherited(self) -> bool:
        """Whether it belongs to the process that forked this one."""
        return self._process != os.getpid()

    def require_open(self) -> None:
        """Raises ClosedError after close(), and in a forked child."""
        if self._closed:
            raise ClosedError(errno.EBADF, self.name, meaning="it is closed")
        if self.inherited:
            meaning = f"process {self._process} opened it and forked this one"
            raise ClosedError(errno.EBADF, self.name, meaning=meaning, advice="Open a new one here")

    @contextmanager
    def in_use(self) -> Iterator[int]:
        """The descriptor's number, which is not closed before the block is left. Raises ClosedError."""
        use = object()
        # A generator: whatever interrupts it ends the use, at the latest when nobody refers to it any more.
        try:
            self._uses[use] = threading.get_ident()
            self.require_open()
            yield self.number
        finally:
            self._end(use)

    def close(self, wake: Callable[[], object] | None = None) -> None:
        """Close it once nobody uses it. Closing twice is harmless; a forked child gives its copy up at once.

        wake: called, while it is still open, if somebody uses it. Raises what closing and wake raise.
        """
        use = object()
        try:
            if self.inherited:
                # A fork takes the uses along, but not the threads that have them.
                self._uses = {}
            self._uses[use] = threading.get_ident()
            was_closed, self._closed = self._closed, True
            if wake is not None and not was_closed and len(self._uses) > 1:
                wake()
        finally:
            self._end(use)

    def wait_until_unused(self) -> None:
        """Wait, after close(), until the last use has ended; not for one in this thread, which waits for the caller."""
        if threading.get_ident() not in list(self._uses.values()):
            self._left.wait()

    def _end(self, use: object) -> None:
        self._uses.pop(use, None)
        if self._closed and not self._uses:
            # pop() and not a look: another thread or a signal handler may come between the two.
            try:
                close = self._close.pop()
            except IndexError:
                return
            try:
                close()
            finally:
                self._left.set()
