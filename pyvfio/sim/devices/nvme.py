"""QEMU's NVMe controller as a model, as far as Linux's driver goes: it is probed, read, written and shut down.

Source: NVM Express Base Specification 1.4 and the NVM command set in it; the section numbers are the former's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyvfio.abi import vfio
from pyvfio.sim.devices import nvme_pages
from pyvfio.sim.devices.config import SimConfig, msix, pci_express, power_management, single_root_io_virtualization
from pyvfio.sim.devices.migration import SimMigration
from pyvfio.sim.devices.model import REGISTERS, Bus, SimRegion

IDS = (0x1B36, 0x0010)
CLASS_CODE = 0x010802
BLOCK = 512
BLOCKS = (64 << 20) // BLOCK

# QEMU keeps the rest for virtual functions.
_VECTORS = 7
_IO_QUEUES = 6
_PAGE = nvme_pages.PAGE
_LARGEST_TRANSFER_LOG2 = 7
_MSIX_TABLE, _MSIX_PENDING, _DOORBELLS = 0x2000, 0x3000, 0x1000
# 3.1: queues of 2048 entries, contiguous, ready within 7.5 s, the NVM command set, pages of 4 to 64 KiB.
_CAP = 2047 | 1 << 16 | 15 << 24 | 1 << 37 | 4 << 52
_VS = 0x0001_0400
_CC, _CSTS, _AQA, _ASQ, _ACQ = 0x14, 0x1C, 0x24, 0x28, 0x30
_ENABLE, _READY = 1, 1
# 3.1.5 and 3.1.6: any kind of shutdown asked for, and that it is complete.
_SHUTDOWN, _SHUTDOWN_COMPLETE = 3 << 14, 2 << 2
# 4.6.1: status codes of the generic set, and of those of commands.
_INVALID_OPCODE, _INVALID_FIELD, _DATA_TRANSFER_ERROR, _LBA_OUT_OF_RANGE = 0x01, 0x02, 0x04, 0x80
_ABORTED, _INVALID_NAMESPACE = 0x07, 0x0B
_INVALID_QUEUE, _EVENT_LIMIT, _INVALID_VECTOR, _INVALID_LOG_PAGE = 0x101, 0x105, 0x108, 0x109
_INVALID_DELETION, _NOT_SAVEABLE, _NOT_CHANGEABLE = 0x10C, 0x10D, 0x10E


class _CommandError(Exception):
    """A command completes with this status."""


@dataclass(slots=True)
class _Completions:
    address: int
    size: int
    vector: int | None
    tail: int = 0
    phase: int = 1


@dataclass(slots=True)
class _Submissions:
    address: int
    size: int
    completions: int
    head: int = 0


@dataclass(frozen=True, slots=True)
class _Command:
    """4.2: opcode, identifier, namespace, the two data pointers and dwords 10 to 13."""

    opcode: int
    identifier: int
    namespace: int
    prp1: int
    prp2: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int

    @classmethod
    def parse(cls, entry: bytes) -> _Command:
        opcode, _, identifier, namespace = struct.unpack_from("<BBHI", entry)
        return cls(opcode, identifier, namespace, *struct.unpack_from("<QQIIII", entry, 24))


@dataclass(slots=True)
class Nvme:
    """A controller with one namespace of 64 MiB. A command is over when the write that submitted it returns."""

    bus: Bus
    config: SimConfig = field(
        default_factory=lambda: SimConfig(
            IDS,
            CLASS_CODE,
            revision=2,
            capabilities=(
                msix(_VECTORS, (0, _MSIX_TABLE), (0, _MSIX_PENDING)),
                power_management(),
                pci_express(),
            ),
            extended=(single_root_io_virtualization(total_vfs=2),),
        )
    )
    blocks: dict[int, bytes] = field(default_factory=dict)
    registers: dict[int, int] = field(default_factory=dict)
    _submissions: dict[int, _Submissions] = field(default_factory=dict)
    _completions: dict[int, _Completions] = field(default_factory=dict)
    _features: dict[int, int] = field(default_factory=lambda: nvme_pages.features(_IO_QUEUES))
    # Asynchronous Event Requests: held until something happens, and nothing does.
    _events: list[_Command] = field(default_factory=list)

    regions: Mapping[int, SimRegion] = field(default_factory=lambda: {0: SimRegion(16384, REGISTERS)})
    vectors: Mapping[int, int] = field(
        default_factory=lambda: {vfio.VFIO_PCI_INTX_IRQ_INDEX: 1, vfio.VFIO_PCI_MSIX_IRQ_INDEX: _VECTORS}
    )
    msix_table: tuple[int, int, int] | None = (0, _MSIX_TABLE, 16 * _VECTORS)
    resettable: bool = True
    has_vfs: bool = True
    migration: SimMigration | None = None

    def reset(self) -> None:
        self.registers = {}
        self._forget()

    def _forget(self) -> None:
        """7.3.2: what a reset of the controller takes away, whichever way it came."""
        self._submissions, self._completions = {}, {}
        self._features = nvme_pages.features(_IO_QUEUES)
        self._events = []

    def load(self, region: int, offset: int, width: int) -> int:
        del region
        start = offset & ~7
        value = {0: _CAP, 8: _VS}.get(start)
        if value is None:
            value = self.registers.get(start, 0) | self.registers.get(start + 4, 0) << 32
        return value >> 8 * (offset - start) & (1 << 8 * width) - 1

    def store(self, region: int, offset: int, width: int, value: int) -> None:
        del region
        if width == 8:
            self.store(0, offset, 4, value & 0xFFFF_FFFF)
            self.store(0, offset + 4, 4, value >> 32)
        elif width == 4 and _DOORBELLS <= offset < _MSIX_TABLE:
            self._ring((offset - _DOORBELLS) // 4, value)
        elif width == 4 and offset == _CC:
            self._configure(value)
        elif width == 4 and offset in (_AQA, _ASQ, _ASQ + 4, _ACQ, _ACQ + 4):
            self.registers[offset] = value

    def _configure(self, value: int) -> None:
        was_enabled = self.registers.get(_CC, 0) & _ENABLE
        self.registers[_CC] = value
        if value & _ENABLE and not was_enabled:
            sizes = self.registers.get(_AQA, 0)
            self._completions = {0: _Completions(self._address(_ACQ), (sizes >> 16 & 0xFFF) + 1, 0)}
            self._submissions = {0: _Submissions(self._address(_ASQ), (sizes & 0xFFF) + 1, 0)}
            self.registers[_CSTS] = _READY
        elif was_enabled and not value & _ENABLE:
            self._forget()
            self.registers[_CSTS] = 0
        if value & _SHUTDOWN:
            self.registers[_CSTS] = self.registers.get(_CSTS, 0) | _SHUTDOWN_COMPLETE

    def _address(self, register: int) -> int:
        return self.registers.get(register, 0) | self.registers.get(register + 4, 0) << 32

    def _ring(self, doorbell: int, tail: int) -> None:
        """3.1.16: an even doorbell is a submission queue's tail. The heads of completion queues are not looked at."""
        number, is_completion = divmod(doorbell, 2)
        queue = self._submissions.get(number)
        if queue is None or is_completion or tail >= queue.size:
            return
        while queue.head != tail:
            entry = self.bus.read(queue.address + 64 * queue.head, 64)
            if entry is None:
                return
            queue.head = (queue.head + 1) % queue.size
            command = _Command.parse(entry)
            if not number and command.opcode == 0x0C and len(self._events) < nvme_pages.EVENT_REQUESTS:
                self._events.append(command)
                continue
            result, status = 0, 0
            try:
                result = self._io(command) if number else self._admin(command)
            except _CommandError as error:
                status = error.args[0]
            self._complete(number, queue, command, result, status)

    def _complete(self, number: int, queue: _Submissions, command: _Command, result: int, status: int) -> None:
        completions = self._completions[queue.completions]
        entry = struct.pack(
            "<IIHHHH", result, 0, queue.head, number, command.identifier, status << 1 | completions.phase
        )
        self.bus.write(completions.address + 16 * completions.tail, entry)
        completions.tail = (completions.tail + 1) % completions.size
        completions.phase ^= not completions.tail
        if completions.vector is not None:
            self.bus.interrupt(completions.vector, True)

    def _admin(self, command: _Command) -> int:
        """5: carry an admin command out; dword 0 of its completion."""
        number, entries = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1
        match command.opcode:
            case 0x06:
                self._transfer_out(command, self._identify(command))
            case 0x02:
                self._transfer_out(command, self._log_page(command))
            case 0x05 if 0 < number <= _IO_QUEUES and number not in self._completions:
                vector = command.cdw11 >> 16 if command.cdw11 & 2 else None
                if vector is not None and vector >= _VECTORS:
                    raise _CommandError(_INVALID_VECTOR)
                self._completions[number] = _Completions(command.prp1, entries, vector)
            case 0x01 if 0 < number <= _IO_QUEUES and command.cdw11 >> 16 in self._completions:
                self._submissions[number] = _Submissions(command.prp1, entries, command.cdw11 >> 16)
            case 0x00 if number and number in self._submissions:
                del self._submissions[number]
            case 0x04 if number and number in self._completions:
                if any(queue.completions == number for queue in self._submissions.values()):
                    raise _CommandError(_INVALID_DELETION)
                del self._completions[number]
            case 0x00 | 0x01 | 0x04 | 0x05:
                raise _CommandError(_INVALID_QUEUE)
            case 0x08:
                return self._abort(number, command.cdw10 >> 16)
            case 0x09:
                return self._set_feature(command)
            case 0x0A:
                return self._get_feature(command)
            case 0x0C:
                raise _CommandError(_EVENT_LIMIT)
            case _:
                raise _CommandError(_INVALID_OPCODE)
        return 0

    def _abort(self, number: int, identifier: int) -> int:
        """5.1: only what is held can be aborted, for the rest is over. 1 says that nothing was."""
        for event in self._events:
            if not number and event.identifier == identifier:
                self._events.remove(event)
                self._complete(0, self._submissions[0], event, 0, _ABORTED)
                return 0
        return 1

    def _set_feature(self, command: _Command) -> int:
        """5.21: a feature has one value, which lasts until the next reset. The number of queues is what it is."""
        feature = command.cdw10 & 0xFF
        if feature not in self._features:
            raise _CommandError(_INVALID_FIELD)
        if command.cdw10 >> 31:
            raise _CommandError(_NOT_SAVEABLE)
        if feature == 0x02 and command.cdw11 & 0x1F:
            # There is one power state.
            raise _CommandError(_INVALID_FIELD)
        if feature == 0x0A and command.cdw11 & ~1:
            raise _CommandError(_NOT_CHANGEABLE)
        if feature == 0x07:
            return self._features[feature]
        self._features[feature] = command.cdw11
        return 0

    def _get_feature(self, command: _Command) -> int:
        """5.9: its value now, or at reset. Selecting what is saved, or what can be, is not offered: ONCS bit 4."""
        feature, select = command.cdw10 & 0xFF, command.cdw10 >> 8 & 7
        values = {0: self._features, 1: nvme_pages.features(_IO_QUEUES)}.get(select, {})
        if feature not in values:
            raise _CommandError(_INVALID_FIELD)
        return values[feature]

    def _log_page(self, command: _Command) -> bytes:
        """5.14: so many dwords of a log page; what is behind its end is zero."""
        page = nvme_pages.log_page(command.cdw10 & 0xFF)
        if page is None:
            raise _CommandError(_INVALID_LOG_PAGE)
        size = ((command.cdw10 >> 16 | (command.cdw11 & 0xFFFF) << 16) + 1) * 4
        # An offset is for controllers that offer extended data: LPA bit 2.
        if size > _PAGE << _LARGEST_TRANSFER_LOG2 or command.cdw12 or command.cdw13:
            raise _CommandError(_INVALID_FIELD)
        return page[:size].ljust(size, b"\0")

    def _identify(self, command: _Command) -> bytes:
        """5.15: the structure that describes a namespace, the controller, or the list of namespaces."""
        match command.cdw10 & 0xFF:
            case 0x00 | 0x03 if command.namespace != 1:
                raise _CommandError(_INVALID_NAMESPACE)
            case 0x00:
                return nvme_pages.namespace(BLOCKS, BLOCK)
            case 0x01:
                return nvme_pages.controller(_VS, _LARGEST_TRANSFER_LOG2)
            case 0x02 if command.namespace >= 0xFFFF_FFFE:
                raise _CommandError(_INVALID_NAMESPACE)
            case 0x02:
                return (b"\x01" if command.namespace < 1 else b"").ljust(_PAGE, b"\0")
            case 0x03:
                return nvme_pages.descriptors()
            case 0x06 if not command.cdw11 >> 24:
                # The NVM command set has no limits of its own.
                return bytes(_PAGE)
        raise _CommandError(_INVALID_FIELD)

    def _io(self, command: _Command) -> int:
        """6: flush, write or read the only namespace; dword 0 of the completion."""
        if command.opcode not in (0x00, 0x01, 0x02):
            raise _CommandError(_INVALID_OPCODE)
        if command.namespace != 1 and (command.opcode or command.namespace != 0xFFFF_FFFF):
            raise _CommandError(_INVALID_NAMESPACE)
        if command.opcode:
            first, count = command.cdw10 | command.cdw11 << 32, (command.cdw12 & 0xFFFF) + 1
            if first + count > BLOCKS:
                raise _CommandError(_LBA_OUT_OF_RANGE)
            if count * BLOCK > _PAGE << _LARGEST_TRANSFER_LOG2:
                raise _CommandError(_INVALID_FIELD)
            if command.opcode == 0x02:
                data = b"".join(self.blocks.get(block, bytes(BLOCK)) for block in range(first, first + count))
                self._transfer_out(command, data)
            else:
                data = self._transfer_in(command, count * BLOCK)
                for number in range(count):
                    self.blocks[first + number] = data[number * BLOCK : (number + 1) * BLOCK]
        return 0

    def _transfer_out(self, command: _Command, data: bytes) -> None:
        done = 0
        for address, size in self._pages(command, len(data)):
            if not self.bus.write(address, data[done : done + size]):
                raise _CommandError(_DATA_TRANSFER_ERROR)
            done += size

    def _transfer_in(self, command: _Command, size: int) -> bytes:
        parts = [self.bus.read(address, length) for address, length in self._pages(command, size)]
        if any(part is None for part in parts):
            raise _CommandError(_DATA_TRANSFER_ERROR)
        return b"".join(part for part in parts if part)

    def _pages(self, command: _Command, size: int) -> list[tuple[int, int]]:
        """4.3: address and size of each part of a transfer. PRP1 may begin inside a page; PRP2 is the second page, or a
        list of the others."""
        first = min(size, _PAGE - command.prp1 % _PAGE)
        pages = [(command.prp1, first)]
        left = size - first
        if 0 < left <= _PAGE:
            return [*pages, (command.prp2, left)]
        place = command.prp2
        while left:
            entry = self.bus.read(place, 8)
            if entry is None:
                raise _CommandError(_DATA_TRANSFER_ERROR)
            address = int.from_bytes(entry, "little")
            if place % _PAGE == _PAGE - 8 and left > _PAGE:
                # The last entry of a full list is where the list goes on.
                place = address
                continue
            pages.append((address, min(left, _PAGE)))
            left -= min(left, _PAGE)
            place += 8
        return pages
