"""Device: what VFIO shows of a device, its regions, interrupts, features, reset and config space."""

from __future__ import annotations

import errno
from contextlib import suppress

from pyvfio.abi import vfio
from pyvfio.device.config_space import ConfigRegion, ConfigSpace
from pyvfio.device.display import Display
from pyvfio.device.dma_logging import DmaLogging
from pyvfio.device.features import Features
from pyvfio.device.irq import InterruptIndex, Interrupts
from pyvfio.device.lasting_region import LastingRegion
from pyvfio.device.migration import Migration
from pyvfio.device.open_device import DeviceFlags, DeviceGroup, OpenDevice
from pyvfio.device.part_names import part_index
from pyvfio.device.region import Region, RegionIndex
from pyvfio.device.reset import AffectedDevice, affected_devices, hot_reset
from pyvfio.dma import IovaRange
from pyvfio.errors import ClosedError, VfioError
from pyvfio.kernel import Kernel
from pyvfio.resource import Resource, opened


class Device(OpenDevice):
    """An open device. Its regions and interrupts are its children.

    A PCI device comes with bus mastering off: it does no DMA until config.enable_bus_master().
    features: what the device can do beyond regions and interrupts. kernel, fd, address, group, info: see the
    parameters of the constructor, and DeviceInfo.
    """

    def __init__(
        self,
        fd: int,
        address: str,
        *,
        kernel: Kernel | None = None,
        group: DeviceGroup | None = None,
        parent: Resource | None = None,
    ) -> None:
        """Take over fd, the descriptor of a device that is ready for use: it is closed with the device, or here when
        this fails.

        group: the group that the device was opened through; None for a device of /dev/vfio/devices. parent: the
        resource whose child the device is, its group if none is given; a device with neither is closed by the caller.
        address: the device's name in sysfs. Raises VfioError if fd is no VFIO device, ClosedError if parent is closed.
        """
        self.features = Features(self)
        super().__init__(fd, address, kernel=kernel, group=group, parent=parent)

    def region(self, index: int | str) -> Region:
        """The region with this index, for PCI a RegionIndex, its name ("bar0") or a number beyond: the same object at
        each call, until it is closed; a new one then.

        A BAR or a ROM that a PCI device lacks is a region of 0 bytes. Raises VfioError for an index beyond the last,
        InvalidArgument for a name that no region has, or if the device is not PCI and has no names.
        """
        index = part_index(self, RegionIndex, index)
        if index == RegionIndex.CONFIG and self.info.flags & DeviceFlags.PCI:
            return self.part(ConfigRegion, index)
        return self.part(Region, index)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions that have bytes, by ascending index. Raises VfioError if the kernel does not describe one."""
        found = list[Region]()
        for index in range(self.info.num_regions):
            try:
                found.append(self.region(index))
            except VfioError as error:
                # A function that is no display adapter has the number of VGA's region and not the region.
                is_vga = index == RegionIndex.VGA and self.info.flags & DeviceFlags.PCI
                if not (is_vga and error.errno == errno.EINVAL):
                    raise
        return tuple(region for region in found if region.size)

    def interrupts(self, index: InterruptIndex | int | str) -> Interrupts:
        """The interrupts with this index, or its name ("msix"), not enabled yet: the same object at each call, until it
        is closed; a new one then.

        Raises VfioError if the device has no such index, InvalidArgument for a name that no interrupts have, or if the
        device is not PCI and has no names.
        """
        return self.part(Interrupts, part_index(self, InterruptIndex, index))

    @property
    def config(self) -> ConfigSpace:
        """PCI config space. Raises VfioError for a device that is not PCI."""
        if not self.info.flags & DeviceFlags.PCI:
            raise VfioError(errno.EINVAL, f"config space of {self.address}", meaning="it is no PCI device")
        return ConfigSpace(LastingRegion(self, RegionIndex.CONFIG, ConfigRegion))

    def migration(self) -> Migration:
        """The device's migration states. Raises VfioError (ENOTTY) for a device that cannot be migrated."""
        return Migration(self.features)

    def display(self) -> Display:
        """The screen of a mediated GPU. Raises VfioError (ENOTTY) for a device without a screen."""
        return Display(self)

    def log_dma(self, *ranges: IovaRange, page_size: int = 4096) -> DmaLogging:
        """Have the device note which pages of ranges it writes, until the result is closed.

        page_size: what one bit of the result stands for, in bytes. Raises what DmaLogging raises.
        """
        self.require_open()
        return DmaLogging(self.features, ranges, page_size)

    def reset(self) -> None:
        """Reset the device alone; its interrupts stay enabled. Afterwards bus mastering is as it was before.

        Raises VfioError if the device cannot be reset alone, or if something else resets it at this time (EAGAIN).
        Source: VFIO_DEVICE_RESET.
        """
        self.require_open()
        with self.descriptor.in_use() as fd:
            try:
                self.kernel.ioctl(fd, vfio.VFIO_DEVICE_RESET)
            except OSError as error:
                code = error.errno or errno.EIO
                meaning = advice = ""
                if code == errno.ENODEV:
                    meaning = "the device is gone"
                elif not self.info.flags & DeviceFlags.RESET:
                    meaning, advice = "the device cannot be reset alone", "hot_reset() resets it with all beside it"
                raise VfioError(code, f"reset {self.address}", meaning=meaning, advice=advice) from error
        if self.info.flags & DeviceFlags.PCI:
            self._config_region().look_at_decoding()

    def affected_by_hot_reset(self) -> tuple[AffectedDevice, ...]:
        """Every function that hot_reset() resets, this one among them.

        Raises VfioError (ENODEV) if neither the slot nor the bus can be reset.
        """
        self.require_open()
        return affected_devices(self)

    def hot_reset(self) -> None:
        """Reset the slot or bus that the device is on, with everything on it.

        Everything that is reset must be held here: opened through groups of the same container, or through the same
        iommufd. Raises VfioError (EPERM) that names the functions that are not. Source: VFIO_DEVICE_PCI_HOT_RESET.
        """
        self.require_open()
        for affected in hot_reset(self):
            # Whoever else has one of them open here, it may answer again, or not any more.
            device = self if affected.address == self.address else opened(Device, affected.is_of)
            if device is not None:
                with suppress(ClosedError):
                    device._config_region().look_at_decoding()

    def _config_region(self) -> ConfigRegion:
        return self.part(ConfigRegion, RegionIndex.CONFIG)

    def _release(self) -> None:
        try:
            self.features.release()
        finally:
            super()._release()
