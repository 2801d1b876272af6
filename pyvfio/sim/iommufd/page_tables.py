"""Page tables of iommufd: over an address space, and nested ones. Source: drivers/iommu/iommufd/hw_pagetable.c."""

from __future__ import annotations

from pyvfio.abi import iommufd as abi
from pyvfio.sim.iommufd.driver import Batch, IommuDriver, NestedHardware, UserData
from pyvfio.sim.iommufd.eventq import FaultQueueState
from pyvfio.sim.iommufd.io_pagetable import WRITE, Area, IoasState
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.mm import PAGE


class PageTable(IommufdObject):
    """A page table of an address space. driver: of the IOMMU that it is for.

    automatic: an attachment made it, and it goes with the last one. tracking: the IOMMU notes which pages devices
    write. faults: where its page faults go, None for nowhere.
    """

    hardware = None
    """No driver makes anything more of it."""

    def __init__(self, ioas: IoasState, driver: IommuDriver, flags: int, data: UserData | None) -> None:
        """flags: IOMMU_HWPT_ALLOC_*. Raises OSError as the driver does, and as IoasState.add_domain()."""
        super().__init__()
        self.ioas = ioas
        self.driver = driver
        self.automatic = False
        self.is_nest_parent = bool(flags & abi.IOMMU_HWPT_ALLOC_NEST_PARENT)
        self.tracks_dirty = bool(flags & abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        self.takes_pasids = bool(flags & abi.IOMMU_HWPT_ALLOC_PASID)
        self.tracking = False
        self.faults: FaultQueueState | None = None
        self.domain = driver.domain(flags, data)
        ioas.add_domain(self.domain)
        ioas.users += 1

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[Area, int, int]] | None:
        """As IoasState.translate(), for a transfer of a device, which is noted while dirty pages are tracked."""
        parts = self.ioas.translate(iova, size, flag)
        if parts is not None and self.tracking and flag & WRITE:
            self.domain.dirty.update(range(iova // PAGE, (iova + size - 1) // PAGE + 1))
        return parts

    def destroy(self) -> None:
        self.ioas.remove_domain(self.domain)
        self.ioas.users -= 1
        if self.faults is not None:
            self.faults.users -= 1


class NestedTable(IommufdObject):
    """A page table whose first stage is the program's own. hardware: what the driver made of it.

    parent: the page table below it, or the virtual IOMMU that has one. flags: IOMMU_HWPT_ALLOC_*. faults: where its
    page faults go, None for nowhere.
    """

    automatic = False
    tracks_dirty = False

    def __init__(self, parent: IommufdObject, driver: IommuDriver, hardware: NestedHardware, flags: int) -> None:
        super().__init__()
        self.driver = driver
        self.hardware = hardware
        self.takes_pasids = bool(flags & abi.IOMMU_HWPT_ALLOC_PASID)
        self.faults: FaultQueueState | None = None
        self._parent = parent
        parent.users += 1

    def invalidate(self, batch: Batch) -> None:
        """Carry out requests of the program. Raises OSError as the driver does."""
        self.hardware.invalidate(batch)

    def destroy(self) -> None:
        self._parent.users -= 1
        if self.faults is not None:
            self.faults.users -= 1
