"""VirtioPci: a virtio device on the PCI bus of an emulator, the driver's side. Source: virtio 1.3, 3.1 and 4.1."""

from __future__ import annotations

import enum
import struct

from pyvfio.abi import pci_regs
from tests.oracle.qtest import Qtest
from tests.oracle.virtqueue import SIZE, Virtqueue

VERSION_1 = 1 << 32

_BAR, _BAR_ADDRESS = 4, 0xE000_0000
_COMMON, _NOTIFY, _DEVICE = 1, 2, 4


class Status(enum.IntFlag):
    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64


class VirtioPci:
    """The device in slot of bus 0, of one queue."""

    def __init__(self, qtest: Qtest, slot: int, queue: Virtqueue) -> None:
        self._qtest = qtest
        self._slot = slot
        self._queue = queue
        self.enable()

    def enable(self) -> None:
        """Give the device its addresses, as firmware does after each reset of the machine."""
        capabilities = self._capabilities()
        self.common, self.config = capabilities[_COMMON][0], capabilities[_DEVICE][0]
        bar = pci_regs.PCI_BASE_ADDRESS_0 + 4 * _BAR
        command = pci_regs.PCI_COMMAND_MEMORY | pci_regs.PCI_COMMAND_MASTER
        self._qtest.run(
            [
                *(self._select(bar), f"outl 0xcfc {_BAR_ADDRESS:#x}"),
                *(self._select(bar + 4), "outl 0xcfc 0"),
                *(self._select(pci_regs.PCI_COMMAND), f"outw 0xcfc {command:#x}"),
            ]
        )
        base, multiplier = capabilities[_NOTIFY]
        self._notify = base + multiplier * self._qtest.number(f"readw {self.common + 30:#x}")

    @property
    def status_command(self) -> str:
        return f"readb {self.common + 20:#x}"

    @property
    def notify_command(self) -> str:
        return f"writew {self._notify:#x} 0"

    def reset(self) -> None:
        self._set_status(Status(0))

    def features(self) -> int:
        """What the device offers."""
        low, high = self._qtest.run(
            [
                *(f"writel {self.common:#x} 0", f"readl {self.common + 4:#x}"),
                *(f"writel {self.common:#x} 1", f"readl {self.common + 4:#x}"),
            ]
        )[1::2]
        return int(low, 0) | int(high, 0) << 32

    def negotiate(self, features: int) -> bool:
        """Reset the device and accept features; whether FEATURES_OK sticks."""
        self.reset()
        self._set_status(Status.ACKNOWLEDGE)
        self._set_status(Status.ACKNOWLEDGE | Status.DRIVER)
        self._qtest.run(
            [
                *(f"writel {self.common + 8:#x} 0", f"writel {self.common + 12:#x} {features & 0xFFFFFFFF:#x}"),
                *(f"writel {self.common + 8:#x} 1", f"writel {self.common + 12:#x} {features >> 32:#x}"),
            ]
        )
        self._set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        return bool(self._qtest.number(self.status_command) & Status.FEATURES_OK)

    def start(self, features: int) -> None:
        """Reset the device and make it ready for requests. The features must stick."""
        assert self.negotiate(features), f"the device refused features {features:#x}"
        queue, common = self._queue, self.common
        self._qtest.run(
            [
                *queue.clear(),
                *(f"writew {common + 22:#x} 0", f"writew {common + 24:#x} {SIZE:#x}"),
                f"writew {common + 26:#x} 0xffff",
                *(f"writel {common + 32:#x} {queue.descriptors:#x}", f"writel {common + 36:#x} 0"),
                *(f"writel {common + 40:#x} {queue.available:#x}", f"writel {common + 44:#x} 0"),
                *(f"writel {common + 48:#x} {queue.used:#x}", f"writel {common + 52:#x} 0"),
                f"writew {common + 28:#x} 1",
            ]
        )
        self._set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)

    def _set_status(self, status: Status) -> None:
        self._qtest.run([f"writeb {self.common + 20:#x} {int(status):#x}"])

    def _select(self, register: int) -> str:
        return f"outl 0xcf8 {0x8000_0000 | self._slot << 11 | register:#x}"

    def _capabilities(self) -> dict[int, tuple[int, int]]:
        """Address, and the notify multiplier, of each structure in the BAR by its type."""
        answers = self._qtest.run([word for at in range(0, 256, 4) for word in (self._select(at), "inl 0xcfc")])[1::2]
        space = b"".join(int(answer, 0).to_bytes(4, "little") for answer in answers)
        assert space[:4] == bytes.fromhex("f41a5810"), "no virtio-mem device in the slot"
        found: dict[int, tuple[int, int]] = {}
        at = space[pci_regs.PCI_CAPABILITY_LIST]
        while at:
            kind, following, _, structure, bar = space[at : at + 5]
            if kind == pci_regs.PCI_CAP_ID_VNDR and bar == _BAR:
                (offset, _, multiplier) = struct.unpack_from("<III", space, at + 8)
                found.setdefault(structure, (_BAR_ADDRESS + offset, multiplier))
            at = following
        return found
