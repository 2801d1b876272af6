"""Device: what VFIO shows of one, its regions, interrupts, reset and config space."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.capabilities import query
from pyvfio.errors import VfioError
from pyvfio.irq import InterruptIndex, Interrupts
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.pci import ConfigSpace
from pyvfio.region import Region
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.group import Group


class DeviceFlags(enum.IntFlag):
    """VFIO_DEVICE_FLAGS_*: whether the device can be reset, and what kind of device it is."""

    RESET = vfio.VFIO_DEVICE_FLAGS_RESET
    PCI = vfio.VFIO_DEVICE_FLAGS_PCI
    PLATFORM = vfio.VFIO_DEVICE_FLAGS_PLATFORM
    AMBA = vfio.VFIO_DEVICE_FLAGS_AMBA
    CCW = vfio.VFIO_DEVICE_FLAGS_CCW
    AP = vfio.VFIO_DEVICE_FLAGS_AP
    FSL_MC = vfio.VFIO_DEVICE_FLAGS_FSL_MC
    CAPS = vfio.VFIO_DEVICE_FLAGS_CAPS
    CDX = vfio.VFIO_DEVICE_FLAGS_CDX


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Counts are of indexes: an index may be empty."""

    flags: DeviceFlags
    num_regions: int
    num_irqs: int


class Device(Resource):
    """An open device. Its regions and interrupts are its children.

    A PCI device comes with bus mastering off: no DMA until config.enable_bus_master().
    """

    def __init__(
        self,
        fd: int,
        address: str,
        *,
        kernel: Kernel | None = None,
        group: Group | None = None,
        parent: Resource | None = None,
    ) -> None:
        """Takes over fd, a device's that is ready for use: it is closed with the device, or here when this fails.

        group: the one it was opened through, None for a device of /dev/vfio/devices. parent: whose child the device
        is, its group where nothing else is given; None leaves closing to the caller. address: its name in sysfs.
        """
        self.kernel = group.kernel if group else kernel or LinuxKernel()
        self.group = group
        self.fd = fd
        self.address = address
        self._regions: dict[int, Region] = {}
        self._interrupts: dict[int, Interrupts] = {}
        try:
            info, _ = query(self.kernel, fd, vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info)
            super().__init__(parent or group)
        except BaseException:
            self.kernel.close(fd)
            raise
        self.info = DeviceInfo(DeviceFlags(info.flags), info.num_regions, info.num_irqs)

    def region(self, index: int) -> Region:
        """A region: for PCI 0 to 5 are BARs, 6 the ROM, 7 config space, 8 VGA. The same object every time.

        Raises VfioError if the device has no such region.
        """
        self._check_open()
        with self._lock:
            if index not in self._regions:
                self._regions[index] = Region(self, index)
            return self._regions[index]

    def interrupts(self, index: InterruptIndex | int) -> Interrupts:
        """The interrupts of an index, not enabled yet. The same object every time.

        Raises VfioError if the device has no such index.
        """
        self._check_open()
        with self._lock:
            if index not in self._interrupts:
                self._interrupts[index] = Interrupts(self, int(index))
            return self._interrupts[index]

    @property
    def config(self) -> ConfigSpace:
        """PCI config space. Raises VfioError for a device that is not PCI."""
        if not self.info.flags & DeviceFlags.PCI:
            raise VfioError(errno.EINVAL, f"config space of {self.address}", meaning="it is no PCI device")
        return ConfigSpace(self.region(vfio.VFIO_PCI_CONFIG_REGION_INDEX))

    def reset(self) -> None:
        """Reset the device alone. Afterwards bus mastering and memory decoding are as at open.

        Raises VfioError where the device cannot be reset alone, or something else resets it just now (EAGAIN).
        Source: VFIO_DEVICE_RESET.
        """
        self._check_open()
        try:
            self.kernel.ioctl(self.fd, vfio.VFIO_DEVICE_RESET)
        except OSError as error:
            code = error.errno or errno.EIO
            meaning = "" if self.info.flags & DeviceFlags.RESET else "the device cannot be reset alone"
            raise VfioError(code, f"reset {self.address}", meaning=meaning) from error

    def _release(self) -> None:
        self.kernel.close(self.fd)

    def __repr__(self) -> str:
        return f"<Device {self.address}{' closed' if self._closed else ''}>"
