"""Turning an errno into what it means for one operation, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from pyvfio.errors import VfioError

Meanings = Mapping[int, tuple[str, str]]
"""By errno: what it means for one operation, and what to do about it."""

_ANYWHERE: Meanings = {
    errno.ENOMEM: ("no memory left for it", "Free memory, or raise the limit of this process's memory cgroup"),
    errno.EPERM: ("a capability is missing", "Run it as root"),
    errno.EBADF: (
        "the descriptor was closed behind this object's back",
        "Close the object instead",
    ),
    errno.ENODEV: ("the device is gone", "Close it; it may come back under a new node"),
    errno.EIO: ("the device or its IOMMU does not respond", "The kernel's log may say more: dmesg"),
    errno.EINTR: ("a signal came first", "Try again"),
    errno.EMFILE: ("this process has as many files open as it may", "Raise RLIMIT_NOFILE: ulimit -n"),
    errno.ENFILE: ("the system has as many files open as it may", "Raise fs.file-max"),
}


def explain(
    error: OSError,
    operation: str,
    arguments: Mapping[str, object] | None = None,
    meanings: Meanings | None = None,
) -> VfioError:
    """The kernel's refusal in words: by meanings, or by what its errno means anywhere."""
    code = error.errno or errno.EIO
    unknown = (f"the kernel refused ({os.strerror(code)})", "The kernel's log may say more: dmesg")
    meaning, advice = {**_ANYWHERE, **(meanings or {})}.get(code, unknown)
    return VfioError(code, operation, arguments, meaning, advice)
