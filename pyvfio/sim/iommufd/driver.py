"""What iommufd asks of the driver of an IOMMU. Source: include/linux/iommu.h, struct iommu_ops."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommu import ALL_ADDRESSES
from pyvfio.sim.iommufd.command import refuse
from pyvfio.sim.iommufd.io_pagetable import PAGE, Domain
from pyvfio.sim.process.user import S, fail, read_memory

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.device import BoundDevice
    from pyvfio.sim.iommufd.hw_pagetable import PageTable
    from pyvfio.sim.iommufd.nested import NestedTable
    from pyvfio.sim.iommufd.shared_pages import SharedPages
    from pyvfio.sim.iommufd.viommu import HardwareQueue, VirtualDevice, VirtualIommu
    from pyvfio.sim.kernel import SimKernel

# What QEMU's VT-d has in its capability and extended capability registers.
_HARDWARE = {
    "intel": (
        abi.IOMMU_HW_INFO_TYPE_INTEL_VTD,
        bytes(abi.iommu_hw_info_vtd(flags=1, cap_reg=0x00D2_008C_2226_0286, ecap_reg=0xF0_0F4A)),
    )
}


@dataclass(frozen=True, slots=True)
class UserData:
    """A struct of the program's that the driver knows by its kind. Source: struct iommu_user_data."""

    kind: int
    address: int
    size: int

    def read(self, kind: int, layout: type[S], smallest: int) -> S:
        """Raises OSError(EINVAL) for another kind or size, OSError(EFAULT)."""
        if self.kind != kind or not smallest <= self.size <= ctypes.sizeof(layout):
            raise fail(errno.EINVAL)
        return layout.from_buffer_copy(read_memory(self.address, self.size).ljust(ctypes.sizeof(layout), b"\0"))


@dataclass(slots=True)
class Batch:
    """Requests of one kind, entry_len bytes each. done: how many the driver has come through."""

    kind: int
    address: int
    entry_len: int
    entry_num: int
    done: int = 0


class NestedHardware(Protocol):
    """What a driver makes of a nested page table."""

    def invalidate(self, batch: Batch) -> None:
        """Raises OSError as the driver does, with batch.done telling how far it came."""


class QueueHardware(Protocol):
    """What a driver makes of a hardware queue."""

    def start(self, queue: HardwareQueue, index: int) -> None: ...
    def stop(self) -> None: ...


class ViommuHardware(Protocol):
    """What a driver makes of a virtual IOMMU."""

    def start(self, viommu: VirtualIommu, pages: SharedPages, data: UserData | None) -> None:
        """Once, before anything else. pages: of the iommufd, of which it may give the program some."""

    def nested(self, flags: int, data: UserData) -> NestedHardware: ...
    def invalidate(self, devices: Mapping[int, VirtualDevice], batch: Batch) -> None: ...
    def queue(self, kind: int) -> QueueHardware | None:
        """None for a type it has not."""


class IommuDriver(Protocol):
    """Behind one device. Methods raise OSError as the driver does."""

    @property
    def owner(self) -> object:
        """Drivers of one IOMMU have the same."""

    @property
    def translates(self) -> bool:
        """Not for a device without an IOMMU: it takes any page table, and goes through none."""

    @property
    def nests(self) -> bool:
        """Whether it makes nested page tables at all."""

    @property
    def tracks_dirty(self) -> bool: ...
    @property
    def max_pasid_log2(self) -> int: ...

    def hardware(self, wanted: int) -> tuple[int, bytes]:
        """The type of the struct that describes it, and the struct; wanted: which type, 0 for any."""

    def domain(self, flags: int, data: UserData | None) -> Domain:
        """Of a page table of its own; flags: IOMMU_HWPT_ALLOC_*."""

    def nested(self, flags: int, data: UserData) -> NestedHardware: ...
    def virtual(self, kind: int) -> ViommuHardware | None:
        """None for a type it has not."""

    def attach(self, device: BoundDevice, table: PageTable | NestedTable | None) -> None:
        """The device's DMA without a PASID goes through table from now on."""


class _Plain:
    """An IOMMU without a second stage, virtual IOMMUs and PASIDs."""

    nests = False
    max_pasid_log2 = 0

    def nested(self, _flags: int, _data: UserData) -> NestedHardware:
        raise fail(errno.EOPNOTSUPP)

    def virtual(self, _kind: int) -> ViommuHardware | None:
        return None

    def attach(self, device: BoundDevice, table: PageTable | NestedTable | None) -> None:
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
    """The one of a SimKernel."""

    translates = True

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel
        self.owner = kernel
        self.nests = kernel.iommu == "intel"
        self.tracks_dirty = kernel.iommu_tracks_dirty

    def hardware(self, wanted: int) -> tuple[int, bytes]:
        kind, data = _HARDWARE.get(self._kernel.iommu, (abi.IOMMU_HW_INFO_TYPE_NONE, b""))
        refuse(wanted not in (abi.IOMMU_HW_INFO_TYPE_DEFAULT, kind))
        return kind, data

    def domain(self, flags: int, data: UserData | None) -> Domain:
        known = abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
        # Intel's driver minds PASIDs when one is attached.
        known |= abi.IOMMU_HWPT_ALLOC_PASID if self._kernel.iommu == "intel" else 0
        refuse(flags & ~known | (data is not None))
        return Domain(self._kernel.iova_ranges, PAGE, maps_for_nothing=self._kernel.iommu == "virtio")

    def virtual(self, _kind: int) -> ViommuHardware | None:
        if self._kernel.iommu == "amd":
            # AMD's driver takes any type, but there is nothing to nest on.
            raise fail(errno.EINVAL)
        return None

    def attach(self, _device: BoundDevice, table: PageTable | NestedTable | None) -> None:
        # No device here can ask for pages, and Intel's driver minds.
        if table is not None and table.faults is not None and self._kernel.iommu == "intel":
            raise fail(errno.ENODEV)
