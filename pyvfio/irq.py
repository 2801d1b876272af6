"""Interrupts: a device's INTx, MSI, MSI-X, error and request events, as eventfds."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.device import Device


class InterruptIndex(enum.IntEnum):
    """VFIO_PCI_*_IRQ_INDEX."""

    INTX = vfio.VFIO_PCI_INTX_IRQ_INDEX
    MSI = vfio.VFIO_PCI_MSI_IRQ_INDEX
    MSIX = vfio.VFIO_PCI_MSIX_IRQ_INDEX
    ERR = vfio.VFIO_PCI_ERR_IRQ_INDEX
    REQ = vfio.VFIO_PCI_REQ_IRQ_INDEX


class InterruptFlags(enum.IntFlag):
    """VFIO_IRQ_INFO_*."""

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

    A PCI device has one of INTx, MSI and MSI-X enabled at a time.
    """

    def __init__(self, device: Device, index: int) -> None:
        self.kernel = device.kernel
        self.device = device
        self._eventfds: list[int] = []
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
        return len(self._eventfds)

    def enable(self, count: int = 1) -> None:
        """Enable the first count vectors. A failure leaves none enabled.

        Raises InvalidArgument for more than info.count, VfioError if the host cannot provide them.
        """
        self._check_open()
        operation = f"enable interrupts {self.info.index} of {self.device.address}"
        if not 0 < count <= self.info.count:
            raise InvalidArgument(
                errno.EINVAL, operation, {"count": count}, f"the device has {self.info.count} of them"
            )
        with self._lock:
            if self._eventfds:
                raise InvalidArgument(errno.EBUSY, operation, meaning="enabled already", advice="Disable them first")
            eventfds: list[int] = []
            try:
                for _ in range(count):
                    eventfds.append(self.kernel.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
                self._set(vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 0, eventfds)
            except OSError:
                for eventfd in eventfds:
                    self.kernel.close(eventfd)
                raise
            self._eventfds = eventfds

    def disable(self) -> None:
        """Disable every vector of the index and close the eventfds. Does nothing when none is enabled."""
        with self._lock:
            eventfds, self._eventfds = self._eventfds, []
            if not eventfds:
                return
            try:
                self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 0, (), count=0)
            finally:
                for eventfd in eventfds:
                    self.kernel.close(eventfd)

    def fileno(self, vector: int = 0) -> int:
        """The eventfd of a vector, for select and event loops. Read it with pending()."""
        self._check_open()
        if not 0 <= vector < len(self._eventfds):
            raise InvalidArgument(
                errno.EINVAL,
                f"interrupt {vector} of {self.device.address}",
                meaning=f"{len(self._eventfds)} vectors are enabled",
            )
        return self._eventfds[vector]

    def pending(self, vector: int = 0) -> int:
        """How often the vector fired since it was last asked. Does not wait."""
        try:
            return int.from_bytes(self.kernel.read(self.fileno(vector), 8), "little")
        except BlockingIOError:
            return 0

    def wait(self, timeout: float | None = None, vector: int = 0) -> int:
        """Wait until the vector fires; how often it did, 0 after timeout seconds."""
        self.kernel.poll([self.fileno(vector)], timeout)
        return self.pending(vector)

    def trigger(self, vector: int = 0) -> None:
        """Fire the vector's eventfd as if the device had."""
        self.fileno(vector)
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, vector, (), count=1)

    def mask(self, vector: int = 0) -> None:
        """Hold the vector back. Only INTx can."""
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_MASK, vector, (), count=1)

    def unmask(self, vector: int = 0) -> None:
        """Let the vector fire again: INTx masks itself each time it fires."""
        self._set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_UNMASK, vector, (), count=1)

    def _set(self, flags: int, start: int, eventfds: Sequence[int], count: int | None = None) -> None:
        self._check_open()
        head = ctypes.sizeof(vfio.vfio_irq_set)
        buffer = ctypes.create_string_buffer(head + 4 * len(eventfds))
        argument = vfio.vfio_irq_set.from_buffer(buffer)
        argument.argsz = len(buffer)
        argument.flags = flags
        argument.index = self.info.index
        argument.start = start
        argument.count = len(eventfds) if count is None else count
        (ctypes.c_int32 * len(eventfds)).from_buffer(buffer, head)[:] = list(eventfds)
        operation = f"set interrupts {self.info.index} of {self.device.address}"
        try:
            result = self.kernel.ioctl(self.device.fd, vfio.VFIO_DEVICE_SET_IRQS, buffer)
        except OSError as error:
            meaning = {
                errno.EINVAL: "the device has not these vectors, or another kind of interrupt is enabled",
                errno.ENOTTY: "this kind of interrupt cannot do that",
            }.get(error.errno or 0, "")
            raise VfioError(error.errno or errno.EIO, operation, {"start": start}, meaning) from error
        if result > 0:
            # vfio_msi_enable: the number of vectors the host could have provided.
            raise VfioError(
                errno.ENOSPC,
                operation,
                meaning=f"the host can provide only {result} vectors",
                advice="Ask for fewer",
            )

    def _release(self) -> None:
        for eventfd in self._eventfds:
            self.kernel.close(eventfd)
        self._eventfds = []

    def close(self) -> None:
        with self._lock:
            if not self._closed and not self._inherited:
                self.disable()
            super().close()

    def __repr__(self) -> str:
        return f"<Interrupts {self.info.index} of {self.device.address}, {self.enabled} enabled>"
