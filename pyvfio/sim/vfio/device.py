"""An open device: regions, reset, ioeventfds. Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_rdwr.c."""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyvfio.abi import mman, vfio
from pyvfio.sim.devices import Bus, Model, PciFunction, Screen, SimConfig, SimRegion
from pyvfio.sim.iommufd import FunctionDevice, IommufdContext
from pyvfio.sim.machine import DmaFault, Machine
from pyvfio.sim.process import FatalSignal, HeldEventfds, UserMemory, VmArea, fail, is_same_eventfd
from pyvfio.sim.vfio.display import dma_buf, query_plane
from pyvfio.sim.vfio.features import FeatureState, VfToken
from pyvfio.sim.vfio.interrupts import InterruptState
from pyvfio.sim.vfio.mappings import Part, Translate

_OFFSET_SHIFT = 40
_CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX
_VGA = vfio.VFIO_PCI_VGA_REGION_INDEX
_CONFIG_FLAGS = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
_MOST_IOEVENTFDS = 1000


def _no_translation(iova: int, size: int, flag: int) -> None:
    """Of a device that is attached to nothing."""


class Opener(Protocol):
    """What a group's device was opened in: a container, or an iommufd in the place of one."""

    def dismiss(self, device: DeviceState, /) -> None:
        """The last descriptor of the device is closed."""


@dataclass(frozen=True, slots=True)
class _MappedRegion:
    """A part of a region, from start on, in a program's memory. decodes: whether the region answers; an access is a
    SIGBUS while it does not. Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_mmap_fault."""

    model: Model
    region: int
    start: int
    decodes: Callable[[], bool]

    @property
    def answers(self) -> bool:
        return self.decodes()

    @property
    def silences(self) -> int:
        return self.model.config.silences

    def load(self, offset: int, width: int) -> int:
        self._require_answer()
        return self.model.load(self.region, self.start + offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        self._require_answer()
        self.model.store(self.region, self.start + offset, width, value)

    def _require_answer(self) -> None:
        if not self.answers:
            raise FatalSignal(signal.SIGBUS, "memory decoding is off, or the device is not in D0")


class DeviceState:
    """A device while any descriptor of it is open; opens: how many are. vf_token: of the function.

    opened_in: what it was opened in through its group, which may have left that. bound: to an iommufd. iommufd: the one
    that it was bound to through its own node. translate: where its DMA goes.
    """

    def __init__(self, machine: Machine, function: PciFunction, vf_token: VfToken) -> None:
        self.address = function.address
        self.opens = 0
        self.opened_in: Opener | None = None
        self.bound: FunctionDevice | None = None
        self.iommufd: IommufdContext | None = None
        self.translate: Translate = _no_translation
        self._machine = machine
        self._ioeventfds: dict[tuple[int, int, int, int], int] = {}
        self._held = HeldEventfds()
        self.model = function.model(Bus(self._dma_read, self._dma_write, self._interrupt))
        config = self.model.config
        config.place_bars({index: region.size for index, region in self.model.regions.items() if index < 6})
        vectors = {vfio.VFIO_PCI_REQ_IRQ_INDEX: 1, **dict.fromkeys(range(3), 0), **self.model.vectors}
        if config.is_express or machine.version >= (7, 0):
            vectors[vfio.VFIO_PCI_ERR_IRQ_INDEX] = 1
        self.interrupts = InterruptState(
            vectors,
            host_vectors=function.host_vectors,
            is_dynamic=machine.version >= (6, 5),
            is_master=lambda: config.is_bus_master,
        )
        is_physical = self.model.has_vfs and function.physical_function is None
        self.features = FeatureState(
            self.model,
            machine.version,
            logs_dma=function.logs_dma,
            is_pci=not function.is_mediated,
            vf_token=vf_token if is_physical else None,
        )

    @property
    def config(self) -> SimConfig:
        return self.model.config

    def ioctl(self, request: int, user: UserMemory) -> int:
        match request:
            case vfio.VFIO_DEVICE_GET_INFO:
                return self._info(user)
            case vfio.VFIO_DEVICE_GET_REGION_INFO:
                return self._region_info(user)
            case vfio.VFIO_DEVICE_GET_IRQ_INFO:
                return self.interrupts.info(user)
            case vfio.VFIO_DEVICE_SET_IRQS:
                return self.interrupts.set(user)
            case vfio.VFIO_DEVICE_RESET:
                if not self.model.resettable:
                    raise fail(errno.EINVAL)
                self.reset()
                return 0
            case vfio.VFIO_DEVICE_IOEVENTFD:
                return self._set_ioeventfd(user)
            case vfio.VFIO_DEVICE_FEATURE:
                return self.features.ioctl(user)
            case vfio.VFIO_DEVICE_QUERY_GFX_PLANE if isinstance(self.model, Screen):
                return query_plane(self.model, user)
            case vfio.VFIO_DEVICE_GET_GFX_DMABUF if isinstance(self.model, Screen):
                return dma_buf(self.model, user)
            case _:
                raise fail(errno.ENOTTY)

    def pread(self, size: int, position: int) -> bytes:
        index, offset, region = self._locate(position)
        if index == _CONFIG:
            if offset + size > len(self.config):
                raise fail(errno.EFAULT)
            return self.config.read(offset, size)
        size = min(size, region.size - offset)
        return b"".join(
            b"\xff" * width
            if self._is_msix_table(index, start)
            else self.model.load(index, start, width).to_bytes(width, "little")
            for start, width in self._pieces(offset, size)
        )

    def pwrite(self, data: bytes, position: int) -> int:
        index, offset, region = self._locate(position)
        if index == _CONFIG:
            if offset + len(data) > len(self.config):
                raise fail(errno.EFAULT)
            self.config.write(offset, data)
            return len(data)
        if not region.flags & vfio.VFIO_REGION_INFO_FLAG_WRITE:
            raise fail(errno.EINVAL)
        written = 0
        for start, width in self._pieces(offset, min(len(data), region.size - offset)):
            if not self._is_msix_table(index, start):
                self.model.store(index, start, width, int.from_bytes(data[written : written + width], "little"))
            written += width
        return written

    def mmap(self, size: int, flags: int, position: int) -> VmArea:
        """size bytes of a region, whose registers answer each access. Raises OSError as vfio_pci_core_mmap."""
        index, offset = position >> _OFFSET_SHIFT, position & (1 << _OFFSET_SHIFT) - 1
        region = self.model.regions.get(index, SimRegion(0, 0))
        is_mappable = region.flags & vfio.VFIO_REGION_INFO_FLAG_MMAP and flags & mman.MAP_SHARED
        areas = ((0, _whole_pages(region.size)),) if region.areas is None else region.areas
        is_inside = any(start <= offset and offset + size <= start + _whole_pages(length) for start, length in areas)
        if not is_mappable or not is_inside or offset % 4096:
            raise fail(errno.EINVAL)
        return VmArea(size, _MappedRegion(self.model, index, offset, lambda: self._answers_mapped(index)))

    def opened(self) -> None:
        """It has one more descriptor."""
        self.opens += 1

    def closed(self) -> None:
        """It has one descriptor less; with the last one, all that the program has set up is gone."""
        self.opens -= 1
        if not self.opens:
            self.interrupts.release()
            self.features.release()
            for held in self._ioeventfds.values():
                self._held.drop(held)

    def reset(self) -> None:
        """Reset the function. Config space is as it was, since the kernel saves and restores it; but it is in D0, which
        the kernel brings it to first. Source: drivers/vfio/pci/vfio_pci_core.c, vfio_pci_ioctl_reset."""
        self.config.wake()
        self.config.silences += 1
        self.model.reset()
        if self.features.migration is not None:
            self.features.migration.reset()

    def eventfd_written(self, fd: int) -> None:
        """The program has written to an eventfd, which may be one that this device waits for."""
        self.interrupts.eventfd_written(fd)
        for (index, offset, width, value), held in self._ioeventfds.items():
            if is_same_eventfd(fd, held):
                os.eventfd_read(held)
                self.model.store(index, offset, width, value)

    def _info(self, user: UserMemory) -> int:
        argsz = user.u32(0)
        user.read(16)
        if argsz < 16:
            raise fail(errno.EINVAL)
        flags = vfio.VFIO_DEVICE_FLAGS_PCI | (vfio.VFIO_DEVICE_FLAGS_RESET if self.model.resettable else 0)
        regions = vfio.VFIO_PCI_NUM_REGIONS
        while regions in self.model.regions:
            regions += 1
        info = struct.pack("<IIIIII", argsz, flags, regions, vfio.VFIO_PCI_NUM_IRQS, 0, 0)
        if self._machine.version >= (6, 6):
            user.write(info[: min(argsz, len(info))])
        else:
            user.write(info[: 20 if argsz >= 20 else 16])
        return 0

    def _region_info(self, user: UserMemory) -> int:
        info = user.struct(vfio.vfio_region_info, 32)
        regions = self.model.regions
        if info.argsz < 32 or (info.index >= _VGA and info.index not in regions):
            raise fail(errno.EINVAL)
        region = regions.get(info.index, SimRegion(0, 0))
        if info.index == _CONFIG:
            region = SimRegion(len(self.config), _CONFIG_FLAGS)
        chain = self._region_capabilities(info.index, region)
        # Without capabilities cap_offset stays as it was passed.
        flags, place = region.flags, info.cap_offset
        argsz = info.argsz
        if chain:
            flags |= vfio.VFIO_REGION_INFO_FLAG_CAPS
            if argsz < 32 + len(chain):
                argsz, place = 32 + len(chain), 0
            else:
                place = 32
                user.write(chain, 32)
        user.write(struct.pack("<IIIIQQ", argsz, flags, info.index, place, region.size, info.index << _OFFSET_SHIFT))
        return 0

    def _region_capabilities(self, index: int, region: SimRegion) -> bytes:
        """The chain of capabilities that follows the struct of 32 bytes."""
        bodies: list[tuple[int, bytes]] = []
        if self.model.msix_table and self.model.msix_table[0] == index:
            bodies.append((vfio.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, b""))
        if region.areas is not None:
            areas = b"".join(struct.pack("<QQ", *area) for area in region.areas)
            bodies.append((vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP, struct.pack("<II", len(region.areas), 0) + areas))
        if region.type is not None:
            bodies.append((vfio.VFIO_REGION_INFO_CAP_TYPE, struct.pack("<II", *region.type)))
        chain = b""
        for number, (kind, body) in enumerate(bodies, 1):
            following = 32 + len(chain) + 8 + len(body) if number < len(bodies) else 0
            chain += struct.pack("<HHI", kind, 1, following) + body
        return chain

    def _set_ioeventfd(self, user: UserMemory) -> int:
        argument = user.struct(vfio.vfio_device_ioeventfd, 28)
        width = argument.flags
        index, offset = argument.offset >> _OFFSET_SHIFT, argument.offset & (1 << _OFFSET_SHIFT) - 1
        size = self.model.regions.get(index, SimRegion(0)).size if index < vfio.VFIO_PCI_ROM_REGION_INDEX else 0
        if (
            argument.argsz < 28
            or width not in (1, 2, 4, 8)
            or (width == 8 and (6, 18) <= self._machine.version < (7, 0))
            or argument.fd < -1
            or offset + width > size
            or self._is_msix_table(index, offset)
        ):
            raise fail(errno.EINVAL)
        key = (index, offset, width, argument.data)
        if argument.fd < 0:
            if key not in self._ioeventfds:
                raise fail(errno.ENODEV)
            self._held.drop(self._ioeventfds.pop(key))
            return 0
        if key in self._ioeventfds:
            raise fail(errno.EEXIST)
        if len(self._ioeventfds) >= _MOST_IOEVENTFDS:
            raise fail(errno.ENOSPC)
        self._ioeventfds[key] = self._held.hold(argument.fd)
        return 0

    def _interrupt(self, vector: int, asserted: bool) -> None:
        self.interrupts.raised(vector, asserted)

    def _dma_read(self, iova: int, size: int) -> bytes | None:
        parts = self._translate(iova, size, vfio.VFIO_DMA_MAP_FLAG_READ)
        if parts is None:
            return None
        return b"".join(mapping.pin.read(offset, length) for mapping, offset, length in parts if mapping.pin)

    def _dma_write(self, iova: int, data: bytes) -> bool:
        parts = self._translate(iova, len(data), vfio.VFIO_DMA_MAP_FLAG_WRITE)
        if parts is None:
            return False
        self.features.dma_log.note(iova, len(data))
        done = 0
        for mapping, offset, length in parts:
            if mapping.pin:
                mapping.pin.write(offset, data[done : done + length])
            done += length
        return True

    def _translate(self, iova: int, size: int, flag: int) -> Sequence[Part] | None:
        if not self.config.is_bus_master:
            return None
        parts = self.translate(iova, size, flag)
        if parts is not None and not all(mapping.pin is None or mapping.pin.is_there for mapping, _, _ in parts):
            parts = None
        if parts is None:
            is_write = flag == vfio.VFIO_DMA_MAP_FLAG_WRITE
            self._machine.dma_faults.append(DmaFault(self.address, iova, size, is_write))
        return parts

    def _answers_mapped(self, index: int) -> bool:
        """Whether a program may touch its mapping of a region."""
        is_bar = index <= vfio.VFIO_PCI_ROM_REGION_INDEX
        return not is_bar or (self.config.answers_memory and not self.features.is_asleep)

    def _pieces(self, offset: int, size: int) -> list[tuple[int, int]]:
        """Offset and width of the accesses that a read or write is made of: as wide as alignment and size allow.

        Of 8 bytes where Linux 6.12 makes one, 6.1 makes two of 4. Source: vfio_pci_core_do_io_rw.
        """
        widths = (8, 4, 2, 1) if self._machine.version >= (6, 12) else (4, 2, 1)
        pieces = []
        end = offset + size
        while offset < end:
            width = next(width for width in widths if not offset % width and offset + width <= end)
            pieces.append((offset, width))
            offset += width
        return pieces

    def _is_msix_table(self, index: int, offset: int) -> bool:
        table = self.model.msix_table
        return table is not None and table[0] == index and table[1] <= offset < table[1] + table[2]

    def _locate(self, position: int) -> tuple[int, int, SimRegion]:
        """The index of a region, an offset in it, and the region, which for config space has no size.

        Raises OSError: EINVAL where there is no region, EIO for registers that do not answer.
        """
        index, offset = position >> _OFFSET_SHIFT, position & (1 << _OFFSET_SHIFT) - 1
        region = self.model.regions.get(index)
        if index == _CONFIG:
            return index, offset, SimRegion(0)
        if region is None or offset >= region.size:
            raise fail(errno.EINVAL)
        if index <= vfio.VFIO_PCI_ROM_REGION_INDEX and not self.config.answers_memory:
            raise fail(errno.EIO)
        return index, offset, region


def _whole_pages(size: int) -> int:
    return -(-size // 4096) * 4096
