"""The commands of a client that are about the device: what it is, its regions, its interrupts, and its reset."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Mapping
from typing import Final

from pyvfio.abi import pci_regs, vfio
from pyvfio.device import DeviceFlags, RegionIndex
from pyvfio.vfio_user import abi
from pyvfio.vfio_user.abi import vfio_user_device_info, vfio_user_region_access
from pyvfio.vfio_user.message import Message
from pyvfio.vfio_user.served import Served

_ACCESS_SIZE: Final = ctypes.sizeof(vfio_user_region_access)
_IRQ_SET_SIZE: Final = ctypes.sizeof(vfio.vfio_irq_set)
_REGION_INFO_SIZE: Final = ctypes.sizeof(vfio.vfio_region_info)
_TOLD_FLAGS: Final = DeviceFlags.RESET | DeviceFlags.PCI
_DATA_TYPES: Final = (vfio.VFIO_IRQ_SET_DATA_NONE, vfio.VFIO_IRQ_SET_DATA_BOOL, vfio.VFIO_IRQ_SET_DATA_EVENTFD)
_ACTIONS: Final = (
    vfio.VFIO_IRQ_SET_ACTION_MASK,
    vfio.VFIO_IRQ_SET_ACTION_UNMASK,
    vfio.VFIO_IRQ_SET_ACTION_TRIGGER,
)
_OFF: Final = vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
_MASTER: Final = pci_regs.PCI_COMMAND_MASTER

Answer = tuple[bytes, tuple[int, ...]]
"""The payload of a reply, and the descriptors that go with it."""


class DeviceCommands:
    """Carries them out. A command that cannot be raises OSError with the errno for the client, and changes nothing.

    largest_transfer: bytes of data in one message. enabled: the indexes whose interrupts the client has enabled.
    """

    def __init__(self, served: Served, *, may_be_master: Callable[[], bool]) -> None:
        """may_be_master: whether bus mastering may be switched on now."""
        self.largest_transfer = abi.VFIO_USER_DEFAULT_MAX_TRANSFER_SIZE
        self.enabled: set[int] = set()
        self._served = served
        self._may_be_master = may_be_master
        self.handlers: Mapping[int, Callable[[Message], Answer]] = {
            abi.VFIO_USER_DEVICE_GET_INFO: self._info,
            abi.VFIO_USER_DEVICE_GET_REGION_INFO: self._region_info,
            abi.VFIO_USER_DEVICE_GET_IRQ_INFO: self._interrupt_info,
            abi.VFIO_USER_DEVICE_SET_IRQS: self._set_interrupts,
            abi.VFIO_USER_REGION_READ: self._read,
            abi.VFIO_USER_REGION_WRITE: self._write,
            abi.VFIO_USER_DEVICE_RESET: self._reset,
        }
        """What carries a command out, by its number."""

    # What the end of a session is made of.

    def interrupts_off(self) -> None:
        """Disable all that are enabled. Each index is tried; raises the first OSError."""
        failure: OSError | None = None
        for index in sorted(self.enabled):
            try:
                self._served.set_interrupts(_OFF, index, 0, 0, b"")
            except OSError as error:
                failure = failure or error
        self.enabled.clear()
        if failure is not None:
            raise failure

    def reset_if_it_can(self) -> None:
        """Reset the device, if it can be reset alone. Raises OSError."""
        if self._served.info.flags & DeviceFlags.RESET:
            self._served.reset()

    def bus_master_off(self) -> None:
        """Stop the DMA of a PCI device. Raises OSError."""
        if self._served.info.flags & DeviceFlags.PCI:
            command = self._command() & ~_MASTER
            self._served.write(RegionIndex.CONFIG, pci_regs.PCI_COMMAND, command.to_bytes(2, "little"))

    # The commands.

    def _info(self, message: Message) -> Answer:
        message.require_fds(0)
        asked = message.parse(vfio_user_device_info)
        if asked.argsz < ctypes.sizeof(vfio_user_device_info):
            raise message.refused("its argsz has no room for the answer")
        info = self._served.info
        flags = int(info.flags & _TOLD_FLAGS)
        return bytes(vfio_user_device_info(flags=flags, num_regions=info.num_regions, num_irqs=info.num_irqs)), ()

    def _region_info(self, message: Message) -> Answer:
        message.require_fds(0)
        asked = message.parse(vfio.vfio_region_info)
        if asked.argsz < _REGION_INFO_SIZE:
            raise message.refused("its argsz has no room for the answer")
        if asked.index >= self._served.info.num_regions:
            raise message.refused(f"there is no region {asked.index}")
        data = bytearray(self._served.region_info(asked.index))
        told = vfio.vfio_region_info.from_buffer(data)
        told.argsz = len(data)
        file = self._served.region_file(asked.index) if told.flags & vfio.VFIO_REGION_INFO_FLAG_MMAP else None
        if file is None:
            told.flags &= ~vfio.VFIO_REGION_INFO_FLAG_MMAP
            told.offset = 0
        if asked.argsz < len(data):
            # As the kernel does, but for cap_offset: QEMU refuses one outside of argsz. No file yet: it asks again.
            told.cap_offset = _REGION_INFO_SIZE
            return bytes(data[:_REGION_INFO_SIZE]), ()
        return bytes(data), () if file is None else (file,)

    def _interrupt_info(self, message: Message) -> Answer:
        message.require_fds(0)
        asked = message.parse(vfio.vfio_irq_info)
        if asked.argsz < ctypes.sizeof(vfio.vfio_irq_info):
            raise message.refused("its argsz has no room for the answer")
        if asked.index >= self._served.info.num_irqs:
            raise message.refused(f"there is no interrupt index {asked.index}")
        info = self._served.interrupt_info(asked.index)
        return bytes(vfio.vfio_irq_info(flags=int(info.flags), index=info.index, count=info.count)), ()

    def _set_interrupts(self, message: Message) -> Answer:
        asked = message.parse_head(vfio.vfio_irq_set)
        kind, action = asked.flags & vfio.VFIO_IRQ_SET_DATA_TYPE_MASK, asked.flags & vfio.VFIO_IRQ_SET_ACTION_TYPE_MASK
        if asked.flags != kind | action or kind not in _DATA_TYPES or action not in _ACTIONS:
            raise message.refused(f"{asked.flags:#x} are no flags for it")
        if asked.index >= self._served.info.num_irqs:
            raise message.refused(f"there is no interrupt index {asked.index}")
        count = self._served.interrupt_info(asked.index).count
        if asked.start + asked.count > count:
            raise message.refused(f"index {asked.index} has {count} interrupts")
        data = b""
        if kind == vfio.VFIO_IRQ_SET_DATA_EVENTFD:
            # All are there or none: then each is detached. The field of the ioctl is not sent.
            message.require_fds(0, asked.count)
            fds = message.fds or (-1,) * asked.count
            data = struct.pack(f"={len(fds)}i", *fds)
        else:
            message.require_fds(0)
        sent = asked.count if kind == vfio.VFIO_IRQ_SET_DATA_BOOL else 0
        message.require_size(_IRQ_SET_SIZE + sent)
        if asked.argsz != _IRQ_SET_SIZE + sent:
            raise message.refused("its argsz is not its size")
        data = data or message.payload[_IRQ_SET_SIZE:]
        self._served.set_interrupts(asked.flags, asked.index, asked.start, asked.count, data)
        if kind == vfio.VFIO_IRQ_SET_DATA_EVENTFD and message.fds:
            self.enabled.add(asked.index)
        elif asked.flags == _OFF and not asked.count:
            self.enabled.discard(asked.index)
        return b"", ()

    def _read(self, message: Message) -> Answer:
        message.require_fds(0)
        message.require_size(_ACCESS_SIZE)
        asked = self._access(message)
        data = self._served.read(asked.region, asked.offset, asked.count)
        return message.payload + data, ()

    def _write(self, message: Message) -> Answer:
        message.require_fds(0)
        asked = self._access(message)
        message.require_size(_ACCESS_SIZE + asked.count)
        data = message.payload[_ACCESS_SIZE:]
        if asked.region == RegionIndex.CONFIG and self._served.info.flags & DeviceFlags.PCI:
            data = self._without_master(asked.offset, data)
        self._served.write(asked.region, asked.offset, data)
        return message.payload[:_ACCESS_SIZE], ()

    def _reset(self, message: Message) -> Answer:
        message.require_fds(0)
        message.require_size(0)
        if not self._served.info.flags & DeviceFlags.RESET:
            raise message.refused("the device cannot be reset alone", errno.EOPNOTSUPP)
        self._served.reset()
        return b"", ()

    def _access(self, message: Message) -> vfio_user_region_access:
        asked = message.parse_head(vfio_user_region_access)
        if not 0 < asked.count <= self.largest_transfer:
            raise message.refused(f"{asked.count} bytes are not between 1 and {self.largest_transfer}")
        if asked.region >= self._served.info.num_regions:
            raise message.refused(f"there is no region {asked.region}")
        return asked

    def _without_master(self, offset: int, data: bytes) -> bytes:
        """What to write to config space in place of data: bus mastering stays off while the client's memory is not
        mapped as it believes."""
        place = pci_regs.PCI_COMMAND - offset
        if not 0 <= place < len(data) or not data[place] & _MASTER or self._may_be_master():
            return data
        if self._command() & _MASTER:
            return data
        return data[:place] + bytes([data[place] & ~_MASTER]) + data[place + 1 :]

    def _command(self) -> int:
        return int.from_bytes(self._served.read(RegionIndex.CONFIG, pci_regs.PCI_COMMAND, 2), "little")
