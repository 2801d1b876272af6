"""Why a node of /dev cannot be opened."""

from __future__ import annotations

import errno
import os

from pyvfio.errors import VfioError


def open_failure(error: OSError, operation: str, path: str, module: str, address: str | None = None) -> VfioError:
    """The kernel's refusal to open path, in words. module: the one that makes the node. address: of the
    device that it is of, if it is of one."""
    code = error.errno or errno.EIO
    meaning, advice = _MEANINGS.get(code, (f"{path} cannot be opened ({os.strerror(code)})", "Look at dmesg"))
    return VfioError(
        code,
        operation,
        {"node": path},
        meaning.format(path=path),
        advice.format(path=path, module=module, permit=permit(path, address)),
    )


def permit(path: str, address: str | None = None) -> str:
    """Advice for who has no permission to open a node. address: of the device that the node is of."""
    user = os.geteuid()
    if user == 0:
        return "Not even root has it: in a container the node must be passed in (docker run --device); else ask SELinux"
    if address is not None:
        return f"As root: pyvfio bind --owner {user} {address}"
    return f"As root: chown {user} {path}, or a udev rule with OWNER or GROUP for it"


_MISSING = "{path} is not there: the kernel lacks it, or its module is not loaded"
_PERMISSION = "no permission for {path}"
_MEANINGS = {
    errno.ENOENT: (_MISSING, "As root: modprobe {module}"),
    errno.ENODEV: (_MISSING, "As root: modprobe {module}"),
    errno.ENXIO: (_MISSING, "As root: modprobe {module}"),
    errno.EACCES: (_PERMISSION, "{permit}"),
    errno.EPERM: (_PERMISSION, "{permit}"),
    errno.EMFILE: ("this process has as many files open as it may", "Raise RLIMIT_NOFILE: ulimit -n"),
    errno.ENFILE: ("the system has as many files open as it may", "Raise fs.file-max"),
    errno.ENOMEM: ("no memory left to open {path}", "Free memory, or raise the limit of this memory cgroup"),
}
