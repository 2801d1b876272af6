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


def is_same_eventfd(fd: int, held: int) -> bool:
    """Whether both are descriptors of one eventfd."""
    return _identity(fd) == _identity(held) is not None


def _identity(fd: int) -> str | None:
    try:
        match = re.search(r"eventfd-id:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text())
    except OSError:
        return None
    return match[1] if match else None
