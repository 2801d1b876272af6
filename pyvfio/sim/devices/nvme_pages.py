"""What a simulated NVMe controller says of itself: identify structures, log pages, and features at reset.

Source: NVM Express Base Specification 1.4; the section numbers are its.
"""

from __future__ import annotations

import struct
import uuid

PAGE = 4096
SERIAL = b"pyvfio"
MODEL = b"pyvfio simulated NVMe"
FIRMWARE = b"1.0"
# How many Asynchronous Event Requests a controller holds at once.
EVENT_REQUESTS = 4
_UUID = uuid.UUID("6f1c2b0e-5d0a-4c6b-9a37-2f4e8d1b7c55")
# The identifiers of the only namespace. They are locally made: no manufacturer has them.
EUI64 = bytes.fromhex("0200000000000001")
NGUID = bytes.fromhex("02000000000000000200000000000001")
_ROOM_TEMPERATURE = 300
_WARNING_TEMPERATURE = 0x157
_CRITICAL_TEMPERATURE = 0x175


def controller(version: int, largest_transfer_log2: int) -> bytes:
    """5.15.2.2, CNS 01h: the controller, of this version (VS) and with this largest transfer, log2 of pages."""
    data = bytearray(PAGE)
    struct.pack_into("<HH", data, 0, 0x1B36, 0x1AF4)
    data[4:24] = SERIAL.ljust(20)
    data[24:64] = MODEL.ljust(40)
    data[64:72] = FIRMWARE.ljust(8)
    data[77] = largest_transfer_log2
    struct.pack_into("<I", data, 80, version)
    data[111] = 1  # CNTRLTYPE: an I/O controller
    data[258] = 3  # ACL: four aborts at once
    data[259] = EVENT_REQUESTS - 1
    data[260] = 0x03  # FRMW: one slot, which is read-only
    struct.pack_into("<HH", data, 266, _WARNING_TEMPERATURE, _CRITICAL_TEMPERATURE)
    struct.pack_into("<BB", data, 512, 0x66, 0x44)
    struct.pack_into("<I", data, 516, 1)
    data[768:1024] = f"nqn.2014-08.org.nvmexpress:uuid:{_UUID}".encode().ljust(256, b"\0")
    return bytes(data)


def namespace(blocks: int, block: int) -> bytes:
    """5.15.2.1, CNS 00h: the namespace, of so many blocks of so many bytes."""
    data = bytearray(PAGE)
    struct.pack_into("<QQQ", data, 0, blocks, blocks, blocks)
    data[104:120] = NGUID
    data[120:128] = EUI64
    struct.pack_into("<I", data, 128, (block.bit_length() - 1) << 16)
    return bytes(data)


def descriptors() -> bytes:
    """5.15.2.3, CNS 03h: the identifiers of the namespace, each with its type and its length."""
    names = ((1, EUI64), (2, NGUID), (3, _UUID.bytes))
    return b"".join(bytes((kind, len(name), 0, 0)) + name for kind, name in names).ljust(PAGE, b"\0")


def log_page(identifier: int) -> bytes | None:
    """5.14.1: the log page with this identifier: errors, health or firmware slots; None if there is no such page."""
    match identifier:
        case 0x01:
            return bytes(64)
        case 0x02:
            # Temperature in kelvins, then available spare and its threshold in per cent.
            return struct.pack("<BHBB", 0, _ROOM_TEMPERATURE, 100, 10).ljust(512, b"\0")
        case 0x03:
            return (b"\x01".ljust(8, b"\0") + FIRMWARE.ljust(8)).ljust(512, b"\0")
    return None


def features(queues: int) -> dict[int, int]:
    """5.21.1: each feature's value at reset. queues: how many I/O queues of each kind there are."""
    return {
        0x01: 0,
        0x02: 0,
        0x04: _WARNING_TEMPERATURE,
        0x05: 0,
        0x07: (queues - 1) << 16 | queues - 1,
        0x08: 0,
        0x0A: 0,
        0x0B: 0,
    }
