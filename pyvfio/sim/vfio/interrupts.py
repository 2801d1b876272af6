"""The interrupts of a simulated device. Source: drivers/vfio/vfio_main.c and pci/vfio_pci_intrs.c."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping

from pyvfio.abi import vfio
from pyvfio.sim.process import UserMemory, fail, hold_eventfd, is_same_eventfd

_ACTIONS = vfio.VFIO_IRQ_SET_ACTION_TYPE_MASK
_DATA_TYPES = vfio.VFIO_IRQ_SET_DATA_TYPE_MASK
_WIDTHS = {vfio.VFIO_IRQ_SET_DATA_NONE: 0, vfio.VFIO_IRQ_SET_DATA_BOOL: 1, vfio.VFIO_IRQ_SET_DATA_EVENTFD: 4}
_INTX = vfio.VFIO_PCI_INTX_IRQ_INDEX
_MESSAGES = (vfio.VFIO_PCI_MSI_IRQ_INDEX, vfio.VFIO_PCI_MSIX_IRQ_INDEX)
_SINGLE = (vfio.VFIO_PCI_ERR_IRQ_INDEX, vfio.VFIO_PCI_REQ_IRQ_INDEX)
_EVENTFD = vfio.VFIO_IRQ_INFO_EVENTFD
_NORESIZE = vfio.VFIO_IRQ_INFO_NORESIZE


class InterruptState:
    """The interrupts of one device while it is open.

    vectors: how many there are of each index. host_vectors: how many messages the host can provide for the device.
    is_dynamic: whether MSI-X vectors can be added while others are enabled. is_master: whether the device may send
    messages now.
    """

    def __init__(
        self, vectors: Mapping[int, int], *, host_vectors: int, is_dynamic: bool, is_master: Callable[[], bool]
    ) -> None:
        self._vectors = vectors
        self._host_vectors = host_vectors
        self._is_dynamic = is_dynamic and vectors[vfio.VFIO_PCI_MSIX_IRQ_INDEX] > 0
        self._is_master = is_master
        self._index: int | None = None
        """Which of INTx, MSI and MSI-X is enabled."""
        self._room = 0
        """How many of its vectors were enabled."""
        self._eventfds: dict[int, int] = {}
        self._single: dict[int, int] = {}
        self._unmask: int | None = None
        self._masked = False
        self._asserted = False

    def info(self, user: UserMemory) -> int:
        info = user.struct(vfio.vfio_irq_info, 16)
        if info.argsz < 16 or info.index not in self._vectors:
            raise fail(errno.EINVAL)
        flags = _EVENTFD | _NORESIZE
        if info.index == _INTX:
            flags = _EVENTFD | vfio.VFIO_IRQ_INFO_MASKABLE | vfio.VFIO_IRQ_INFO_AUTOMASKED
        elif info.index == vfio.VFIO_PCI_MSIX_IRQ_INDEX and self._is_dynamic:
            flags = _EVENTFD
        user.write(struct.pack("<IIII", info.argsz, flags, info.index, self._vectors[info.index]))
        return 0

    def set(self, user: UserMemory) -> int:
        head = user.struct(vfio.vfio_irq_set, 20)
        available = self._vectors.get(head.index, 0)
        data_type, action = head.flags & _DATA_TYPES, head.flags & _ACTIONS
        if (
            head.argsz < 20
            or head.index >= vfio.VFIO_PCI_NUM_IRQS
            or head.count >= 0xFFFF_FFFF - head.start
            or head.flags & ~(_DATA_TYPES | _ACTIONS)
            or head.start >= available
            or head.start + head.count > available
        ):
            raise fail(errno.EINVAL)
        width = _WIDTHS.get(data_type)
        if width is None or head.argsz - 20 < head.count * width:
            raise fail(errno.EINVAL)
        data = user.read(head.count * width, 20) if width and head.count else b""
        values = list(struct.unpack(f"<{head.count}{'i' if width == 4 else 'B'}", data)) if data else None
        is_eventfd = data_type == vfio.VFIO_IRQ_SET_DATA_EVENTFD
        match action:
            case vfio.VFIO_IRQ_SET_ACTION_TRIGGER if head.index in _SINGLE:
                return self._trigger_single(head.index, head.count, values, is_eventfd=is_eventfd)
            case vfio.VFIO_IRQ_SET_ACTION_TRIGGER:
                return self._trigger(head.index, head.start, head.count, values, is_eventfd=is_eventfd)
            case vfio.VFIO_IRQ_SET_ACTION_MASK | vfio.VFIO_IRQ_SET_ACTION_UNMASK if head.index == _INTX:
                return self._mask(action, head.start, head.count, values, is_eventfd=is_eventfd)
            case _:
                raise fail(errno.ENOTTY)

    def raised(self, vector: int, asserted: bool) -> None:
        """The device raises or lowers a vector. A message is a write, which needs bus mastering; INTx is a level."""
        if self._index in _MESSAGES:
            if asserted and vector in self._eventfds and self._is_master():
                os.eventfd_write(self._eventfds[vector], 1)
        else:
            self._asserted = asserted
            self._fire_intx()

    def eventfd_written(self, fd: int) -> None:
        """The program has written to an eventfd, which may be the one that unmasks INTx."""
        if self._unmask is not None and is_same_eventfd(fd, self._unmask):
            os.eventfd_read(self._unmask)
            self._masked = False
            self._fire_intx()

    def request(self) -> None:
        """Ask the program to close the device, if it wants to be asked. Source: vfio_pci_core_request."""
        if vfio.VFIO_PCI_REQ_IRQ_INDEX in self._single:
            os.eventfd_write(self._single[vfio.VFIO_PCI_REQ_IRQ_INDEX], 1)

    def release(self) -> None:
        """The last descriptor of the device is closed."""
        self._disable()
        for eventfd in self._single.values():
            os.close(eventfd)
        self._single = {}

    def _trigger_single(self, index: int, count: int, values: list[int] | None, *, is_eventfd: bool) -> int:
        """ERR and REQ: one eventfd, or none. Source: vfio_pci_set_ctx_trigger_single."""
        held = self._single.get(index)
        if count > 1 or (values is None and (is_eventfd or held is None)):
            raise fail(errno.EINVAL)
        if is_eventfd and values is not None:
            new = hold_eventfd(values[0]) if values[0] >= 0 else None
            if held is not None:
                os.close(self._single.pop(index))
            if new is not None:
                self._single[index] = new
        elif held is not None and values is None and not count:
            os.close(self._single.pop(index))
        elif held is not None and (values is None or values[0]):
            os.eventfd_write(held, 1)
        return 0

    def _trigger(self, index: int, start: int, count: int, values: list[int] | None, *, is_eventfd: bool) -> int:
        if self._index == index and not count and values is None and not is_eventfd:
            self._disable()
            return 0
        if self._index not in (None, index) or (index == _INTX and (start, count) != (0, 1)):
            raise fail(errno.EINVAL)
        if is_eventfd:
            return self._set_eventfds(index, start, values or [])
        # Before 6.5, as many contexts as have been enabled.
        if self._index != index or (not self._is_dynamic and start + count > self._room):
            raise fail(errno.EINVAL)
        for number in range(count):
            if (values is None or values[number]) and start + number in self._eventfds:
                os.eventfd_write(self._eventfds[start + number], 1)
        return 0

    def _set_eventfds(self, index: int, start: int, fds: list[int]) -> int:
        is_first = self._index is None
        if is_first:
            if index != _INTX and start + len(fds) > self._host_vectors:
                # Not an errno: how many there could have been.
                return self._host_vectors
            self._index, self._room = index, start + len(fds)
            self._masked = False
        can_grow = index == vfio.VFIO_PCI_MSIX_IRQ_INDEX and self._is_dynamic
        if start + len(fds) > self._room and not can_grow:
            raise fail(errno.EINVAL)
        try:
            for vector, fd in enumerate(fds, start):
                self._detach(vector)
                if fd >= 0:
                    self._eventfds[vector] = hold_eventfd(fd)
        except OSError:
            if is_first:
                self._disable()
            else:
                for vector in range(start, start + len(fds)):
                    self._detach(vector)
            raise
        return 0

    def _mask(self, action: int, start: int, count: int, values: list[int] | None, *, is_eventfd: bool) -> int:
        if self._index != _INTX or start or count != 1:
            raise fail(errno.EINVAL)
        if is_eventfd and values is not None:
            if action == vfio.VFIO_IRQ_SET_ACTION_MASK:
                raise fail(errno.ENOTTY)
            new = hold_eventfd(values[0]) if values[0] >= 0 else None
            if new is not None and self._unmask is not None:
                os.close(new)
                raise fail(errno.EBUSY)
            if self._unmask is not None:
                os.close(self._unmask)
            self._unmask = new
        elif values is None or values[0]:
            self._masked = action == vfio.VFIO_IRQ_SET_ACTION_MASK
            self._fire_intx()
        return 0

    def _fire_intx(self) -> None:
        if self._index == _INTX and self._asserted and not self._masked and 0 in self._eventfds:
            self._masked = True
            os.eventfd_write(self._eventfds[0], 1)

    def _detach(self, vector: int) -> None:
        if vector in self._eventfds:
            os.close(self._eventfds.pop(vector))

    def _disable(self) -> None:
        for vector in list(self._eventfds):
            self._detach(vector)
        if self._unmask is not None:
            os.close(self._unmask)
        self._unmask = self._index = None
        self._room = 0
