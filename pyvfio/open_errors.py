"""Why a node of /dev cannot be opened."""

from __future__ import annotations

import errno
import os

from pyvfio.errors import VfioError


def open_failure(error: OSError, operation: str, path: str, module: str) -> VfioError:
    """The kernel's refusal to open path, in words. module: the one that makes the node."""
    code = error.errno or errno.EIO
    meaning, advice = _MEANINGS.get(code, (f"{path} cannot be opened ({os.strerror(code)})", "Look at dmesg"))
    return VfioError(
        code, operation, {"node": path}, meaning.format(path=path), advice.format(path=path, module=module)
    )


_MISSING = "{path} is not there: the kernel lacks it, or its module is not loaded"
_PERMISSION = "no permission for {path}"
_MEANINGS = {
    errno.ENOENT: (_MISSING, "As root: modprobe {module}"),
    errno.ENODEV: (_MISSING, "As root: modprobe {module}"),
    errno.ENXIO: (_MISSING, "As root: modprobe {module}"),
    errno.EACCES: (_PERMISSION, "As root: chown $USER {path}"),
    errno.EPERM: (_PERMISSION, "As root: chown $USER {path}; in a container, allow the device"),
    errno.EMFILE: ("this process has as many files open as it may", "Raise RLIMIT_NOFILE: ulimit -n"),
    errno.ENFILE: ("the system has as many files open as it may", "Raise fs.file-max"),
    errno.ENOMEM: ("no memory left to open {path}", "Free memory, or raise the limit of this memory cgroup"),
}
