"""Eventfds of a program that the simulated kernel keeps a reference to. Source: fs/eventfd.c, eventfd_ctx_fdget."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from pyvfio.sim.process.failure import fail


def hold_eventfd(fd: int) -> int:
    """A descriptor of our own. Raises OSError: EBADF for no descriptor, EINVAL for one of something else."""
    try:
        is_eventfd = "eventfd" in os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        raise fail(errno.EBADF) from None
    if not is_eventfd:
        raise fail(errno.EINVAL)
    return os.dup(fd)


class HeldEventfds:
    """The eventfds that a device holds, each by one descriptor, however often: what the kernel holds takes none."""

    def __init__(self) -> None:
        self._uses: dict[int, int] = {}

    def hold(self, fd: int) -> int:
        """A descriptor of our own of the eventfd that fd is of: the same one at each call. Raises as hold_eventfd."""
        held = next((held for held in self._uses if is_same_eventfd(fd, held)), None)
        if held is None:
            held = hold_eventfd(fd)
        self._uses[held] = self._uses.get(held, 0) + 1
        return held

    def drop(self, held: int) -> None:
        """What hold() returned is not needed any more."""
        self._uses[held] -= 1
        if not self._uses[held]:
            del self._uses[held]
            os.close(held)


def is_same_eventfd(fd: int, held: int) -> bool:
    """Whether both are descriptors of one eventfd."""
    return _identity(fd) == _identity(held) is not None


def _identity(fd: int) -> str | None:
    try:
        match = re.search(r"eventfd-id:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text())
    except OSError:
        return None
    return match[1] if match else None
