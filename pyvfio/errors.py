"""The errors of pyvfio: each says what was tried, what is the matter, and what to do about it."""

from __future__ import annotations

import errno as errno_codes
import os
from collections.abc import Mapping
from typing import Self

from pyvfio.texts import printable


class VfioError(OSError):
    """A VFIO operation that failed.

    errno: the kernel's, or the one that the kernel would have given. operation: what was tried, in the library's words.
    arguments: the operation's arguments by name; ints print as hex. meaning: what is the matter; the errno in words if
    nothing else is known. advice: what to do about it; may be empty.
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
        # Paths and what others say are in it, whoever prints or logs it.
        return printable(f"{text} [{errno_codes.errorcode.get(errno, errno)}]")

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.errno, self.operation, self.arguments, self.meaning, self.advice))


def _hex(value: object) -> str:
    return f"{value:#_x}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class InvalidArgument(VfioError, ValueError):
    """A size, an address, a name or another argument that cannot work. The kernel was not asked."""


class ClosedError(VfioError):
    """The object was closed, or belongs to the process that forked this one."""


class FeatureUnsupported(VfioError):
    """The device, its driver or this kernel does not have the feature."""


class VfTokenRefused(VfioError):
    """The device needs the VF token of its physical function, and none or another one was given."""

    @classmethod
    def at_open(cls, address: str, *, given: bool) -> Self:
        """The error for opening the device at address. given: whether the program gave a token."""
        return cls(
            errno_codes.EACCES,
            f"open device {address}",
            meaning="wrong VF token" if given else "it needs a VF token",
            advice="The program that holds the physical function set it: features.set_vf_token()",
        )


class NoIommuError(VfioError):
    """There is no IOMMU behind the device. See pyvfio.noiommu.

    A device that is opened through its group works, but the kernel maps no memory for it. By its node it is opened only
    for programs that ask for it with unsafe_noiommu.
    """


class DeviceNotBound(VfioError):
    """The device does not exist, or its driver is not a VFIO driver."""


class HostNeedsDevice(VfioError):
    """The host or a program uses the device: taking it away would cut off a network route, a disk or the program."""


class GroupNotViable(VfioError):
    """Another device of the same IOMMU group is bound to a driver of the host."""


class DeviceBusy(VfioError):
    """The device or its group is open already, here or in another process."""


class GroupBusy(DeviceBusy):
    """The group, or a device of it, is open already, here or in another process."""


class MappingLimitReached(VfioError):
    """The container has as many mappings as it may have."""


class MemlockExceeded(VfioError):
    """Pinning the memory would exceed RLIMIT_MEMLOCK."""


class OutsideIovaRanges(VfioError):
    """The IOMMU cannot translate some of the addresses, or reserves them."""


class AlreadyMapped(VfioError):
    """Some of the addresses are mapped already, by this program or by another user of the address space."""


class NotMapped(VfioError):
    """Nothing is mapped at the addresses, or the range would cut a mapping in two."""


class ShortUnmap(VfioError):
    """The kernel unmapped another size than was mapped.

    remaining: how many bytes may still be mapped; 0 if all are unmapped.
    """

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
    """The IOMMU refused one of several requests. done: how many requests it had carried out before."""

    done = 0

    @classmethod
    def after(cls, error: VfioError, done: int, total: int) -> Self:
        """The error for a request of total that was refused after done others. error: why it was."""
        meaning = f"request {done + 1} of {total}: {error.meaning}"
        failure = cls(error.errno or errno_codes.EIO, error.operation, error.arguments, meaning, error.advice)
        failure.done = done
        return failure

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"done": self.done})


class MemoryUnavailable(VfioError):
    """The host does not have the memory: no free huge page, the limit of a memory cgroup, or none left at all."""


class StillMapped(VfioError):
    """The memory is mapped for DMA: discarding it now would leave the device on pages that nobody else sees."""
