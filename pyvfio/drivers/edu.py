"""A driver for edu, QEMU's teaching device: a DMA engine with a buffer of 4 KiB. Source: docs/specs/edu.rst in QEMU."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Self

from pyvfio.device import Device, InterruptIndex
from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.kernel import Kernel
from pyvfio.sysfs import group_members, pci_devices

VENDOR_ID = 0x1234
DEVICE_ID = 0x11E8

LARGEST_TRANSFER = 4095
"""Bytes. The buffer has one more, but QEMU before 9.0 aborts on a transfer that fills it."""

_IDENTIFICATION = 0x00
_LIVENESS = 0x04
_INTERRUPT_STATUS = 0x24
_INTERRUPT_RAISE = 0x60
_INTERRUPT_ACKNOWLEDGE = 0x64
_DMA_SOURCE = 0x80
_DMA_DESTINATION = 0x88
_DMA_COUNT = 0x90
_DMA_COMMAND = 0x98

_BUFFER = 0x40000
_RUN = 1
_FROM_BUFFER = 2
_INTERRUPT_WHEN_DONE = 4

_PATIENCE = 10.0


def edu_addresses(kernel: Kernel) -> list[str]:
    """The PCI addresses of the host's edu devices, without those that share their IOMMU group with another device."""
    return [
        device.address
        for device in pci_devices(kernel)
        if (device.vendor_id, device.device_id) == (VENDOR_ID, DEVICE_ID)
        and (device.group is None or group_members(kernel, device.group) == [device])
    ]


class Edu:
    """Drives an edu device: enables bus mastering and its MSI, and waits for the interrupt at the end of each transfer.

    A transfer to an address that is not mapped ends like any other: only the memory shows that nothing arrived.
    device: the device, which stays the caller's.
    """

    def __init__(self, device: Device) -> None:
        """Raises VfioError: ENODEV if the device is no edu."""
        self.device = device
        self._registers = device.region(0)
        self._interrupts = device.interrupts(InterruptIndex.MSI)
        device.config.enable_bus_master()
        if self.identification & 0xFFFF != 0xED:
            raise VfioError(errno.ENODEV, f"edu {device.address}", {"id": self.identification}, "not an edu device")
        self._interrupts.enable()

    @property
    def identification(self) -> int:
        """The register that tells what the device is: 0xed in the low 16 bits, its version in the upper ones."""
        return self._registers.read32(_IDENTIFICATION)

    def check_liveness(self, value: int) -> bool:
        """Whether the device answers value with its bits inverted, as an edu does."""
        self._registers.write32(_LIVENESS, value)
        return self._registers.read32(_LIVENESS) == ~value & 0xFFFF_FFFF

    def raise_interrupt(self, status: int = 1, timeout: float = _PATIENCE) -> bool:
        """Have the device raise an interrupt; return whether it arrived within timeout seconds.

        status: what the device's interrupt status register is to show.
        """
        self._registers.write32(_INTERRUPT_RAISE, status)
        fired = self._interrupts.wait(timeout)
        self._registers.write32(_INTERRUPT_ACKNOWLEDGE, status)
        return fired == 1

    def fetch(self, iova: int, size: int, timeout: float = _PATIENCE) -> None:
        """Have the device read size bytes at iova into its buffer, LARGEST_TRANSFER at most.

        Raises InvalidArgument for more, VfioError (ETIMEDOUT) if it is not done after timeout seconds.
        """
        self._transfer(iova, _BUFFER, size, _RUN | _INTERRUPT_WHEN_DONE, timeout)

    def store(self, iova: int, size: int, timeout: float = _PATIENCE) -> None:
        """Have the device write size bytes of its buffer to iova, LARGEST_TRANSFER at most.

        Raises InvalidArgument for more, VfioError (ETIMEDOUT) if it is not done after timeout seconds.
        """
        self._transfer(_BUFFER, iova, size, _RUN | _FROM_BUFFER | _INTERRUPT_WHEN_DONE, timeout)

    def _transfer(self, source: int, destination: int, size: int, command: int, timeout: float) -> None:
        if not 0 < size <= LARGEST_TRANSFER:
            raise InvalidArgument(
                errno.EINVAL, "edu transfer", {"size": size}, f"at most {LARGEST_TRANSFER} bytes at a time"
            )
        self._registers.write64(_DMA_SOURCE, source)
        self._registers.write64(_DMA_DESTINATION, destination)
        self._registers.write64(_DMA_COUNT, size)
        self._registers.write64(_DMA_COMMAND, command)
        if not self._interrupts.wait(timeout):
            raise VfioError(errno.ETIMEDOUT, f"edu {self.device.address} transfer", {"size": size})
        self._registers.write32(_INTERRUPT_ACKNOWLEDGE, self._registers.read32(_INTERRUPT_STATUS))

    def close(self) -> None:
        """Disable bus mastering and the interrupt. The device stays open."""
        if not self.device.closed:
            self.device.config.disable_bus_master()
            self._interrupts.disable()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
