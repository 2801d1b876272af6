"""IoEventFd: a register write that the kernel makes each time an eventfd is signalled."""

from __future__ import annotations

import errno

from pyvfio.abi import vfio
from pyvfio.device.open_device import DevicePart
from pyvfio.device.region_info import RegionInfo
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import EventFd
from pyvfio.resource import Resource

_WIDTHS = {
    1: vfio.VFIO_DEVICE_IOEVENTFD_8,
    2: vfio.VFIO_DEVICE_IOEVENTFD_16,
    4: vfio.VFIO_DEVICE_IOEVENTFD_32,
    8: vfio.VFIO_DEVICE_IOEVENTFD_64,
}
_REMOVE = -1


class IoEventFd(Resource):
    """Each signal of event makes the kernel write value at offset of a region, until close(). KVM can signal it by
    itself: a guest rings a doorbell without the program.

    It works on BARs, outside the MSI-X table; a device can have 1000. device: the device. region: what VFIO says of the
    region. offset: bytes from the region's start. width: bytes, 1, 2, 4, or 8 where the processor writes 8 at once.
    event: the eventfd, which this object owns.
    Source: VFIO_DEVICE_IOEVENTFD; drivers/vfio/pci/vfio_pci_rdwr.c, vfio_pci_ioeventfd.
    """

    def __init__(self, parent: DevicePart, region: RegionInfo, offset: int, width: int, value: int) -> None:
        """parent: the open region that region describes, whose child this is.

        Raises InvalidArgument for a width or a value that cannot be, ClosedError, and VfioError: EEXIST for a write
        that has an ioeventfd already, ENOSPC if the device has as many as it can have.
        """
        self.kernel = parent.kernel
        self.device = parent.device
        self.region = region
        self.offset = offset
        self.width = width
        self.value = value
        if width not in _WIDTHS or not 0 <= value < 1 << 8 * width:
            raise InvalidArgument(
                errno.EINVAL, self._operation, self._arguments, "widths are 1, 2, 4 and 8 bytes, and value must fit"
            )
        self.event = EventFd(self.kernel, f"ioeventfd at {offset:#x} of region {region.index}", is_owned=True)
        try:
            self._set(self.event.fileno())
            try:
                super().__init__(parent)
            except BaseException:
                self._set(_REMOVE)
                raise
        except BaseException:
            self.event.close()
            raise

    def signal(self) -> None:
        """Have the kernel make the write. Raises ClosedError."""
        self.event.signal()

    def _set(self, fd: int) -> None:
        argument = vfio.vfio_device_ioeventfd(
            flags=_WIDTHS[self.width], offset=self.region.offset + self.offset, data=self.value, fd=fd
        )
        with self.device.descriptor.in_use() as device:
            try:
                self.kernel.ioctl(device, vfio.VFIO_DEVICE_IOEVENTFD, argument)
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
        return f"ioeventfd of region {self.region.index} of {self.device.address}"

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
        return f"<IoEventFd at {self.offset:#x} of region {self.region.index} of {self.device.address}>"
