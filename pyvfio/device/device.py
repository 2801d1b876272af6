"""Device: what VFIO shows of one, its regions, interrupts, features, reset and config space."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio.abi import vfio
from pyvfio.device.config_space import ConfigSpace, PciCommand
from pyvfio.device.display import Display
from pyvfio.device.dma_logging import DmaLogging
from pyvfio.device.features import Features
from pyvfio.device.irq import InterruptIndex, Interrupts
from pyvfio.device.migration import Migration
from pyvfio.device.pci_capabilities import PowerManagement
from pyvfio.device.region import Region, RegionIndex
from pyvfio.device.reset import AffectedDevice, affected_devices, hot_reset
from pyvfio.dma import IovaRange
from pyvfio.errors import VfioError
from pyvfio.kernel import Capability, Kernel, LinuxKernel, chain, query
from pyvfio.resource import Resource

if TYPE_CHECKING:
    from pyvfio.container import Group


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


class PciAtomics(enum.IntFlag):
    """VFIO_PCI_ATOMIC_COMP*: widths, in bits, of the atomic operations on memory that the platform completes."""

    COMP32 = vfio.VFIO_PCI_ATOMIC_COMP32
    COMP64 = vfio.VFIO_PCI_ATOMIC_COMP64
    COMP128 = vfio.VFIO_PCI_ATOMIC_COMP128


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Counts are of indexes: an index may be empty.

    atomics: None where the kernel does not tell: before Linux 6.6, or no PCI Express root port above the device.
    """

    flags: DeviceFlags
    num_regions: int
    num_irqs: int
    atomics: PciAtomics | None = None
    capabilities: tuple[Capability, ...] = ()


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
        self._is_decoding = True
        try:
            self.info = self._ask_info()
            self.features = Features(self)
            super().__init__(parent or group)
        except BaseException:
            self.kernel.close(fd)
            raise

    @property
    def is_noiommu(self) -> bool:
        """Whether there is no IOMMU behind it: its DMA goes to physical addresses. See pyvfio.noiommu."""
        return self.group is not None and self.group.is_noiommu

    def _ask_info(self) -> DeviceInfo:
        try:
            info, data = query(self.kernel, self.fd, vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info)
        except VfioError:
            raise
        except OSError as error:
            meaning = {
                errno.ENOTTY: "it is no VFIO device",
                errno.EINVAL: "it is no VFIO device, or not bound to an iommufd yet",
            }.get(error.errno or 0, "")
            raise VfioError(error.errno or errno.EIO, f"open device {self.address}", meaning=meaning) from error
        return device_info(info, data)

    def region(self, index: int) -> Region:
        """A region, for PCI a RegionIndex or one beyond. The same object every time.

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
        return ConfigSpace(self.region(RegionIndex.CONFIG))

    def migration(self) -> Migration:
        """The device's migration states. Raises VfioError (ENOTTY) for a device that cannot be migrated."""
        return Migration(self)

    def display(self) -> Display:
        """The screen of a mediated GPU. Raises VfioError (ENOTTY) for a device without one."""
        return Display(self)

    def log_dma(self, *ranges: IovaRange, page_size: int = 4096) -> DmaLogging:
        """Have the device note which pages of ranges it writes, until the result is closed. See DmaLogging."""
        self._check_open()
        return DmaLogging(self, ranges, page_size)

    def reset(self) -> None:
        """Reset the device alone; its interrupts stay enabled. Afterwards bus mastering is as it was before.

        Raises VfioError where the device cannot be reset alone, or something else resets it just now (EAGAIN).
        Source: VFIO_DEVICE_RESET.
        """
        self._check_open()
        try:
            self.kernel.ioctl(self.fd, vfio.VFIO_DEVICE_RESET)
        except OSError as error:
            code = error.errno or errno.EIO
            meaning = "" if self.info.flags & DeviceFlags.RESET else "the device cannot be reset alone"
            advice = "" if self.info.flags & DeviceFlags.RESET else "hot_reset() resets it with all beside it"
            raise VfioError(code, f"reset {self.address}", meaning=meaning, advice=advice) from error
        if self.info.flags & DeviceFlags.PCI:
            self.config_written()

    def affected_by_hot_reset(self) -> tuple[AffectedDevice, ...]:
        """Every function that hot_reset() resets, this one among them. Raises VfioError (ENODEV) where it cannot."""
        self._check_open()
        return affected_devices(self)

    def hot_reset(self) -> None:
        """Reset the slot or bus the device is on, and all that is on it.

        Everything that is affected must be held here: opened through groups of the same container, or through the same
        iommufd. Raises VfioError (EPERM) that names those that are not. Source: VFIO_DEVICE_PCI_HOT_RESET.
        """
        self._check_open()
        hot_reset(self)
        self.config_written()

    @property
    def answers_memory(self) -> bool:
        """Whether the BARs may be touched through a mapping: as far as this object put the device, it would answer."""
        return self._is_decoding and not self.features.is_asleep

    def config_written(self) -> None:
        """Look again whether the BARs answer. Called after each write to config space, and each reset."""
        config = self.config
        power = config.find(PowerManagement)
        self._is_decoding = bool(config.command & PciCommand.MEMORY) and not (power and power.state)

    def _release(self) -> None:
        try:
            self.features.release()
        finally:
            self.kernel.close(self.fd)

    def __repr__(self) -> str:
        return f"<Device {self.address}{' closed' if self._closed else ''}>"


def device_info(info: vfio.vfio_device_info, data: bytes) -> DeviceInfo:
    """data: info and the capabilities behind it. Raises VfioError for a damaged chain."""
    flags = DeviceFlags(info.flags)
    capabilities = tuple(chain(data, info.cap_offset)) if flags & DeviceFlags.CAPS else ()
    atomics = None
    for capability in capabilities:
        if capability.id == vfio.VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP:
            atomics = PciAtomics(capability.read(vfio.vfio_device_info_cap_pci_atomic_comp).flags)
    return DeviceInfo(flags, info.num_regions, info.num_irqs, atomics, capabilities)
