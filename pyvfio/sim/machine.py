"""The machine: what its hardware and its kernel are, whichever process asks."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pyvfio.kernel import LinuxKernel
from pyvfio.lifetime import lock_of
from pyvfio.sim.devices import PciFunction
from pyvfio.sim.dma_owners import DmaOwners
from pyvfio.sim.iommu import Span, Version, iommu_model
from pyvfio.sim.mm import PageTracker
from pyvfio.sim.sysfs import Sysfs


@dataclass(frozen=True, slots=True)
class DmaFault:
    """A transfer that the IOMMU stopped. device: PCI address; size: bytes; write: the device wrote."""

    device: str
    iova: int
    size: int
    write: bool


@dataclass(frozen=True, slots=True)
class IommuGroup:
    """The functions that the IOMMU cannot tell apart. Source: drivers/iommu/iommu.c, struct iommu_group."""

    sysfs: Sysfs
    number: int

    @property
    def is_mediated(self) -> bool:
        """Whether its devices have no IOMMU, and their driver pins memory only when it needs it."""
        return all(member.is_mediated for member in self.sysfs.members(self.number))

    @property
    def is_noiommu(self) -> bool:
        """Whether its devices have no IOMMU, and reach physical addresses."""
        return self.sysfs.is_noiommu(self.number)

    @property
    def is_viable(self) -> bool:
        """Whether no host driver keeps it from being used."""
        return self.sysfs.viable(self.number)

    @property
    def is_claimed_by_firmware(self) -> bool:
        """Whether firmware wants memory mapped one to one for a device of the group, so that nobody may have it."""
        return self.sysfs.is_claimed_by_firmware(self.number)

    @property
    def reserved(self) -> tuple[Span, ...]:
        """Device addresses that its members do not let be mapped."""
        return tuple(span for member in self.sysfs.members(self.number) for span in member.reserved)


class Machine:
    """The hardware and the kernel of one machine; its processes are SimKernels, which also say what the options mean.

    real: the running kernel, which does all that is not VFIO's. functions: by PCI address. pages: memory, and what of
    it is pinned. has_iommufd: there is /dev/iommu. dma_owners: who has which group. dma_faults: transfers that the
    IOMMU stopped, the oldest first.
    """

    def __init__(
        self,
        real: LinuxKernel,
        *,
        version: Version,
        iommu: str,
        iova_ranges: Sequence[Span] | None,
        remaps_interrupts: bool | None,
        dma_entry_limit: int,
        populate_on_pin: bool,
        iommufd: bool,
        iommu_tracks_dirty: bool,
        iommufd_test: bool,
    ) -> None:
        self.real = real
        self._made_by = os.getpid()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.version = version
        self.iommu = iommu
        self.iommu_model = iommu_model(iommu, version)
        self.iova_ranges = tuple(iova_ranges or self.iommu_model.usable)
        self.remaps_interrupts = self.iommu_model.remaps_interrupts if remaps_interrupts is None else remaps_interrupts
        self.iommu_tracks_dirty = iommu_tracks_dirty
        self.has_iommufd = iommufd and version >= (6, 2)
        self.iommufd_test = iommufd_test
        self.functions: dict[str, PciFunction] = {}
        self.sysfs = Sysfs(
            self.functions,
            dma_entry_limit,
            cdev=self.has_iommufd and version >= (6, 6),
            noiommu_cdev=self.has_iommufd and version >= (7, 3),
            iommu=iommu != "none",
            iommu_unit=self.iommu_model.unit,
            # Seen on 6.12, and no more on 6.18.
            groups_at_bind=iommu == "virtio" and version < (6, 15),
            reserved_regions=self.iommu_model.reserved_regions,
        )
        self.pages = PageTracker(real, populate_on_pin=populate_on_pin)
        self.dma_owners = DmaOwners(self.functions, self.sysfs, lambda: self.version >= (6, 6))
        self.dma_faults: list[DmaFault] = []

    @property
    def lock(self) -> threading.RLock:
        """Held for each call of any process."""
        # What a thread was about to do when this process forked, its copy here never does.
        return lock_of(self._made_by, self._lock)

    @property
    def changed(self) -> threading.Condition:
        """Tells whoever waits in a call that a device was closed. In a forked child nobody does."""
        lock = self.lock
        return self._changed if lock is self._lock else threading.Condition(lock)

    @property
    def page_sizes(self) -> int:
        """A bit for each page size of the IOMMU."""
        return self.iommu_model.page_sizes

    @property
    def dma_entry_limit(self) -> int:
        """How many mappings a new container may have."""
        return int(self.sysfs.parameters["dma_entry_limit"])

    def add(self, function: PciFunction) -> None:
        """Put a function into the machine."""
        self.functions[function.address] = function
        self.sysfs.note_driver(function)

    def lacks_iommu(self, address: str) -> bool:
        """Whether the DMA of the function at an address goes to physical addresses."""
        return self.sysfs.lacks_iommu(self.functions[address])

    def iommu_group(self, number: int) -> IommuGroup:
        return IommuGroup(self.sysfs, number)
