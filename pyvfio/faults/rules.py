"""Rules: what goes wrong, and at which call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pyvfio.abi import iommufd, vfio

UNMAPS = (vfio.VFIO_IOMMU_UNMAP_DMA, iommufd.IOMMU_IOAS_UNMAP)
"""The ioctls that unmap."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call through the seam. name: the method of Kernel; request: the number of an ioctl, else None."""

    name: str
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Applies to the nth matching call, counted from 0 since it was armed, or to every one.

    name: a method of Kernel, None for any; request: which ioctl, None for any.
    """

    nth: int | None = None
    name: str | None = None
    request: int | None = None

    def matches(self, call: Call) -> bool:
        return self.name in (None, call.name) and self.request in (None, call.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Rule):
    """The call fails with errno and never reaches the kernel."""

    errno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortUnmap(Rule):
    """An unmap ends after size bytes, and reports that many. request: one of UNMAPS, None for any of them."""

    size: int

    def matches(self, call: Call) -> bool:
        return call.request in UNMAPS and self.request in (None, call.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseUnmap(Rule):
    """An unmap does one thing and says another. request: one of UNMAPS, None for any of them.

    unmaps: how many bytes of what it is asked for it lets the kernel unmap, from the first on; None for all. says: how
    many it reports, whatever the kernel has said. errno: it fails with that instead of reporting; None to report.
    """

    says: int = 0
    unmaps: int | None = None
    errno: int | None = None

    def matches(self, call: Call) -> bool:
        return call.request in UNMAPS and self.request in (None, call.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt(Rule):
    """An exception comes out of the call that is not the kernel's, as from a signal handler. A call that returns a new
    descriptor has closed it then.

    is_made: whether the kernel was asked, and has answered with success, by then. error: the exception's type.
    """

    is_made: bool
    error: type[BaseException] = KeyboardInterrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class Before(Rule):
    """action runs before the call is made."""

    action: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(Rule):
    """The call waits before it is made: it sets reached, and goes on when released is set."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanish(Rule):
    """A device is gone from the matching call on, that call too, as after FaultyKernel.vanish().

    address: PCI address of the device, "0000:00:03.0".
    """

    address: str
