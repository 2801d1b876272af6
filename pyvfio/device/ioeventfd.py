"""IoEventFd: a register write that the kernel makes when an eventfd is signalled."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import EventFd
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.device.region import Region

_WIDTHS = {
    1: vfio.VFIO_DEVICE_IOEVENTFD_8,
    2: vfio.VFIO_DEVICE_IOEVENTFD_16,
    4: vfio.VFIO_DEVICE_IOEVENTFD_32,
    8: vfio.VFIO_DEVICE_IOEVENTFD_64,
}
_REMOVE = -1


class IoEventFd(Resource):
    """Each signal of event writes value, of width bytes, at offset of the region: a doorbell KVM can ring by itself.

    BARs only, outside the MSI-X table, and at most 1000 for a device. 8 bytes where the processor can write them at
    once.
    close takes it off. Source: VFIO_DEVICE_IOEVENTFD; drivers/vfio/pci/vfio_pci_rdwr.c, vfio_pci_ioeventfd.
    """

    def __init__(self, region: Region, offset: int, width: int, value: int) -> None:
        """Raises InvalidArgument, or VfioError: EEXIST for a write that has one already, ENOSPC for one too many."""
        self.kernel = region.kernel
        self.region = region
        self.offset = offset
        self.width = width
        self.value = value
        if width not in _WIDTHS or not 0 <= value < 1 << 8 * width:
            raise InvalidArgument(
                errno.EINVAL, self._operation, self._arguments, "widths are 1, 2, 4 and 8 bytes, and value must fit"
            )
        self.event = EventFd(self.kernel, f"ioeventfd at {offset:#x} of region {region.info.index}")
        try:
            self._set(self.event.fileno())
            try:
                super().__init__(region)
            except BaseException:
                self._set(_REMOVE)
                raise
        except BaseException:
            self.event.close()
            raise

    def signal(self) -> None:
        self.event.signal()

    def _set(self, fd: int) -> None:
        argument = vfio.vfio_device_ioeventfd(
            flags=_WIDTHS[self.width], offset=self.region.info.offset + self.offset, data=self.value, fd=fd
        )
        try:
            self.kernel.ioctl(self.region.device.fd, vfio.VFIO_DEVICE_IOEVENTFD, argument)
        except OSError as error:
            meaning = {
                errno.EEXIST: "this write has an ioeventfd already",
                errno.ENOSPC: "the device has as many ioeventfds as the kernel allows",
                errno.EINVAL: "the device takes none there: not a BAR, in the MSI-X table, or too wide",
                errno.ENOTTY: "the device's VFIO driver has no ioeventfds",
            }.get(error.errno or 0, "")
            raise VfioError(error.errno or errno.EIO, self._operation, self._arguments, meaning) from error

    @property
    def _operation(self) -> str:
        return f"ioeventfd of region {self.region.info.index} of {self.region.device.address}"

    @property
    def _arguments(self) -> dict[str, int]:
        return {"offset": self.offset, "width": self.width, "value": self.value}

    def _release(self) -> None:
        try:
            if not self._inherited:
                self._set(_REMOVE)
        finally:
            self.event.close()

    def __repr__(self) -> str:
        return f"<IoEventFd at {self.offset:#x} of region {self.region.info.index} of {self.region.device.address}>"
