"""IommufdDevice: a device bound to an iommufd, whichever way it was opened, and what its DMA goes through."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from pyvfio.abi import iommufd as abi
from pyvfio.errors import InvalidArgument
from pyvfio.explain import Meanings
from pyvfio.iommufd.hw_info import HardwareInfo, hardware_info
from pyvfio.iommufd.iommufd import Iommufd, explain_iommufd
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.iommufd.ioas import Ioas
    from pyvfio.iommufd.nested_page_table import NestedPageTable
    from pyvfio.iommufd.page_table import HwPageTable

    Translation: TypeAlias = Ioas | HwPageTable | NestedPageTable


_LAST_PASID = (1 << 20) - 1
"""Of PCI Express."""


class IommufdDevice(Resource, ABC):
    """A device that is bound to an iommufd: page tables are made for one, and one is attached to them.

    id: its number in the iommufd. address: what to call it, a PCI device's address. A subclass makes the calls.
    """

    iommufd: Iommufd
    id: int
    address: str

    def _bound(self, iommufd: Iommufd, device_id: int) -> None:
        """Called once, before anything else here."""
        self.iommufd = iommufd
        self.id = device_id
        self._translations: dict[int | None, Translation] = {}

    @property
    def attached(self) -> Translation | None:
        """What the device's DMA goes through; None for nothing: then the IOMMU, if there is one, stops all of it."""
        return self._translations.get(None)

    @property
    def pasids(self) -> Mapping[int, Translation]:
        """The same for each process address space id that is attached."""
        return MappingProxyType({pasid: place for pasid, place in self._translations.items() if pasid is not None})

    def hardware_info(self, kind: int = abi.IOMMU_HW_INFO_TYPE_DEFAULT) -> HardwareInfo:
        """What the IOMMU behind the device can do.

        kind: IOMMU_HW_INFO_TYPE_*, of an IOMMU that several structs describe; without, the one it chooses.
        Raises VfioError (EOPNOTSUPP) if there is no such struct, or no IOMMU. Source: IOMMU_GET_HW_INFO.
        """
        self._check_open()
        return hardware_info(self.iommufd, self.id, kind)

    def attach(self, target: Translation, *, pasid: int | None = None) -> None:
        """Let the device's DMA go through target; at once instead of what it went through before, if anything.

        pasid: only the DMA that carries this process address space id; the page tables of a device with any are made
        with pasid=True. What target maps already is pinned now, if it was not. A failure leaves the device where it
        was. Raises InvalidArgument, VfioError. Source: VFIO_DEVICE_ATTACH_IOMMUFD_PT; drivers/iommu/iommufd/device.c.
        """
        self._check_open()
        target._check_open()
        operation, arguments = f"attach {self.address} to {target.name}", {} if pasid is None else {"pasid": pasid}
        if pasid is not None and not 0 < pasid <= _LAST_PASID:
            raise InvalidArgument(errno.EINVAL, operation, arguments, f"a PASID is from 1 to {_LAST_PASID:#x}")
        with self._lock:
            try:
                self._attach_ioctl(target.id, pasid)
            except OSError as error:
                meanings = _ATTACH if pasid is None else _ATTACH_PASID
                raise explain_iommufd(error, operation, arguments, meanings) from error
            self._moved(pasid, target)

    def detach(self, *, pasid: int | None = None) -> None:
        """Stop the device's DMA: it goes nowhere until it is attached again. Detaching twice is harmless.

        Without an IOMMU it stops nothing: the device must have been stopped before, for the memory is no longer pinned
        when the last device is detached. pasid: only the DMA that carries it. Source: VFIO_DEVICE_DETACH_IOMMUFD_PT.
        """
        self._check_open()
        with self._lock:
            if pasid not in self._translations:
                return
            try:
                self._detach_ioctl(pasid)
            except OSError as error:
                raise explain_iommufd(error, f"detach {self.address}") from error
            self._moved(pasid, None)

    @abstractmethod
    def _attach_ioctl(self, target_id: int, pasid: int | None) -> None:
        """Raises OSError as the kernel does."""

    @abstractmethod
    def _detach_ioctl(self, pasid: int | None) -> None:
        """Raises OSError as the kernel does."""

    def _leave(self, target: Translation) -> None:
        """Target is about to be closed."""
        for pasid, place in sorted(self._translations.items(), key=lambda item: item[0] is None):
            if place is target:
                self.detach(pasid=pasid)

    def _moved(self, pasid: int | None, target: Translation | None) -> None:
        places = [self._translations.pop(pasid, None), target]
        if target is not None:
            self._translations[pasid] = target
        for place in places:
            if place is not None:
                place._devices_changed(self)

    def _gone(self) -> None:
        """The device is closed: the kernel has detached it."""
        for pasid in list(self._translations):
            self._moved(pasid, None)


_ATTACH: Meanings = {
    errno.EADDRINUSE: (
        "its IOMMU reserves addresses that are mapped already, or wants larger units than are",
        "Unmap what lies outside the ranges of a device attached alone; or attach first, then map",
    ),
    errno.EFAULT: (
        "some of what is mapped cannot be pinned for it: no page is there and none to be had",
        "Populate mapped memory before the first device is attached",
    ),
    errno.ENOMEM: (
        "pinning what is mapped exceeds RLIMIT_MEMLOCK or the memory there is",
        "Unmap some, or raise the limit: ulimit -l, LimitMEMLOCK= or prlimit --memlock",
    ),
    errno.EINVAL: (
        "another device of its IOMMU group is attached elsewhere, or the page table is of another kind of IOMMU",
        "Devices of one group go to one address space",
    ),
    errno.EBUSY: (
        "its IOMMU group is in use by something else",
        "Every device of a group must be bound to a VFIO driver or to none",
    ),
    errno.ENODEV: (
        "the device is gone, or cannot fault, as its page table wants it to",
        "Page tables with faults are for devices with page requests (PRI)",
    ),
    errno.ENOENT: (
        "the page table is of a virtual IOMMU, in which the device is not",
        "Viommu.device() first",
    ),
}
_ATTACH_PASID: Meanings = {
    **_ATTACH,
    errno.EINVAL: (
        "the device has no such PASID, or a page table it uses takes none",
        "hardware_info().max_pasid_log2 tells how many there are; make page tables with pasid=True",
    ),
    errno.EOPNOTSUPP: ("the device, its driver or its IOMMU has no PASIDs", "See hardware_info().max_pasid_log2"),
}
