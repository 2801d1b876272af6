"""What a refusal of the kernel means for one operation, and what to do about it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Mapping
from typing import TypeGuard

from pyvfio.errors import NoIommuError, VfioError

Meanings = Mapping[int, tuple[str, str]]
"""What each errno means for one operation, and what to do about it: two phrases, of which the second may be empty."""

_ANYWHERE: Meanings = {
    errno.ENOMEM: ("no memory left for it", "Free memory, or raise the limit of this process's memory cgroup"),
    errno.EPERM: ("a capability is missing", "Run it as root"),
    errno.EBADF: ("the descriptor was closed behind this object's back", "Close the object instead"),
    errno.ENODEV: ("the device is gone", "Close it; it may come back under a new node"),
    errno.EIO: ("the device or its IOMMU does not respond", "The kernel's log may say more: dmesg"),
    errno.EINTR: ("a signal came first", "Try again"),
}


def is_refusal(error: BaseException) -> TypeGuard[OSError]:
    """Whether error is the kernel's answer to a call, which changed nothing then. What a signal handler raises is not,
    though it may be an OSError, as TimeoutError is: it comes without an errno, before the call or after it."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, VfioError)


def explain(
    error: OSError,
    operation: str,
    arguments: Mapping[str, object] | None = None,
    meanings: Meanings | None = None,
) -> VfioError:
    """The error to raise for the kernel's refusal of operation.

    arguments: with what the operation was called; ints print as hex. meanings: what each errno means for this
    operation; an errno that is not in it has the meaning that it has anywhere, or is said to be unknown.
    """
    code = error.errno or errno.EIO
    unknown = (f"the kernel refused ({os.strerror(code)})", "The kernel's log may say more: dmesg")
    meaning, advice = no_descriptor(code) or {**_ANYWHERE, **(meanings or {})}.get(code, unknown)
    return VfioError(code, operation, arguments, meaning, advice)


def no_descriptor(code: int) -> tuple[str, str] | None:
    """The meaning of an errno that says that no file can be opened, and what to do about it; None for another one."""
    if code == errno.ENFILE:
        return "the system has as many files open as it may", "As root: raise fs.file-max"
    if code != errno.EMFILE:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "without limit" if hard == resource.RLIM_INFINITY else f"up to {hard}"
    return (
        f"this process may have {soft} files open, and has them; each eventfd is one",
        f"Raise RLIMIT_NOFILE, {most} without root: ulimit -n NUMBER, or LimitNOFILE= of the service",
    )


def open_failure(
    error: OSError, operation: str, path: str, module: str, address: str | None = None, *, is_there: bool = False
) -> VfioError:
    """The error to raise for the kernel's refusal to open the node path. module: the kernel module that makes it.

    address: of the device that the node is of, if it is of one. is_there: the kernel has made what the node is of.
    """
    code = error.errno or errno.EIO
    if is_there and code == errno.ENOENT:
        meaning = f"{path} is not here, though the kernel has what it is of"
        advice = f"In a container, have the node passed in: docker run --device {path}"
        return VfioError(code, operation, {"node": path}, meaning, advice)
    meaning, advice = no_descriptor(code) or _OPEN.get(
        code, (f"{path} cannot be opened ({os.strerror(code)})", "Look at dmesg")
    )
    return VfioError(
        code,
        operation,
        {"node": path},
        meaning.format(path=path),
        advice.format(path=path, module=module, permit=permit(path, address)),
    )


def permit(path: str, address: str | None = None) -> str:
    """Advice for who has no permission to open the node path. address: of the device that the node is of."""
    user = os.geteuid()
    if user == 0:
        return "Not even root has it: in a container the node must be passed in (docker run --device); else ask SELinux"
    if address is not None:
        return f"As root: pyvfio bind --owner {user} {address}"
    return f"As root: chown {user} {path}, or a udev rule with OWNER or GROUP for it"


def not_asked_for(operation: str) -> NoIommuError:
    """The error for opening the node of a device without an IOMMU, which the program has not asked for."""
    return NoIommuError(
        errno.EPERM,
        operation,
        meaning="there is no IOMMU behind it: the kernel would map memory, but what the device is told as an address "
        "would be one of physical memory, anywhere in the host",
        advice="Turn the IOMMU on (in the firmware, on Intel also intel_iommu=on), or give the machine a virtual one. "
        "To use it all the same: unsafe_noiommu=True, and give the device only what Ioas.physical_range() tells",
    )


def no_raw_io(operation: str) -> VfioError:
    """The error for the kernel's EPERM about a device without an IOMMU, or about its addresses."""
    return VfioError(
        errno.EPERM,
        operation,
        meaning="a device without an IOMMU reaches all of the host's memory, so the kernel wants CAP_SYS_RAWIO",
        advice="Run it as root",
    )


def no_iommu(operation: str) -> NoIommuError:
    """The error for an operation of a container that needs an IOMMU and has none. It says what there is instead."""
    return NoIommuError(
        errno.ENOTTY,
        operation,
        meaning="there is no IOMMU behind this device, so the kernel maps no memory for it: "
        "its DMA goes to physical addresses, anywhere in the host",
        advice="Turn the IOMMU on (in the firmware, on Intel also intel_iommu=on), or give the machine a virtual one. "
        "To do without: pyvfio.noiommu tells the physical addresses of locked huge pages, which is unsafe",
    )


_MISSING = "{path} is not there: the kernel lacks it, or its module is not loaded"
_PERMISSION = "no permission for {path}"
_OPEN = {
    errno.ENOENT: (_MISSING, "As root: modprobe {module}"),
    errno.ENODEV: (_MISSING, "As root: modprobe {module}"),
    errno.ENXIO: (_MISSING, "As root: modprobe {module}"),
    errno.EACCES: (_PERMISSION, "{permit}"),
    errno.EPERM: (_PERMISSION, "{permit}"),
    errno.ENOMEM: ("no memory left to open {path}", "Free memory, or raise the limit of this memory cgroup"),
}
