"""Lifetimes: what becomes of an object that is dropped open, and of locks when a process forks.

Python calls a finalizer wherever it likes: also in the middle of code that holds locks, in any thread. So what is
dropped is released at once only where no code of ours is on the thread's stack, and else by a thread of its own, which
holds no lock and waits for locks as everybody does. That thread lives as long as there is something to release.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection
from types import FrameType

OURS = "pyvfio"
"""The package whose code holds locks that a release may need."""


class _Waiting:
    """Releases that wait for a thread, the oldest first."""

    def __init__(self) -> None:
        self.releases: deque[Callable[[], object]] = deque()
        self.begin_process()

    def begin_process(self) -> None:
        self.process = os.getpid()
        # turn: held by the thread that releases. thread: held while a thread is there for it.
        self.turn = threading.RLock()
        self.thread = threading.Lock()
        self.inherited = threading.RLock()

    def add(self, release: Callable[[], object]) -> None:
        """Have a thread release it. Takes no lock, and does not wait."""
        self.releases.append(release)
        if self.thread.acquire(blocking=False):
            try:
                # Not threading.Thread: its start() takes locks that the interrupted code may hold.
                _thread.start_new_thread(self._run, ())
            except RuntimeError:
                # No thread is to be had, now or because the interpreter ends: collect() looks again.
                self.thread.release()

    def drain(self) -> None:
        """Release everything that waits, and wait until another thread that does so is done."""
        with self.turn:
            while self.releases:
                try:
                    self.releases.popleft()()
                except IndexError:
                    return
                except BaseException as error:
                    # Whoever drains has nothing to do with it.
                    threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))

    def _run(self) -> None:
        while True:
            try:
                self.drain()
            finally:
                self.thread.release()
            # Something may have come since the last look, from somebody who saw this thread at work.
            if not self.releases or not self.thread.acquire(blocking=False):
                return


_waiting = _Waiting()
# A thread that held a lock when the process forked is not there in the child to give it back.
os.register_at_fork(after_in_child=_waiting.begin_process)


def lock_of(process: int, lock: threading.RLock) -> threading.RLock:
    """The lock to take for what a process made with lock: in a forked child another one, for all that is its parent's.

    No thread of the parent's can have held that.
    """
    return lock if process == _waiting.process else _waiting.inherited


def drop(
    thing: object, release: Callable[[], object], *, warn: bool = True, packages: Collection[str] = (OURS,)
) -> None:
    """Release what a finalizer has found open, and warn as Python does of a file. Finalizers call it, and nobody else.

    thing: what the program dropped, for the warning. release: closes it. packages: those whose locks release may take;
    while code of one of them is on this thread's stack, another thread releases. When the interpreter ends nothing is
    done and nothing said: the kernel takes everything back with the process.
    """
    if sys.is_finalizing():
        return
    try:
        if warn:
            warnings.warn(f"{thing!r} was never closed", ResourceWarning, source=thing, stacklevel=3)
    finally:
        if _is_at_work(packages, sys._getframe(2)):
            _waiting.add(release)
        else:
            release()


def are_waiting() -> bool:
    """Whether something that was dropped still waits to be released."""
    return bool(_waiting.releases)


def collect() -> None:
    """Have the collector find what was dropped, and release it before this returns.

    For callers that hold no lock: it waits for those that a release needs.
    """
    gc.collect()
    _waiting.drain()


def _is_at_work(packages: Collection[str], frame: FrameType | None) -> bool:
    """Whether frame, or one that it was called from, is of one of the packages."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
            return True
        frame = frame.f_back
    return False
