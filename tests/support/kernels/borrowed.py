"""Copies of descriptors that another process has open, as a debugger gets them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_PIDFD_GETFD = 438
"""The number of pidfd_getfd on every architecture. Source: asm-generic/unistd.h."""


def borrowed(process: int, kind: str) -> int:
    """A copy of the first descriptor of a process whose link in /proc has kind in it; the caller closes it."""
    for link in sorted(Path(f"/proc/{process}/fd").iterdir(), key=lambda link: int(link.name)):
        if kind in os.readlink(link):
            pidfd = os.pidfd_open(process)
            try:
                fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, int(link.name), 0)
                if fd < 0:
                    raise OSError(ctypes.get_errno(), "pidfd_getfd")
                return int(fd)
            finally:
                os.close(pidfd)
    raise AssertionError(f"process {process} has no {kind}")
