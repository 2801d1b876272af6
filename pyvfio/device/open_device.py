"""OpenDevice: all that a part of a device (a region, interrupts, features, a display, ...) knows of the device."""

from __future__ import annotations

import enum
import errno
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pyvfio.abi import vfio
from pyvfio.device.answering import Answering
from pyvfio.errors import VfioError
from pyvfio.kernel import Capability, Descriptor, Kernel, LinuxKernel, chain, query
from pyvfio.resource import Resource


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
    """What VFIO_DEVICE_GET_INFO says of a device.

    flags: what kind of device it is. num_regions, num_irqs: how many region and interrupt indexes there are; some of
    them may be empty. atomics: the atomic operations that the platform completes for the device; None where the kernel
    does not say: before Linux 6.6, or where no PCI Express root port is above the device. capabilities: all of the
    struct's capabilities, for those that this library has no name for.
    """

    flags: DeviceFlags
    num_regions: int
    num_irqs: int
    atomics: PciAtomics | None = None
    capabilities: tuple[Capability, ...] = ()


class DeviceGroup(Resource, ABC):
    """What a device needs of the IOMMU group that it was opened through.

    kernel: the kernel that the group was opened in. descriptor: the group's. number: as in /sys/kernel/iommu_groups.
    is_noiommu: whether there is no IOMMU behind the group's devices: see pyvfio.noiommu.
    """

    kernel: Kernel
    descriptor: Descriptor
    number: int
    is_noiommu: bool
    _is_exclusive = True

    @property
    def fd(self) -> int:
        """The number of the descriptor, which is the group's until it is closed."""
        return self.descriptor.number

    @abstractmethod
    def siblings(self) -> Sequence[DeviceGroup]:
        """The groups of the same container, this one among them."""


class OpenDevice(Resource):
    """An open device, as its parts see it.

    kernel: the kernel that the device was opened in. descriptor: its descriptor. address: its name in sysfs. group: the
    group that it was opened through; None for a device of /dev/vfio/devices. info: what VFIO_DEVICE_GET_INFO says.
    answering: whether the BARs answer, and the windows onto them.
    """

    _is_exclusive = True

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
        self.kernel = group.kernel if group else kernel or LinuxKernel()
        self.group = group
        self.descriptor = Descriptor(fd, f"device {address}", partial(self.kernel.close, fd))
        self.address = address
        self.answering = Answering()
        self._parts: dict[tuple[type[DevicePart], int], DevicePart] = {}
        try:
            self.info = self._ask_info()
            super().__init__(parent or group)
        except BaseException:
            self.descriptor.close()
            raise

    @property
    def fd(self) -> int:
        """The number of the descriptor, which is the device's until it is closed."""
        return self.descriptor.number

    @property
    def is_noiommu(self) -> bool:
        """Whether there is no IOMMU behind the device: its DMA goes to physical addresses. See pyvfio.noiommu."""
        return self.group is not None and self.group.is_noiommu

    @property
    def answers_memory(self) -> bool:
        """Whether the BARs may be touched through a mapping, as far as this process set the device's state."""
        return bool(self.answering)

    def part(self, kind: type[P], index: int) -> P:
        """The part of this kind with this index: the same object at each call, until it is closed; a new one then.

        Raises ClosedError, and what kind's constructor raises.
        """
        with self._lock:
            self.require_open()
            found = self._parts.get((kind, index))
            if not isinstance(found, kind) or found.closed:
                found = self._parts[kind, index] = kind(self, index)
            return found

    def parts(self, kind: type[P]) -> tuple[P, ...]:
        """The parts of this kind that are open, by no particular order."""
        with self._lock:
            return tuple(found for found in self._parts.values() if isinstance(found, kind) and not found.closed)

    def _ask_info(self) -> DeviceInfo:
        try:
            info, data = query(self.kernel, self.descriptor.number, vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info)
        except VfioError:
            raise
        except OSError as error:
            meaning = {
                errno.ENOTTY: "it is no VFIO device",
                errno.EINVAL: "it is no VFIO device, or not bound to an iommufd yet",
            }.get(error.errno or 0, "")
            raise VfioError(error.errno or errno.EIO, f"open device {self.address}", meaning=meaning) from error
        return device_info(info, data)

    def _child_closed(self, child: Resource) -> None:
        if isinstance(child, DevicePart) and self._parts.get((type(child), child.index)) is child:
            del self._parts[type(child), child.index]

    def _release(self) -> None:
        self.descriptor.close()

    def __repr__(self) -> str:
        return f"<Device {self.address}{' closed' if self._closed else ''}>"


class DevicePart(Resource):
    """What a device has several of, one for each index: a region, or the interrupts of one kind. A child of its device.

    kernel: the kernel that the device was opened in. device: the device. index: which of its parts this is.
    """

    def __init__(self, device: OpenDevice, index: int) -> None:
        """Raises ClosedError if the device is closed."""
        self.kernel = device.kernel
        self.device = device
        self.index = index
        super().__init__(device)


P = TypeVar("P", bound=DevicePart)


def device_info(info: vfio.vfio_device_info, data: bytes) -> DeviceInfo:
    """The answer of VFIO_DEVICE_GET_INFO. data: info and the capabilities behind it.

    Raises VfioError for a damaged chain.
    """
    flags = DeviceFlags(info.flags)
    capabilities = tuple(chain(data, info.cap_offset)) if flags & DeviceFlags.CAPS else ()
    atomics = None
    for capability in capabilities:
        if capability.id == vfio.VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP:
            atomics = PciAtomics(capability.read(vfio.vfio_device_info_cap_pci_atomic_comp).flags)
    return DeviceInfo(flags, info.num_regions, info.num_irqs, atomics, capabilities)
