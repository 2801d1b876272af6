"""An open device: regions, interrupts. Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_intrs.c, vfio_pci_rdwr.c."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from pyvfio.abi import mman, vfio
from pyvfio.sim.edu import REGIONS, Bus, DmaFault, Edu, require_decoding
from pyvfio.sim.mappings import DmaMapping
from pyvfio.sim.user import UserMemory, fail

if TYPE_CHECKING:
    from pyvfio.sim.group import GroupState

_OFFSET_SHIFT = 40
_NUM_REGIONS = vfio.VFIO_PCI_NUM_REGIONS
_NUM_IRQS = vfio.VFIO_PCI_NUM_IRQS
# index: flags, count
_IRQS = {
    vfio.VFIO_PCI_INTX_IRQ_INDEX: (
        vfio.VFIO_IRQ_INFO_EVENTFD | vfio.VFIO_IRQ_INFO_MASKABLE | vfio.VFIO_IRQ_INFO_AUTOMASKED,
        1,
    ),
    vfio.VFIO_PCI_MSI_IRQ_INDEX: (vfio.VFIO_IRQ_INFO_EVENTFD | vfio.VFIO_IRQ_INFO_NORESIZE, 1),
    vfio.VFIO_PCI_MSIX_IRQ_INDEX: (vfio.VFIO_IRQ_INFO_EVENTFD | vfio.VFIO_IRQ_INFO_NORESIZE, 0),
    vfio.VFIO_PCI_REQ_IRQ_INDEX: (vfio.VFIO_IRQ_INFO_EVENTFD | vfio.VFIO_IRQ_INFO_NORESIZE, 1),
}
_ACTIONS = vfio.VFIO_IRQ_SET_ACTION_MASK | vfio.VFIO_IRQ_SET_ACTION_UNMASK | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
_DATA_TYPES = vfio.VFIO_IRQ_SET_DATA_TYPE_MASK


class DeviceState:
    """A device while any descriptor of it is open. faults: where its stopped transfers are noted."""

    def __init__(self, address: str, group: GroupState, faults: list[DmaFault]) -> None:
        self.address = address
        self.group = group
        self.opens = 0
        self._faults = faults
        self._eventfds: dict[int, dict[int, int]] = {}
        self._masked = False
        self._asserted = False
        self.model = Edu(Bus(self._dma_read, self._dma_write, self._interrupt))

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_DEVICE_GET_INFO:
                return self._info(user)
            case vfio.VFIO_DEVICE_GET_REGION_INFO:
                return self._region_info(user)
            case vfio.VFIO_DEVICE_GET_IRQ_INFO:
                return self._irq_info(user)
            case vfio.VFIO_DEVICE_SET_IRQS:
                return self._set_irqs(user)
            case vfio.VFIO_DEVICE_RESET:
                raise fail(errno.EINVAL)
            case vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
                raise fail(errno.ENODEV)
            case _:
                raise fail(errno.ENOTTY)

    def pread(self, size: int, position: int) -> bytes:
        index, offset = self._locate(position)
        if index == vfio.VFIO_PCI_CONFIG_REGION_INDEX:
            if offset + size > len(self.model.config):
                raise fail(errno.EFAULT)
            return bytes(self.model.config[offset : offset + size])
        _, length = REGIONS[index]
        if offset >= length:
            raise fail(errno.EINVAL)
        require_decoding(self.model)
        return b"".join(
            self.model.load(start, width).to_bytes(width, "little") for start, width in _pieces(offset, size, length)
        )

    def pwrite(self, data: bytes, position: int) -> int:
        index, offset = self._locate(position)
        if index == vfio.VFIO_PCI_CONFIG_REGION_INDEX:
            if offset + len(data) > len(self.model.config):
                raise fail(errno.EFAULT)
            self.model.write_config(offset, data)
            return len(data)
        _, length = REGIONS[index]
        if offset >= length:
            raise fail(errno.EINVAL)
        require_decoding(self.model)
        written = 0
        for start, width in _pieces(offset, len(data), length):
            self.model.store(start, width, int.from_bytes(data[written : written + width], "little"))
            written += width
        return written

    def check_mmap(self, size: int, flags: int, position: int) -> int:
        """Whether a BAR may be mapped like this: the offset in it. Raises OSError as vfio_pci_core_mmap does."""
        index, offset = self._locate(position)
        region_flags, length = REGIONS.get(index, (0, 0))
        is_mappable = region_flags & vfio.VFIO_REGION_INFO_FLAG_MMAP and flags & mman.MAP_SHARED
        if not is_mappable or offset + size > length:
            raise fail(errno.EINVAL)
        return offset

    def opened(self) -> None:
        if not self.opens:
            self.model.reset()
        self.opens += 1

    def closed(self) -> None:
        self.opens -= 1
        if not self.opens:
            for index in list(self._eventfds):
                self._disable(index)

    def _info(self, user: UserMemory) -> int:
        argsz = user.u32(0)
        user.read(16)
        if argsz < 16:
            raise fail(errno.EINVAL)
        info = struct.pack("<IIIII", argsz, vfio.VFIO_DEVICE_FLAGS_PCI, _NUM_REGIONS, _NUM_IRQS, 0)
        user.write(info[: min(argsz, len(info))])
        return 0

    def _region_info(self, user: UserMemory) -> int:
        info = user.struct(vfio.vfio_region_info, 32)
        # An edu has no VGA.
        if info.argsz < 32 or info.index >= _NUM_REGIONS - 1:
            raise fail(errno.EINVAL)
        flags, size = REGIONS.get(info.index, (0, 0))
        user.write(struct.pack("<IIIIQQ", info.argsz, flags, info.index, 0, size, info.index << _OFFSET_SHIFT))
        return 0

    def _irq_info(self, user: UserMemory) -> int:
        info = user.struct(vfio.vfio_irq_info, 16)
        if info.argsz < 16 or info.index not in _IRQS:
            raise fail(errno.EINVAL)
        flags, count = _IRQS[info.index]
        user.write(struct.pack("<IIII", info.argsz, flags, info.index, count))
        return 0

    def _set_irqs(self, user: UserMemory) -> int:
        head = user.struct(vfio.vfio_irq_set, 20)
        available = _IRQS.get(head.index, (0, 0))[1]
        data_type, action = head.flags & _DATA_TYPES, head.flags & _ACTIONS
        if (
            head.argsz < 20
            or head.index >= _NUM_IRQS
            or head.count >= 0xFFFF_FFFF - head.start
            or head.flags & ~(_DATA_TYPES | _ACTIONS)
            or head.start >= available
            or head.start + head.count > available
        ):
            raise fail(errno.EINVAL)
        width = {
            vfio.VFIO_IRQ_SET_DATA_NONE: 0,
            vfio.VFIO_IRQ_SET_DATA_BOOL: 1,
            vfio.VFIO_IRQ_SET_DATA_EVENTFD: 4,
        }.get(data_type)
        if width is None or head.argsz - 20 < head.count * width:
            raise fail(errno.EINVAL)
        data = user.read(head.count * width, 20) if width else b""
        is_intx = head.index == vfio.VFIO_PCI_INTX_IRQ_INDEX
        match action:
            case vfio.VFIO_IRQ_SET_ACTION_TRIGGER:
                self._trigger(head.index, head.start, head.count, data_type, data)
            case vfio.VFIO_IRQ_SET_ACTION_MASK | vfio.VFIO_IRQ_SET_ACTION_UNMASK:
                if not is_intx:
                    raise fail(errno.ENOTTY)
                if not self._eventfds.get(head.index) or head.start or head.count != 1:
                    raise fail(errno.EINVAL)
                if data_type == vfio.VFIO_IRQ_SET_DATA_NONE or (width == 1 and data[0]):
                    self._masked = action == vfio.VFIO_IRQ_SET_ACTION_MASK
                    self._fire_intx()
            case _:
                raise fail(errno.ENOTTY)
        return 0

    def _trigger(self, index: int, start: int, count: int, data_type: int, data: bytes) -> None:
        enabled = self._eventfds.get(index)
        if data_type == vfio.VFIO_IRQ_SET_DATA_NONE and not count:
            self._disable(index)
        elif data_type == vfio.VFIO_IRQ_SET_DATA_EVENTFD:
            vectors = (0, 1, 2)
            if index in vectors and any(self._eventfds.get(other) for other in vectors if other != index):
                raise fail(errno.EINVAL)
            fds = struct.unpack(f"<{count}i", data)
            held = {start + number: _hold_eventfd(fd) for number, fd in enumerate(fds) if fd >= 0}
            for number in range(start, start + count):
                if enabled and number in enabled:
                    os.close(enabled.pop(number))
            self._eventfds.setdefault(index, {}).update(held)
            self._masked = False
        elif not enabled:
            raise fail(errno.EINVAL)
        else:
            for number in range(count):
                if (not data or data[number]) and start + number in enabled:
                    os.eventfd_write(enabled[start + number], 1)

    def _disable(self, index: int) -> None:
        for eventfd in self._eventfds.pop(index, {}).values():
            os.close(eventfd)

    def _interrupt(self, asserted: bool) -> None:
        """MSI is a message for each call, and a memory write: it needs bus mastering. INTx is a level."""
        self._asserted = asserted
        messages = self._eventfds.get(vfio.VFIO_PCI_MSI_IRQ_INDEX)
        if messages:
            if asserted and self.model.is_bus_master:
                os.eventfd_write(messages[0], 1)
        else:
            self._fire_intx()

    def _fire_intx(self) -> None:
        lines = self._eventfds.get(vfio.VFIO_PCI_INTX_IRQ_INDEX)
        if lines and self._asserted and not self._masked:
            self._masked = True
            os.eventfd_write(lines[0], 1)

    def _dma_read(self, iova: int, size: int) -> bytes | None:
        parts = self._translate(iova, size, vfio.VFIO_DMA_MAP_FLAG_READ)
        if parts is None:
            return None
        return b"".join(mapping.pin.read(offset, length) for mapping, offset, length in parts if mapping.pin)

    def _dma_write(self, iova: int, data: bytes) -> bool:
        parts = self._translate(iova, len(data), vfio.VFIO_DMA_MAP_FLAG_WRITE)
        if parts is None:
            return False
        done = 0
        for mapping, offset, length in parts:
            if mapping.pin:
                mapping.pin.write(offset, data[done : done + length])
            done += length
        return True

    def _translate(self, iova: int, size: int, flag: int) -> list[tuple[DmaMapping, int, int]] | None:
        if not self.model.is_bus_master:
            return None
        container = self.group.container
        parts = container.iommu.translate(iova, size, flag) if container and container.iommu else None
        if parts is None:
            self._faults.append(DmaFault(self.address, iova, size, flag == vfio.VFIO_DMA_MAP_FLAG_WRITE))
        return parts

    @staticmethod
    def _locate(position: int) -> tuple[int, int]:
        index = position >> _OFFSET_SHIFT
        if index not in REGIONS:
            raise fail(errno.EINVAL)
        return index, position & (1 << _OFFSET_SHIFT) - 1


def _pieces(offset: int, size: int, limit: int) -> list[tuple[int, int]]:
    """The accesses a read or write of a BAR is made of: as wide as alignment and size allow."""
    pieces = []
    end = min(offset + size, limit)
    while offset < end:
        width = next(width for width in (8, 4, 2, 1) if not offset % width and offset + width <= end)
        pieces.append((offset, width))
        offset += width
    return pieces


def _hold_eventfd(fd: int) -> int:
    """A reference of our own. Raises OSError as eventfd_ctx_fdget does."""
    try:
        is_eventfd = "eventfd" in os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        raise fail(errno.EBADF) from None
    if not is_eventfd:
        raise fail(errno.EINVAL)
    return os.dup(fd)
