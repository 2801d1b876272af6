"""IommufdDevice: a device bound to an iommufd, whichever way it was opened, and what its DMA goes through."""

from __future__ import annotations

import errno
from abc import abstractmethod
from collections.abc import Mapping

from pyvfio.abi import iommufd as abi
from pyvfio.errors import InvalidArgument
from pyvfio.explain import Meanings, is_refusal
from pyvfio.iommufd.hw_info import HardwareInfo, hardware_info
from pyvfio.iommufd.iommufd import explain_iommufd
from pyvfio.iommufd.object import IommufdObject, Translation
from pyvfio.resource import require_kind

_LAST_PASID = (1 << 20) - 1
"""The largest PASID of PCI Express."""


class IommufdDevice(IommufdObject):
    """A device that is bound to an iommufd. Page tables are made for a device, and devices are attached to them.

    id: the device's number in the iommufd. address: what messages call it, the PCI address of a PCI device. A subclass
    makes the calls to attach and to detach it.
    """

    address: str

    @property
    def name(self) -> str:
        """What messages call it: the address."""
        return self.address

    @property
    def attached(self) -> Translation | None:
        """What the device's DMA goes through; None if it goes nowhere: an IOMMU, if there is one, stops it then."""
        return self.iommufd.attachments.target(self)

    @property
    def pasids(self) -> Mapping[int, Translation]:
        """What DMA with a PASID (process address space id) goes through, by PASID, for those that are attached."""
        return self.iommufd.attachments.pasids(self)

    def hardware_info(self, kind: int = abi.IOMMU_HW_INFO_TYPE_DEFAULT) -> HardwareInfo:
        """What the IOMMU behind the device can do.

        kind: an IOMMU_HW_INFO_TYPE_*, for an IOMMU that several structs describe; by default the IOMMU chooses one.
        Raises VfioError: EOPNOTSUPP if there is no struct of that kind, or no IOMMU. Source: IOMMU_GET_HW_INFO.
        """
        self.require_open()
        return hardware_info(self.iommufd, self.id, kind)

    def attach(self, target: Translation, *, pasid: int | None = None) -> None:
        """Let the device's DMA go through target from now on, in place of what it went through before.

        pasid: attach only the DMA that carries this process address space id. Page tables for a device with PASIDs
        are made with pasid=True. What target maps is pinned now if it was not pinned before. A failure leaves the
        device attached as it was. Raises ClosedError, InvalidArgument for a target of another iommufd or a number that
        is no PASID, and VfioError.
        Source: VFIO_DEVICE_ATTACH_IOMMUFD_PT; drivers/iommu/iommufd/device.c.
        """
        self.require_open()
        require_kind(target, Translation, f"attach {self.address}")
        target.require_open()
        operation, arguments = f"attach {self.address} to {target.name}", {} if pasid is None else {"pasid": pasid}
        if target.iommufd is not self.iommufd:
            meaning = "it belongs to another iommufd than the device, where its number may be another object's"
            raise InvalidArgument(errno.EINVAL, operation, arguments, meaning, "Open both with one Iommufd")
        if pasid is not None and not 0 < pasid <= _LAST_PASID:
            raise InvalidArgument(errno.EINVAL, operation, arguments, f"a PASID is from 1 to {_LAST_PASID:#x}")
        # The record of attachments is the iommufd's.
        with self._upper_lock:
            self.require_open()
            target.require_open()
            before = self.iommufd.attachments.target(self, pasid)
            try:
                self.iommufd.attachments.enter(self, pasid, target)
                self._attach_ioctl(target.id, pasid, replaces=before is not None)
            except BaseException as error:
                if is_refusal(error):
                    self.iommufd.attachments.restore(self, pasid, before)
                    meanings = {**(_ATTACH if pasid is None else _ATTACH_PASID)}
                    if not target.may_hold_mappings:
                        del meanings[errno.ENOMEM]
                        meanings[errno.EADDRINUSE] = _RESERVES_ALLOWED
                    raise explain_iommufd(error, operation, arguments, meanings) from error
                self._back(pasid, before, error)
                raise

    def _back(self, pasid: int | None, before: Translation | None, error: BaseException) -> None:
        """Undo an attach() that error has broken off, before the kernel's answer or after it."""
        try:
            if before is None:
                self._detach_ioctl(pasid)
            else:
                self._attach_ioctl(before.id, pasid, replaces=True)
        except OSError as failure:
            error.add_note(f"Taking {self.address} back failed too, it may stay attached: {failure}")
        else:
            self.iommufd.attachments.restore(self, pasid, before)

    def detach(self, *, pasid: int | None = None) -> None:
        """Stop the device's DMA until it is attached again. Detaching a device that is not attached does nothing.

        pasid: stop only the DMA that carries this process address space id. Without an IOMMU nothing stops the DMA of
        the device: stop the device itself first, because memory is no longer pinned once the last device is detached.
        Raises VfioError. Source: VFIO_DEVICE_DETACH_IOMMUFD_PT.
        """
        with self._upper_lock:
            self.require_open()
            if self.iommufd.attachments.target(self, pasid) is None:
                return
            try:
                self._detach_ioctl(pasid)
            except OSError as error:
                raise explain_iommufd(error, f"detach {self.address}") from error
            self.iommufd.attachments.remove(self, pasid)

    @abstractmethod
    def _attach_ioctl(self, target_id: int, pasid: int | None, *, replaces: bool) -> None:
        """Ask the kernel to attach the device to the object with this number. Raises OSError as the kernel does.

        replaces: whether this DMA of the device goes through another one until then.
        """

    @abstractmethod
    def _detach_ioctl(self, pasid: int | None) -> None:
        """Ask the kernel to detach the device. Raises OSError as the kernel does."""


_RESERVES_ALLOWED = (
    "its IOMMU reserves addresses that allow_iovas() has set aside, or wants other units",
    "Allow only addresses inside the ranges of a device attached alone",
)
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
