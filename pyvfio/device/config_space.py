"""ConfigSpace: the registers and capabilities of PCI config space."""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterator
from typing import Protocol, TypeVar

from pyvfio.abi import pci_regs
from pyvfio.device.lasting_region import LastingRegion
from pyvfio.device.pci_capabilities import PciCapability, PowerManagement, capability_at
from pyvfio.device.region import Region
from pyvfio.device.registers import Register, Registers, RegisterSpace
from pyvfio.errors import VfioError

C = TypeVar("C", bound=PciCapability)

_ABSENT = 0xFFFF_FFFF
# Some bits of it are always zero; vendor and device are the kernel's word, whatever the device says.
_NO_STATUS = 0xFFFF


class PciCommand(enum.IntFlag):
    """Bits of the command register: PCI_COMMAND_* of linux/pci_regs.h."""

    IO = pci_regs.PCI_COMMAND_IO
    MEMORY = pci_regs.PCI_COMMAND_MEMORY
    MASTER = pci_regs.PCI_COMMAND_MASTER
    SPECIAL = pci_regs.PCI_COMMAND_SPECIAL
    INVALIDATE = pci_regs.PCI_COMMAND_INVALIDATE
    VGA_PALETTE = pci_regs.PCI_COMMAND_VGA_PALETTE
    PARITY = pci_regs.PCI_COMMAND_PARITY
    WAIT = pci_regs.PCI_COMMAND_WAIT
    SERR = pci_regs.PCI_COMMAND_SERR
    FAST_BACK = pci_regs.PCI_COMMAND_FAST_BACK
    INTX_DISABLE = pci_regs.PCI_COMMAND_INTX_DISABLE


class PciStatus(enum.IntFlag):
    """Bits of the status register: PCI_STATUS_* of linux/pci_regs.h. The two bits of DEVSEL timing have no name."""

    IMM_READY = pci_regs.PCI_STATUS_IMM_READY
    INTERRUPT = pci_regs.PCI_STATUS_INTERRUPT
    CAP_LIST = pci_regs.PCI_STATUS_CAP_LIST
    SPEED_66MHZ = pci_regs.PCI_STATUS_66MHZ
    UDF = pci_regs.PCI_STATUS_UDF
    FAST_BACK = pci_regs.PCI_STATUS_FAST_BACK
    PARITY = pci_regs.PCI_STATUS_PARITY
    SIG_TARGET_ABORT = pci_regs.PCI_STATUS_SIG_TARGET_ABORT
    REC_TARGET_ABORT = pci_regs.PCI_STATUS_REC_TARGET_ABORT
    REC_MASTER_ABORT = pci_regs.PCI_STATUS_REC_MASTER_ABORT
    SIG_SYSTEM_ERROR = pci_regs.PCI_STATUS_SIG_SYSTEM_ERROR
    DETECTED_PARITY = pci_regs.PCI_STATUS_DETECTED_PARITY


class ConfigRegisters(RegisterSpace, Protocol):
    """Where a config space can be read: a device's, or a copy of one.

    address: the function's name in sysfs. size: bytes.
    """

    @property
    def address(self) -> str: ...
    @property
    def size(self) -> int: ...


class ConfigSpace(Registers):
    """The registers of config space, named as in linux/pci_regs.h. Owns nothing: it works while its device is open.

    VFIO virtualizes some registers: the BARs hold no host addresses, and MSI and MSI-X are programmed by Interrupts
    alone. Reading or setting an attribute reads or writes the device; it raises VfioError if the kernel refuses.
    region: where they are read and written by their offsets, as long as the device is open.
    """

    region: ConfigRegisters

    def __init__(self, region: ConfigRegisters) -> None:
        """Does not access the device."""
        super().__init__(region)

    vendor_id = Register(pci_regs.PCI_VENDOR_ID, 16)
    device_id = Register(pci_regs.PCI_DEVICE_ID, 16)
    command = Register(pci_regs.PCI_COMMAND, 16, PciCommand)
    status = Register(pci_regs.PCI_STATUS, 16, PciStatus)
    revision_id = Register(pci_regs.PCI_REVISION_ID, 8)
    class_prog = Register(pci_regs.PCI_CLASS_PROG, 8)
    class_device = Register(pci_regs.PCI_CLASS_DEVICE, 16)
    header_type = Register(pci_regs.PCI_HEADER_TYPE, 8)
    subsystem_vendor_id = Register(pci_regs.PCI_SUBSYSTEM_VENDOR_ID, 16)
    subsystem_id = Register(pci_regs.PCI_SUBSYSTEM_ID, 16)
    interrupt_line = Register(pci_regs.PCI_INTERRUPT_LINE, 8)
    interrupt_pin = Register(pci_regs.PCI_INTERRUPT_PIN, 8)

    @property
    def bus_master(self) -> bool:
        """Whether the device may do DMA: the MASTER bit of command."""
        return bool(self.command & PciCommand.MASTER)

    def enable_bus_master(self) -> None:
        """Let the device do DMA and answer accesses to its BARs. DMA is off after the device is opened."""
        self.command |= PciCommand.MASTER | PciCommand.MEMORY

    def disable_bus_master(self) -> None:
        """Stop the device's DMA. It goes on to answer accesses to its BARs."""
        self.command &= ~PciCommand.MASTER

    def dump(self) -> str:
        """All bytes as text, as `lspci -xxxx` prints them: a line for 16 bytes, with the offset of the first, in hex.

        `lspci -F` decodes it below a line with the function's address. Raises VfioError if the device does not answer.
        """
        if self.status == _NO_STATUS:
            raise no_answer(self.region.address)
        words = (self.read_register(offset, 32) for offset in range(0, self.region.size, 4))
        data = b"".join(word.to_bytes(4, "little") for word in words)
        return "\n".join(f"{start:02x}: {data[start : start + 16].hex(' ')}" for start in range(0, len(data), 16))

    def capabilities(self) -> Iterator[PciCapability]:
        """The capabilities of the device, in the order of its list.

        Raises VfioError for a list that is damaged, and if the device does not answer.
        """
        if self.status == _NO_STATUS:
            raise no_answer(self.region.address)
        if not self.status & PciStatus.CAP_LIST:
            return
        offset = self.read_register(pci_regs.PCI_CAPABILITY_LIST, 8) & ~3
        seen: set[int] = set()
        while offset:
            if offset in seen or offset < pci_regs.PCI_STD_HEADER_SIZEOF:
                raise _damaged(offset)
            seen.add(offset)
            yield capability_at(self.region, offset, self.read_register(offset, 8))
            offset = self.read_register(offset + pci_regs.PCI_CAP_LIST_NEXT, 8) & ~3

    def extended_capabilities(self) -> Iterator[PciCapability]:
        """The extended capabilities of a PCI Express device, in the order of its list; none of another device.

        Raises VfioError for a list that is damaged, and if the device does not answer.
        """
        if self.status == _NO_STATUS:
            raise no_answer(self.region.address)
        offset = pci_regs.PCI_CFG_SPACE_SIZE
        if self.region.size <= offset:
            return
        seen: set[int] = set()
        while offset:
            if offset in seen or offset < pci_regs.PCI_CFG_SPACE_SIZE:
                raise _damaged(offset)
            seen.add(offset)
            header = self.read_register(offset, 32)
            # An id of 0 is an entry the kernel hides, or an empty list.
            if header == _ABSENT or not header:
                return
            if header & 0xFFFF:
                yield capability_at(self.region, offset, header & 0xFFFF, header >> 16 & 0xF, extended=True)
            offset = header >> 20 & ~3

    def find(self, kind: type[C]) -> C | None:
        """The first capability of a kind, which is a class such as Msix; None if the device has none.

        Raises VfioError for a list of capabilities that is damaged.
        """
        capabilities = self.extended_capabilities() if kind.EXTENDED else self.capabilities()
        return next((capability for capability in capabilities if isinstance(capability, kind)), None)


class ConfigRegion(Region):
    """The region of PCI config space. A write to it may stop the BARs from answering: it looks after each write."""

    def look_at_decoding(self) -> None:
        """Read whether the BARs answer (memory decoding is on, and the device is in D0) and note it in the OpenDevice.

        Where that cannot be read they are taken to be silent: each access is the kernel's then, which answers it
        or says why not.
        """
        try:
            power = self._power_management()
            self.device.answering.is_powered = is_powered = not (power and power.state)
            is_decoding = bool(self._registers().command & PciCommand.MEMORY) and is_powered
        except VfioError:
            is_decoding = False
        self.device.answering.is_decoding = is_decoding

    def _pwrite(self, offset: int, data: memoryview) -> None:
        if self._may_silence(offset, data):
            # First, so that no other thread touches a mapping that is gone already.
            self.device.answering.is_decoding = False
        try:
            super()._pwrite(offset, data)
        finally:
            self.look_at_decoding()

    def _may_silence(self, offset: int, data: memoryview) -> bool:
        """Whether writing data at offset may switch memory decoding off, or take the device out of D0."""
        try:
            power = self._power_management()
        except VfioError:
            return True
        command = _byte_for(pci_regs.PCI_COMMAND, offset, data)
        state = None if power is None else _byte_for(power.offset + pci_regs.PCI_PM_CTRL, offset, data)
        leaves_memory = command is None or command & PciCommand.MEMORY
        return not leaves_memory or bool(state and state & pci_regs.PCI_PM_CTRL_STATE_MASK)

    def _power_management(self) -> PowerManagement | None:
        """The capability, None for a device without it. Where it is does not change. Raises VfioError."""
        if not self._is_power_known:
            self._power, self._is_power_known = self._registers().find(PowerManagement), True
        return self._power

    def _registers(self) -> ConfigSpace:
        # Not through this object, which another thread may close while it looks.
        return ConfigSpace(LastingRegion(self.device, self.index, ConfigRegion))

    _power: PowerManagement | None = None
    _is_power_known = False


def _byte_for(register: int, offset: int, data: memoryview) -> int | None:
    """What writing data at offset puts into the byte of a register; None if it leaves that as it is."""
    return data[register - offset] if offset <= register < offset + len(data) else None


def no_answer(address: str) -> VfioError:
    """What config space that reads all ones means, and what to try."""
    return VfioError(
        errno.EIO,
        f"read config space of {address}",
        meaning="the device does not answer, all of it reads as ones: it is off the bus, without power, or hangs after "
        "a reset",
        advice=f"As root: echo 1 > /sys/bus/pci/devices/{address}/remove; echo 1 > /sys/bus/pci/rescan. If that does "
        "not help, cut its power, which a warm reboot does not",
    )


def _damaged(offset: int) -> VfioError:
    """The error for a list of capabilities with an entry at offset that cannot be."""
    return VfioError(errno.EIO, "PCI capability list", {"offset": offset}, "it is damaged")
