"""What iommufd asks of the driver of an IOMMU. Source: include/linux/iommu.h, struct iommu_ops."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommu import ALL_ADDRESSES
from pyvfio.sim.iommufd.command import refuse
from pyvfio.sim.iommufd.io_pagetable import Domain
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.shared_pages import SharedPages
from pyvfio.sim.machine import Machine
from pyvfio.sim.mm import PAGE
from pyvfio.sim.process import S, fail, read_memory

# What QEMU's VT-d has in its capability and extended capability registers.
_HARDWARE = {
    "intel": (
        abi.IOMMU_HW_INFO_TYPE_INTEL_VTD,
        bytes(abi.iommu_hw_info_vtd(flags=1, cap_reg=0x00D2_008C_2226_0286, ecap_reg=0xF0_0F4A)),
    )
}


@dataclass(frozen=True, slots=True)
class UserData:
    """A struct of size bytes at an address of the program's. kind: which one. Source: struct iommu_user_data."""

    kind: int
    address: int
    size: int

    def read(self, kind: int, layout: type[S], smallest: int) -> S:
        """The struct, whose missing end is zero. Raises OSError: EINVAL for another kind or size, EFAULT."""
        if self.kind != kind or not smallest <= self.size <= ctypes.sizeof(layout):
            raise fail(errno.EINVAL)
        return layout.from_buffer_copy(read_memory(self.address, self.size).ljust(ctypes.sizeof(layout), b"\0"))


@dataclass(slots=True)
class Batch:
    """entry_num requests of one kind, entry_len bytes each. done: how many the driver has carried out."""

    kind: int
    address: int
    entry_len: int
    entry_num: int
    done: int = 0


class NestedHardware(Protocol):
    """What a driver makes of a nested page table."""

    def invalidate(self, batch: Batch) -> None:
        """Carry the requests out. Raises OSError as the driver does; batch.done tells how far it came."""


class QueueHardware(Protocol):
    """What a driver makes of a hardware queue."""

    def start(self, queue: IommufdObject, index: int) -> None:
        """Called once. queue: what others hold that need this queue. Raises OSError as the driver does."""

    def stop(self) -> None:
        """The queue is destroyed."""


class ViommuHardware(Protocol):
    """What a driver makes of a virtual IOMMU."""

    def start(self, viommu: IommufdObject, pages: SharedPages, data: UserData | None) -> None:
        """Called once, before anything else. pages: of the iommufd; those that viommu owns the program may map."""

    def nested(self, flags: int, data: UserData) -> NestedHardware:
        """A nested page table behind it. flags: IOMMU_HWPT_ALLOC_*."""

    def invalidate(self, devices: Mapping[int, IommuDriver], batch: Batch) -> None:
        """Carry requests out. devices: the drivers of its devices, by virtual id. Raises OSError as the driver does."""

    def queue(self, kind: int) -> QueueHardware | None:
        """None for a type that it does not have."""


@dataclass(frozen=True, slots=True)
class VirtualId:
    """What a device is called by a guest's IOMMU. hardware: what the driver made of that IOMMU."""

    hardware: ViommuHardware
    id: int


class Table(Protocol):
    """What a driver sees of a page table that a device is attached to."""

    @property
    def faults(self) -> object | None:
        """Where its page faults go, None for nowhere."""

    @property
    def tracks_dirty(self) -> bool: ...
    @property
    def hardware(self) -> NestedHardware | None:
        """What a driver made of a nested one; None for one that is not."""


class IommuDriver(Protocol):
    """The driver of the IOMMU, as one device sees it. Methods raise OSError as the driver does."""

    @property
    def owner(self) -> object:
        """The IOMMU: the same object for all devices behind it."""

    @property
    def translates(self) -> bool:
        """False for a device without an IOMMU, which takes any page table and goes through none."""

    @property
    def nests(self) -> bool:
        """Whether it makes nested page tables at all."""

    @property
    def tracks_dirty(self) -> bool:
        """Whether it can note which pages devices write."""

    @property
    def max_pasid_log2(self) -> int:
        """How many bits a PASID has; 0: the device has none."""

    def hardware(self, wanted: int) -> tuple[int, bytes]:
        """The type of the struct that describes it, and the struct; wanted: which type, 0 for any."""

    def domain(self, flags: int, data: UserData | None) -> Domain:
        """What it translates for a new page table. flags: IOMMU_HWPT_ALLOC_*."""

    def nested(self, flags: int, data: UserData) -> NestedHardware:
        """A nested page table. flags: IOMMU_HWPT_ALLOC_*."""

    def virtual(self, kind: int) -> ViommuHardware | None:
        """A virtual IOMMU; None for a type that it does not have."""

    def attach(self, table: Table | None, virtual: VirtualId | None) -> None:
        """The device's DMA without a PASID goes through table from now on. virtual: what a guest calls the device."""


class _Plain:
    """An IOMMU without a second stage, virtual IOMMUs and PASIDs."""

    nests = False
    max_pasid_log2 = 0

    def nested(self, _flags: int, _data: UserData) -> NestedHardware:
        raise fail(errno.EOPNOTSUPP)

    def virtual(self, _kind: int) -> ViommuHardware | None:
        return None

    def attach(self, table: Table | None, virtual: VirtualId | None) -> None:
        """Any device of the machine takes any page table of it."""


class NoIommuDriver(_Plain):
    """Behind devices without an IOMMU: page tables that translate nothing. Source: hwpt_noiommu.c."""

    owner: object = "noiommu"
    translates = False
    tracks_dirty = False

    def hardware(self, _wanted: int) -> tuple[int, bytes]:
        raise fail(errno.EOPNOTSUPP)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        refuse(flags | (data is not None))
        return Domain((ALL_ADDRESSES,), PAGE, tells_physical=True)


class MachineIommu(_Plain):
    """The IOMMU of the machine."""

    translates = True

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.owner = machine
        self.nests = machine.iommu == "intel"
        self.tracks_dirty = machine.iommu_tracks_dirty

    def hardware(self, wanted: int) -> tuple[int, bytes]:
        kind, data = _HARDWARE.get(self._machine.iommu, (abi.IOMMU_HW_INFO_TYPE_NONE, b""))
        refuse(wanted not in (abi.IOMMU_HW_INFO_TYPE_DEFAULT, kind))
        return kind, data

    def domain(self, flags: int, data: UserData | None) -> Domain:
        known = abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
        # Intel's driver minds PASIDs when one is attached.
        known |= abi.IOMMU_HWPT_ALLOC_PASID if self._machine.iommu == "intel" else 0
        refuse(flags & ~known | (data is not None))
        return Domain(self._machine.iova_ranges, PAGE, maps_for_nothing=self._machine.iommu == "virtio")

    def virtual(self, _kind: int) -> ViommuHardware | None:
        if self._machine.iommu == "amd":
            # AMD's driver takes any type, but there is nothing to nest on.
            raise fail(errno.EINVAL)
        return None

    def attach(self, table: Table | None, virtual: VirtualId | None) -> None:
        del virtual
        # No device here can ask for pages, and Intel's driver minds.
        if table is not None and table.faults is not None and self._machine.iommu == "intel":
            raise fail(errno.ENODEV)
