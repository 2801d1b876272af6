"""What no client may send: an error with the right errno and the session goes on, or the session's end."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvfio.abi import vfio
from pyvfio.vfio_user import abi
from tests.support.vfio_user.bench import (
    MIB,
    Bench,
    RawClient,
    access,
    dma_map,
    dma_unmap,
    irq_set,
    region_info,
    version,
)

CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX
MSIX, INTX = vfio.VFIO_PCI_MSIX_IRQ_INDEX, vfio.VFIO_PCI_INTX_IRQ_INDEX
NONE, BOOL, EVENTFD = (
    vfio.VFIO_IRQ_SET_DATA_NONE,
    vfio.VFIO_IRQ_SET_DATA_BOOL,
    vfio.VFIO_IRQ_SET_DATA_EVENTFD,
)
TRIGGER, MASK = vfio.VFIO_IRQ_SET_ACTION_TRIGGER, vfio.VFIO_IRQ_SET_ACTION_MASK
TOP = 1 << 64


@dataclass(frozen=True, slots=True)
class Row:
    """A command with its payload, descriptors of these kinds, and the errno of its answer."""

    command: int
    payload: bytes
    fds: tuple[str, ...] = ()
    error: int = errno.EINVAL


REFUSED = {
    "a second version": Row(abi.VFIO_USER_VERSION, version()),
    "info, no payload": Row(abi.VFIO_USER_DEVICE_GET_INFO, b""),
    "info, too long": Row(abi.VFIO_USER_DEVICE_GET_INFO, bytes(17)),
    "info, no room": Row(abi.VFIO_USER_DEVICE_GET_INFO, struct.pack("=IIII", 15, 0, 0, 0)),
    "info, a descriptor": Row(abi.VFIO_USER_DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0), ("file",)),
    "region info, too short": Row(abi.VFIO_USER_DEVICE_GET_REGION_INFO, bytes(31)),
    "region info, no room": Row(abi.VFIO_USER_DEVICE_GET_REGION_INFO, region_info(0, 31)),
    "region info, no such region": Row(abi.VFIO_USER_DEVICE_GET_REGION_INFO, region_info(10)),
    "region info, a descriptor": Row(abi.VFIO_USER_DEVICE_GET_REGION_INFO, region_info(0), ("file",)),
    "interrupt info, no room": Row(abi.VFIO_USER_DEVICE_GET_IRQ_INFO, struct.pack("=IIII", 15, 0, 0, 0)),
    "interrupt info, no such index": Row(abi.VFIO_USER_DEVICE_GET_IRQ_INFO, struct.pack("=IIII", 16, 0, 5, 0)),
    "interrupt info, too short": Row(abi.VFIO_USER_DEVICE_GET_IRQ_INFO, bytes(15)),
    "interrupts, too short": Row(abi.VFIO_USER_DEVICE_SET_IRQS, bytes(19)),
    "interrupts, no flags": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(0, MSIX, 0, 0)),
    "interrupts, two kinds of data": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(NONE | BOOL | TRIGGER, MSIX, 0, 0)),
    "interrupts, two actions": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(NONE | MASK | TRIGGER, MSIX, 0, 0)),
    "interrupts, unknown flags": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(NONE | TRIGGER | 1 << 9, MSIX, 0, 0)),
    "interrupts, no such index": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(NONE | TRIGGER, 5, 0, 0)),
    "interrupts, more than there are": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 0, 17)),
    "interrupts, past the last": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 16, 1)),
    "interrupts, so many that they wrap": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 0xFFFF_FFFF, 0xFFFF_FFFF)
    ),
    "interrupts, fewer descriptors than vectors": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 0, 2), ("eventfd",)
    ),
    "interrupts, more descriptors than vectors": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 0, 1), ("eventfd", "eventfd")
    ),
    "interrupts, a descriptor and nothing for it": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(NONE | TRIGGER, MSIX, 0, 0), ("eventfd",)
    ),
    "interrupts, a file for an eventfd": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 0, 1), ("file",)
    ),
    "interrupts, a pipe for an eventfd": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, INTX, 0, 1), ("pipe",)
    ),
    "interrupts, data for eventfds": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 0, 1, b"\0\0\0\0"), ("eventfd",)
    ),
    "interrupts, too few bytes": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(BOOL | TRIGGER, MSIX, 0, 2, b"\1")),
    "interrupts, another argsz": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(BOOL | TRIGGER, MSIX, 0, 2, b"\1\1", argsz=20)
    ),
    "interrupts, fired while off": Row(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(NONE | TRIGGER, MSIX, 0, 1)),
    "interrupts, masked where there is no mask": Row(
        abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(NONE | MASK, MSIX, 0, 1), error=errno.ENOTTY
    ),
    "read, too short": Row(abi.VFIO_USER_REGION_READ, bytes(15)),
    "read, with data": Row(abi.VFIO_USER_REGION_READ, access(2, 0, 4) + bytes(4)),
    "read, nothing": Row(abi.VFIO_USER_REGION_READ, access(2, 0, 0)),
    "read, more than is taken": Row(abi.VFIO_USER_REGION_READ, access(2, 0, MIB + 1)),
    "read, past the end": Row(abi.VFIO_USER_REGION_READ, access(2, 0x7FFF, 2)),
    "read, so far out that it wraps": Row(abi.VFIO_USER_REGION_READ, access(2, TOP - 2, 4)),
    "read, no such region": Row(abi.VFIO_USER_REGION_READ, access(10, 0, 1)),
    "read, a region of no bytes": Row(abi.VFIO_USER_REGION_READ, access(1, 0, 1)),
    "read, a descriptor": Row(abi.VFIO_USER_REGION_READ, access(2, 0, 4), ("file",)),
    "write, less than it says": Row(abi.VFIO_USER_REGION_WRITE, access(2, 0, 4) + bytes(3)),
    "write, more than it says": Row(abi.VFIO_USER_REGION_WRITE, access(2, 0, 4) + bytes(5)),
    "write, so much that it wraps": Row(abi.VFIO_USER_REGION_WRITE, access(2, 0, 0xFFFF_FFFF)),
    "write, past the end": Row(abi.VFIO_USER_REGION_WRITE, access(2, 0x7FFC, 8) + bytes(8)),
    "write, past the end of config space": Row(abi.VFIO_USER_REGION_WRITE, access(CONFIG, 4095, 2) + bytes(2)),
    "write, what is read only": Row(
        abi.VFIO_USER_REGION_WRITE, access(vfio.VFIO_PCI_ROM_REGION_INDEX, 0, 1) + b"\0", error=errno.EPERM
    ),
    "write, a descriptor": Row(abi.VFIO_USER_REGION_WRITE, access(2, 0, 1) + b"\0", ("file",)),
    "reset, with a payload": Row(abi.VFIO_USER_DEVICE_RESET, bytes(4)),
    "reset, a descriptor": Row(abi.VFIO_USER_DEVICE_RESET, b"", ("file",)),
    "map, too short": Row(abi.VFIO_USER_DMA_MAP, bytes(31)),
    "map, too long": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, MIB) + bytes(8), ("file",)),
    "map, another argsz": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, MIB, argsz=31), ("file",)),
    "map, nothing": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 0), ("file",)),
    "map, part of a page": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 100), ("file",)),
    "map, at part of a page": Row(abi.VFIO_USER_DMA_MAP, dma_map(16, 4096), ("file",)),
    "map, from part of a page": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096, offset=16), ("file",)),
    "map, so much that it wraps": Row(abi.VFIO_USER_DMA_MAP, dma_map(TOP - 4096, 8192), ("file",)),
    "map, more than the file has": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 32 * MIB), ("file",)),
    "map, past the file": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096, offset=16 * MIB), ("file",)),
    "map, so far in the file that it wraps": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096, offset=TOP - 4096), ("file",)),
    "map, no flags": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096, flags=0), ("file",)),
    "map, unknown flags": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096, flags=7), ("file",)),
    "map, two descriptors": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096), ("file", "file")),
    "map, a pipe": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096), ("pipe",)),
    "map, a directory": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096), ("directory",)),
    "map, an eventfd": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096), ("eventfd",)),
    "map, a device": Row(abi.VFIO_USER_DMA_MAP, dma_map(0, 4096), ("null",)),
    "map, what is mapped": Row(abi.VFIO_USER_DMA_MAP, dma_map(0x4000_0000, 4096), ("file",), errno.EEXIST),
    "map, around what is mapped": Row(abi.VFIO_USER_DMA_MAP, dma_map(0x3FFF_F000, 3 << 12), ("file",), errno.EEXIST),
    "unmap, too short": Row(abi.VFIO_USER_DMA_UNMAP, bytes(23)),
    "unmap, nothing": Row(abi.VFIO_USER_DMA_UNMAP, dma_unmap(0, 0)),
    "unmap, part of a page": Row(abi.VFIO_USER_DMA_UNMAP, dma_unmap(0x4000_0000, 100)),
    "unmap, so much that it wraps": Row(abi.VFIO_USER_DMA_UNMAP, dma_unmap(8192, TOP - 4096)),
    "unmap, flags": Row(abi.VFIO_USER_DMA_UNMAP, dma_unmap(0x4000_0000, 8192, flags=1)),
    "unmap, another argsz": Row(abi.VFIO_USER_DMA_UNMAP, dma_unmap(0x4000_0000, 8192, argsz=64)),
    "unmap, half of a range": Row(abi.VFIO_USER_DMA_UNMAP, dma_unmap(0x4000_0000, 4096)),
    "unmap, a descriptor": Row(abi.VFIO_USER_DMA_UNMAP, dma_unmap(0x4000_0000, 8192), ("file",)),
    "no command": Row(0, b"", error=errno.ENOSYS),
    "a command of nobody": Row(999, bytes(8), error=errno.ENOSYS),
    "a command that goes the other way": Row(abi.VFIO_USER_DMA_READ, bytes(16), error=errno.ENOSYS),
    "what QEMU may send if it is offered": Row(abi.VFIO_USER_REGION_WRITE_MULTI, bytes(32), error=errno.ENOSYS),
    "migration": Row(abi.VFIO_USER_DEVICE_FEATURE, bytes(16), error=errno.ENOSYS),
}


@pytest.fixture
def kinds(tmp_path: Path, ram: int, events: Callable[[int], list[int]]) -> Iterator[dict[str, int]]:
    """A descriptor of each kind."""
    reading, writing = os.pipe()
    others = {"directory": os.open(tmp_path, os.O_RDONLY), "null": os.open("/dev/null", os.O_RDWR), "pipe": reading}
    yield {"file": ram, "eventfd": events(1)[0], **others}
    for fd in (*others.values(), writing):
        os.close(fd)


@pytest.mark.parametrize("row", REFUSED.values(), ids=[*REFUSED])
def test_a_command_that_is_refused_changes_nothing(
    bench: Bench, client: RawClient, kinds: dict[str, int], ram: int, row: Row
) -> None:
    client.map(0x4000_0000, 8192, ram)
    bench.pass_time()
    assert not client.receive().error
    before, files = (bench.server.record(), bench.mappings), open_files()
    number = client.send(row.command, row.payload, [kinds[kind] for kind in row.fds])
    bench.pass_time()
    reply = client.receive()
    assert (reply.identity, reply.command, reply.flags) == (number, row.command, 0x21)
    assert (errno.errorcode[reply.error], reply.payload) == (errno.errorcode[row.error], b"")
    assert (bench.server.record(), bench.mappings) == before
    assert not open_files() - files
    # The session goes on.
    assert client.read(CONFIG, 0, 2).payload[16:] == b"\xf4\x1a"


def header(size: int, flags: int = 0, command: int = abi.VFIO_USER_DEVICE_RESET) -> bytes:
    return struct.pack("=HHIII", 1, command, size, flags, 0)


FATAL = {
    "less than a header": header(15),
    "no size": header(0),
    "more than any message has": header(16 + 16 + MIB + 1),
    "as much as a number can be": header(0xFFFF_FFFF),
    "a reply that nobody waits for": header(16, abi.VFIO_USER_F_TYPE_REPLY),
    "a message of no type": header(16, 2),
    "flags that nobody knows": header(16, 1 << 31),
}


@pytest.mark.parametrize("data", FATAL.values(), ids=[*FATAL])
def test_what_is_no_message_ends_the_session(bench: Bench, client: RawClient, data: bytes) -> None:
    client.send_bytes(data)
    assert client.has_been_left()
    assert not bench.server.connected


GREETINGS = {
    "another major version": version(major=1),
    "too short": b"\0\0\0",
    "no zero byte at its end": version()[:-1],
    "something behind it": version() + b"{}",
    "no JSON": b"\0\0\0\0" + b"{capabilities}\0",
    "no text": b"\0\0\0\0" + b"\xff\xfe\0",
    "a list": b"\0\0\0\0[]\0",
    "a list of capabilities": b'\0\0\0\0{"capabilities":[]}\0',
    "lists without end": b"\0\0\0\0" + b"[" * 4000 + b"\0",
    "a word for a number": version({"max_msg_fds": "many"}),
    "a fraction": version({"max_data_xfer_size": 1.5}),
    "nothing at a time": version({"max_data_xfer_size": 0}),
    "less than nothing": version({"max_dma_maps": -1}),
    "yes for a number": version({"max_msg_fds": True}),
    "a number without end": b'\0\0\0\0{"capabilities":{"pgsizes":' + b"9" * 4000 + b"}}\0",
}


@pytest.mark.parametrize("payload", GREETINGS.values(), ids=[*GREETINGS])
def test_a_greeting_that_cannot_be_ends_the_session(bench: Bench, stranger: RawClient, payload: bytes) -> None:
    reply = stranger.ask(abi.VFIO_USER_VERSION, payload)
    assert reply.error in (errno.EINVAL, errno.EOPNOTSUPP)
    assert stranger.has_been_left()
    assert not bench.server.connected


def test_a_greeting_that_is_too_long_is_no_message(stranger: RawClient) -> None:
    stranger.send(abi.VFIO_USER_VERSION, bytes(4097))
    assert stranger.has_been_left()


def test_nothing_comes_before_the_greeting(bench: Bench, stranger: RawClient) -> None:
    stranger.send(abi.VFIO_USER_DEVICE_RESET)
    assert stranger.has_been_left()
    assert bench.heard.words[-1] == "disconnected: no version has been agreed on yet"


@pytest.mark.parametrize("count", [17, 253])
def test_too_many_descriptors_end_the_session(client: RawClient, ram: int, count: int) -> None:
    before = open_files()
    client.send(abi.VFIO_USER_DEVICE_SET_IRQS, irq_set(EVENTFD | TRIGGER, MSIX, 0, 16), [ram] * count)
    assert client.has_been_left()
    assert not open_files() - before


def test_descriptors_of_half_a_message_are_closed(bench: Bench, client: RawClient, ram: int) -> None:
    before = open_files()
    client.send_bytes(header(48, command=abi.VFIO_USER_DMA_MAP)[:8], [ram] * 16)
    client.socket.close()
    bench.settle()
    assert not open_files() - before


def test_a_client_that_says_nothing_makes_room(bench: Bench, stranger: RawClient) -> None:
    bench.pass_time(9)
    assert bench.server.connected
    bench.pass_time(2)
    assert stranger.has_been_left()
    assert bench.heard.words[-1] == "disconnected: the other end has proposed no version"
    with RawClient(bench.path, bench.settle) as next_client:
        assert not next_client.agree().error


def test_a_client_that_reads_no_replies_is_left(bench: Bench, client: RawClient) -> None:
    for _ in range(4):
        client.send(abi.VFIO_USER_REGION_READ, access(vfio.VFIO_PCI_VGA_REGION_INDEX, 0, 0xC0000))
    bench.pass_time(9)
    assert bench.server.connected
    bench.pass_time(2)
    assert bench.heard.words[-1] == "disconnected: the other end does not read its replies"


def test_a_client_that_is_slow_but_moves_is_served(bench: Bench, client: RawClient) -> None:
    client.send(abi.VFIO_USER_REGION_READ, access(vfio.VFIO_PCI_VGA_REGION_INDEX, 0, 0xC0000))
    size = 16 + 16 + 0xC0000
    while size:
        bench.pass_time(9)
        data = client.socket.recv(min(size, 1 << 18))
        assert data
        size -= len(data)
    assert client.read(CONFIG, 0, 2).payload[16:] == b"\xf4\x1a"


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))
