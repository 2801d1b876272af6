"""Interrupts: a device's INTx, MSI, MSI-X, error and request events, as eventfds."""

from __future__ import annotations

import ctypes
import enum
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import EventFd, wait_for_any
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.device.device import Device

_DETACH = -1


class InterruptIndex(enum.IntEnum):
    """VFIO_PCI_*_IRQ_INDEX. ERR: the device reported an uncorrectable error. REQ: the host wants the device back."""

    INTX = vfio.VFIO_PCI_INTX_IRQ_INDEX
    MSI = vfio.VFIO_PCI_MSI_IRQ_INDEX
    MSIX = vfio.VFIO_PCI_MSIX_IRQ_INDEX
    ERR = vfio.VFIO_PCI_ERR_IRQ_INDEX
    REQ = vfio.VFIO_PCI_REQ_IRQ_INDEX


class InterruptFlags(enum.IntFlag):
    """VFIO_IRQ_INFO_*. NORESIZE: vectors beyond those enabled first need all of them disabled before."""

    EVENTFD = vfio.VFIO_IRQ_INFO_EVENTFD
    MASKABLE = vfio.VFIO_IRQ_INFO_MASKABLE
    AUTOMASKED = vfio.VFIO_IRQ_INFO_AUTOMASKED
    NORESIZE = vfio.VFIO_IRQ_INFO_NORESIZE


@dataclass(frozen=True, slots=True)
class InterruptInfo:
    """count: how many vectors the index has; 0: the device has none of the kind."""

    index: int
    flags: InterruptFlags
    count: int


class Interrupts(Resource):
    """The vectors of one index. Each enabled vector has an eventfd of its own, owned here until disable or close.

    A PCI device has one of INTx, MSI and MSI-X enabled at a time. Safe from several threads: who waits for a vector
    while another thread disables it gets ClosedError.
    """

    def __init__(self, device: Device, index: int) -> None:
        self.kernel = device.kernel
        self.device = device
        self._vectors: dict[int, EventFd] = {}
        self._unmask: EventFd | None = None
        self._active = False
        info = vfio.vfio_irq_info(index=index)
        try:
            self.kernel.ioctl(device.fd, vfio.VFIO_DEVICE_GET_IRQ_INFO, info)
        except OSError as error:
            raise VfioError(
                error.errno or errno.EIO,
                f"interrupts {index} of {device.address}",
                meaning="the device has none",
            ) from error
        self.info = InterruptInfo(index, InterruptFlags(info.flags), info.count)
        super().__init__(device)

    @property
    def enabled(self) -> int:
        """How many vectors are enabled."""
        return len(self._vectors)

    @property
    def vectors(self) -> tuple[int, ...]:
        """Which vectors are enabled."""
        with self._lock:
            return tuple(sorted(self._vectors))

    def enable(self, count: int = 1) -> None:
        """Enable the first count vectors. A failure leaves none enabled.

        Raises InvalidArgument for more than info.count, VfioError if the host cannot provide them.
        Source: VFIO_DEVICE_SET_IRQS; drivers/vfio/pci/vfio_pci_intrs.c, vfio_msi_enable.
        """
        self._check_open()
        operation = f"enable {self.name}"
        if not 0 < count <= self.info.count:
            raise InvalidArgument(
                errno.EINVAL, operation, {"count": count}, f"the device has {self.info.count} of them"
            )
        with self._lock:
            if self._active:
                raise InvalidArgument(errno.EBUSY, operation, meaning="enabled already", advice="Disable them first")
            events: list[EventFd] = []
            try:
                for vector in range(count):
                    events.append(self._event(vector))
                self._set_eventfds(0, [event.fileno() for event in events])
            except OSError:
                for event in events:
                    event.close()
                raise
            self._vectors = dict(enumerate(events))
            self._active = True

    def enable_vector(self, vector: int) -> None:
        """Enable one vector more, or one that disable_vector took, beside those that are enabled.

        Always works below the count given to enable; above it if info.flags lacks NORESIZE (MSI-X, Linux 6.5).
        A failure leaves the others as they are.
        """
        self._check_open()
        operation = f"enable vector of {self.name}"
        if not 0 <= vector < self.info.count:
            raise InvalidArgument(
                errno.EINVAL, operation, {"vector": vector}, f"the device has {self.info.count} of them"
            )
        with self._lock:
            if vector in self._vectors:
                raise InvalidArgument(errno.EBUSY, operation, {"vector": vector}, "enabled already")
            event = self._event(vector)
            try:
                self._set_eventfds(vector, [event.fileno()])
            except OSError:
                event.close()
                raise
            self._vectors[vector] = event
            self._active = True

    def disable_vector(self, vector: int) -> None:
        """Take one vector's eventfd away; the others stay enabled, and so does the index."""
        with self._lock:
            event = self._enabled_vector(vector)
            self._set_eventfds(vector, [_DETACH])
            del self._vectors[vector]
            event.close()

    def disable(self) -> None:
        """Disable every vector of the index and close the eventfds. Does nothing when none is enabled."""
        with self._lock:
            if not self._active:
                return
            try:
                self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0)
            finally:
                self._drop_events()

    def fileno(self, vector: int = 0) -> int:
        """The eventfd of a vector, for select and event loops. Read it with pending()."""
        return self._enabled_vector(vector).fileno()

    def pending(self, vector: int = 0) -> int:
        """How often the vector fired since it was last asked. Does not wait."""
        return self._enabled_vector(vector).pending()

    def wait(self, timeout: float | None = None, vector: int = 0) -> int:
        """Wait until the vector fires; how often it did, 0 after timeout seconds."""
        return self._enabled_vector(vector).wait(timeout)

    def wait_any(self, timeout: float | None = None) -> dict[int, int]:
        """Wait until an enabled vector fires: each that did and how often. Empty after timeout seconds."""
        self._enabled_vector(next(iter(self._vectors), 0))
        return wait_for_any(dict(self._vectors), timeout)

    async def wait_async(self, vector: int = 0) -> int:
        """Like wait, in the running asyncio loop; one task at a time for each vector."""
        return await self._enabled_vector(vector).wait_async()

    def trigger(self, vector: int = 0) -> None:
        """Fire the vector's eventfd as if the device had."""
        self._enabled_vector(vector)
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, vector, 1)

    def mask(self) -> None:
        """Hold INTx back; what comes meanwhile fires after unmask. Raises VfioError for other kinds (ENOTTY)."""
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_MASK, 0, 1)

    def unmask(self) -> None:
        """Let INTx fire again: it masks itself each time it fires."""
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_UNMASK, 0, 1)

    def unmask_event(self) -> EventFd:
        """An eventfd that unmasks INTx when signalled, without a call into this library. Owned here until disable."""
        with self._lock:
            if self._unmask is None:
                event = EventFd(self.kernel, f"unmask of {self.name}")
                try:
                    self._set(vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_UNMASK, 0, 1, [event.fileno()])
                except OSError:
                    event.close()
                    raise
                self._unmask = event
            return self._unmask

    @property
    def name(self) -> str:
        return f"interrupts {self.info.index} of {self.device.address}"

    def _event(self, vector: int) -> EventFd:
        return EventFd(self.kernel, f"vector {vector} of {self.name}")

    def _enabled_vector(self, vector: int) -> EventFd:
        self._check_open()
        try:
            return self._vectors[vector]
        except KeyError:
            raise InvalidArgument(
                errno.EINVAL,
                f"vector {vector} of {self.name}",
                meaning=f"it is not enabled; {len(self._vectors)} vectors are",
                advice="Call enable() first",
            ) from None

    def _set_eventfds(self, start: int, fds: Sequence[int]) -> None:
        self._set(vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, start, len(fds), fds)

    def _set(self, flags: int, start: int, count: int, eventfds: Sequence[int] = ()) -> None:
        self._check_open()
        head = ctypes.sizeof(vfio.vfio_irq_set)
        buffer = ctypes.create_string_buffer(head + 4 * len(eventfds))
        argument = vfio.vfio_irq_set.from_buffer(buffer)
        argument.argsz = len(buffer)
        argument.flags = flags
        argument.index = self.info.index
        argument.start = start
        argument.count = count
        (ctypes.c_int32 * len(eventfds)).from_buffer(buffer, head)[:] = list(eventfds)
        arguments = {"start": start, "count": count}
        try:
            result = self.kernel.ioctl(self.device.fd, vfio.VFIO_DEVICE_SET_IRQS, buffer)
        except OSError as error:
            meaning = {
                errno.EINVAL: "the device has not these vectors, they are not enabled, or another kind of interrupt is",
                errno.ENOTTY: "this kind of interrupt cannot do that",
                errno.ENOSPC: "the host has no interrupt vectors left",
            }.get(error.errno or 0, "")
            raise VfioError(error.errno or errno.EIO, f"set {self.name}", arguments, meaning) from error
        if result > 0:
            # vfio_msi_enable: the number of vectors the host could have provided.
            raise VfioError(
                errno.ENOSPC, f"set {self.name}", arguments, f"the host can provide only {result}", "Ask for fewer"
            )

    def _drop_events(self) -> None:
        events = [*self._vectors.values(), *([self._unmask] if self._unmask else [])]
        self._vectors, self._unmask, self._active = {}, None, False
        for event in events:
            event.close()

    def _release(self) -> None:
        self._drop_events()

    def close(self) -> None:
        with self._lock:
            try:
                if not self._closed and not self._inherited:
                    self.disable()
            finally:
                super().close()

    def __repr__(self) -> str:
        return f"<Interrupts {self.info.index} of {self.device.address}, {self.enabled} enabled>"
