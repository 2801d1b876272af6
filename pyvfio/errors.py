"""What can go wrong, in words: operation, arguments in hex, what it means here, what to do about it."""

from __future__ import annotations

import errno as errno_codes
import os
from collections.abc import Mapping
from typing import Self


class VfioError(OSError):
    """A VFIO operation that failed. errno is the kernel's, or the one the kernel would have given.

    operation: what was asked, in the library's words. arguments: with what; ints print as hex.
    meaning: what is the matter. advice: what to do about it; both may be empty.
    """

    def __init__(
        self,
        errno: int,
        operation: str,
        arguments: Mapping[str, object] | None = None,
        meaning: str = "",
        advice: str = "",
    ) -> None:
        self.operation = operation
        self.arguments = dict(arguments or {})
        self.meaning = meaning or os.strerror(errno)
        self.advice = advice
        super().__init__(errno, self._text(errno))

    def _text(self, errno: int) -> str:
        words = [self.operation, *(f"{name} {_hex(value)}" for name, value in self.arguments.items())]
        text = f"{' '.join(words)}: {self.meaning}"
        if self.advice:
            text += f". {self.advice}"
        return f"{text} [{errno_codes.errorcode.get(errno, errno)}]"

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.errno, self.operation, self.arguments, self.meaning, self.advice))


def _hex(value: object) -> str:
    return f"{value:#_x}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class InvalidArgument(VfioError, ValueError):
    """Refused before anything was asked of the kernel: a size, address or name that cannot work."""


class ClosedError(VfioError):
    """The object was closed, or belongs to the process that forked this one."""


class FeatureUnsupported(VfioError):
    """The device, its driver or this kernel has not the feature."""


class VfTokenRefused(VfioError):
    """The device needs the VF token of its physical function, or another one than was given."""

    @classmethod
    def at_open(cls, address: str, *, given: bool) -> Self:
        return cls(
            errno_codes.EACCES,
            f"open device {address}",
            meaning="wrong VF token" if given else "it needs a VF token",
            advice="The program that holds the physical function set it: features.set_vf_token()",
        )


class NoIommuError(VfioError):
    """There is no IOMMU behind the device. Opened through its group it works, but the kernel maps no DMA for it; by its
    node it is opened only for programs that say unsafe_noiommu. See pyvfio.noiommu."""


class DeviceNotBound(VfioError):
    """The device does not exist, or its driver is not a VFIO driver."""


class HostNeedsDevice(VfioError):
    """The host itself, or a program on it, uses the device: taking it away would cut a route, a disk or a DMA."""


class GroupNotViable(VfioError):
    """Another device of the same IOMMU group is in a host driver's hands."""


class DeviceBusy(VfioError):
    """The device, or its group, is open elsewhere."""


class GroupBusy(DeviceBusy):
    """The group, or a device of it, is open elsewhere."""


class MappingLimitReached(VfioError):
    """The container holds as many mappings as it may."""


class MemlockExceeded(VfioError):
    """Pinning the memory would exceed RLIMIT_MEMLOCK."""


class OutsideIovaRanges(VfioError):
    """The IOMMU cannot translate, or reserves, some of the addresses."""


class AlreadyMapped(VfioError):
    """Some of the addresses are mapped already. Never a success, whoever mapped them."""


class NotMapped(VfioError):
    """Nothing is mapped at the addresses, or the range would cut a mapping in two."""


class ShortUnmap(VfioError):
    """The kernel unmapped another size than was mapped. remaining: bytes whose fate is unknown (0: all are gone)."""

    def __init__(
        self,
        errno: int,
        operation: str,
        arguments: Mapping[str, object] | None = None,
        meaning: str = "",
        advice: str = "",
        remaining: int = 0,
    ) -> None:
        super().__init__(errno, operation, arguments, meaning, advice)
        self.remaining = remaining

    def __reduce__(self) -> tuple[object, ...]:
        return (
            type(self),
            (self.errno, self.operation, self.arguments, self.meaning, self.advice, self.remaining),
        )


class InvalidationRefused(VfioError):
    """The IOMMU refused one of several requests. done: how many it had carried out before."""

    done = 0

    @classmethod
    def after(cls, error: VfioError, done: int, total: int) -> Self:
        """error: why the request behind those done was refused."""
        meaning = f"request {done + 1} of {total}: {error.meaning}"
        failure = cls(error.errno or errno_codes.EIO, error.operation, error.arguments, meaning, error.advice)
        failure.done = done
        return failure

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"done": self.done})


class MemoryUnavailable(VfioError):
    """The host has not the memory asked for: no free huge pages, a memory cgroup's limit, or plainly none left."""


class StillMapped(VfioError):
    """The memory is mapped for DMA: discarding it now would leave the device on pages nobody else sees."""
