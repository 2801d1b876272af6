"""The header of a crash dump, as a crashed kernel leaves it for the one that takes over. Source: elf(5), vmcore.c."""

from __future__ import annotations

import struct

ADDRESS = 0x1000_0000
"""Where in the guest's memory it is put; the kernel keeps off 64 KiB there."""
ARGUMENTS = f"elfcorehdr={ADDRESS:#x} memmap=64K${ADDRESS:#x}"

_PAGE = 4096
_PT_LOAD, _PT_NOTE = 1, 4
_ET_CORE, _EM_X86_64 = 4, 62
_EHDR_SIZE, _PHDR_SIZE = 64, 56


def core_header(start: int, size: int) -> bytes:
    """A dump of size bytes of guest-physical memory from start, and of one empty note."""
    note = struct.pack("<III8s", 5, 0, 1, b"CORE")
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(_ET_CORE, _EM_X86_64, 1, 0, _EHDR_SIZE, 0, 0, _EHDR_SIZE, _PHDR_SIZE, 2, 0, 0, 0),
    )
    notes = struct.pack("<IIQQQQQQ", _PT_NOTE, 0, ADDRESS + _PAGE, 0, 0, len(note), len(note), 4)
    load = struct.pack("<IIQQQQQQ", _PT_LOAD, 7, start, 0, start, size, size, _PAGE)
    return (elf + notes + load).ljust(_PAGE, b"\0") + note.ljust(_PAGE, b"\0")


def load_offset(dump: bytes) -> int:
    """Where the memory begins in /proc/vmcore, whose first bytes are dump."""
    (count,) = struct.unpack_from("<H", dump, 56)
    for number in range(count):
        kind, _, offset = struct.unpack_from("<IIQ", dump, _EHDR_SIZE + number * _PHDR_SIZE)
        if kind == _PT_LOAD:
            return int(offset)
    raise ValueError("no memory in the dump")
