"""A session as QEMU has it: what is asked, what is answered, and what becomes of the device."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable

import pytest

from pyvfio.abi import pci_regs, vfio
from pyvfio.faults import Hold
from pyvfio.vfio_user import abi
from tests.support.vfio_user.bench import (
    MIB,
    Bench,
    RawClient,
    access,
    region_info,
    version,
)

TRIGGER = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
SOME = vfio.VFIO_IRQ_SET_DATA_BOOL | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
OFF = vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX
MSIX = vfio.VFIO_PCI_MSIX_IRQ_INDEX
MASTER = pci_regs.PCI_COMMAND_MASTER
NO_REPLY = abi.VFIO_USER_F_NO_REPLY


def test_the_two_ends_agree_on_a_version(stranger: RawClient) -> None:
    asked = version()
    reply = stranger.ask(abi.VFIO_USER_VERSION, asked)
    assert reply.flags == abi.VFIO_USER_F_TYPE_REPLY
    assert reply.payload[:4] == bytes(4)
    assert reply.payload.endswith(b"\0")
    # QEMU has no room for more than it has sent, and no use for what it has not heard of.
    assert len(reply.payload) <= len(asked)
    assert b"write_multiple" not in reply.payload
    assert b'"max_data_xfer_size":1048576' in reply.payload


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ({}, b""),
        ({"max_msg_fds": 4}, b'{"capabilities":{"max_msg_fds":4}}\0'),
        ({"max_data_xfer_size": 64}, b'{"capabilities":{"max_data_xfer_size":64}}\0'),
        ({"max_dma_maps": 1 << 40, "twin_socket": {"supported": True}}, b'{"capabilities":{"max_dma_maps":65535}}\0'),
    ],
    ids=["nothing", "descriptors", "data", "more than is taken here, and what is not known"],
)
def test_the_reply_tells_what_both_ends_take(stranger: RawClient, told: object, answer: bytes) -> None:
    assert stranger.agree(told).payload == bytes(4) + answer


def test_a_client_may_tell_nothing(stranger: RawClient) -> None:
    assert stranger.ask(abi.VFIO_USER_VERSION, struct.pack("=HH", 0, 7)).payload == bytes(4)


def test_the_device_is_what_it_is(client: RawClient) -> None:
    reply = client.ask(abi.VFIO_USER_DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
    told = vfio.VFIO_DEVICE_FLAGS_RESET | vfio.VFIO_DEVICE_FLAGS_PCI
    assert struct.unpack("=IIII", reply.payload) == (16, told, 10, 5)
    reply = client.ask(abi.VFIO_USER_DEVICE_GET_IRQ_INFO, struct.pack("=IIII", 16, 0, MSIX, 0))
    assert struct.unpack("=IIII", reply.payload) == (16, vfio.VFIO_IRQ_INFO_EVENTFD, MSIX, 16)


def test_a_region_with_capabilities_is_asked_for_twice(client: RawClient) -> None:
    short = client.ask(abi.VFIO_USER_DEVICE_GET_REGION_INFO, region_info(2))
    argsz, flags, index, place, size, offset = struct.unpack("=IIIIQQ", short.payload)
    # 32 is what QEMU takes there; the kernel's own answer has 0.
    assert (index, place, size, offset) == (2, 32, 0x8000, 0)
    assert flags & vfio.VFIO_REGION_INFO_FLAG_CAPS
    assert argsz > 32
    whole = client.ask(abi.VFIO_USER_DEVICE_GET_REGION_INFO, region_info(2, argsz))
    assert len(whole.payload) == argsz
    assert struct.unpack_from("=HHI", whole.payload, 32) == (vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0)
    # A simulated device has no file to be mapped from.
    assert not struct.unpack_from("=I", whole.payload, 4)[0] & vfio.VFIO_REGION_INFO_FLAG_MMAP
    assert whole.fds == short.fds == ()


def test_registers_are_read_and_written(bench: Bench, client: RawClient) -> None:
    assert client.read(CONFIG, 0, 4).payload == access(CONFIG, 0, 4) + struct.pack("<HH", 0x1AF4, 0x10FF)
    assert client.write(2, 0x10, b"\1\2\3\4").payload == access(2, 0x10, 4)
    assert bench.device.region(2).read32(0x10) == 0x04030201
    assert client.read(2, 0x10, 8).payload[16:] == b"\1\2\3\4\0\0\0\0"


def test_a_posted_write_is_made_before_the_next_command_and_not_answered(client: RawClient) -> None:
    client.send(abi.VFIO_USER_REGION_WRITE, access(2, 0, 4) + b"abcd", flags=NO_REPLY)
    # Nor is one that fails.
    client.send(abi.VFIO_USER_REGION_WRITE, access(2, 0x8000, 4) + b"abcd", flags=NO_REPLY)
    assert client.read(2, 0, 4).payload[16:] == b"abcd"


def test_a_client_that_sends_byte_by_byte_is_answered_all_the_same(bench: Bench, client: RawClient) -> None:
    data = struct.pack("=HHIII", 9, abi.VFIO_USER_REGION_READ, 32, 0, 0) + access(CONFIG, 0, 2)
    for place in range(len(data)):
        client.send_bytes(data[place : place + 1])
    assert client.receive().payload[16:] == b"\xf4\x1a"
    assert bench.server.connected


def test_more_than_a_socket_holds_is_read_in_one_message(client: RawClient) -> None:
    # The server keeps what the client does not take, and asks for nothing else meanwhile.
    client.send(abi.VFIO_USER_REGION_READ, access(vfio.VFIO_PCI_VGA_REGION_INDEX, 0, 0xC0000))
    client.send(abi.VFIO_USER_REGION_READ, access(CONFIG, 0, 2))
    assert len(client.receive().payload) == 16 + 0xC0000
    assert client.receive().payload[16:] == b"\xf4\x1a"


def test_interrupts_come_through_the_clients_eventfds(
    bench: Bench, client: RawClient, events: Callable[[int], list[int]]
) -> None:
    fds = events(2)
    assert not client.set_irqs(TRIGGER, MSIX, 0, 2, fds).error
    bench.device.config.enable_bus_master()
    assert not client.set_irqs(OFF, MSIX, 1, 1).error
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fds[0])
    assert os.eventfd_read(fds[1]) == 1
    assert not client.set_irqs(
        vfio.VFIO_IRQ_SET_DATA_BOOL | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, MSIX, 0, 2, data=b"\1\0"
    ).error
    assert os.eventfd_read(fds[0]) == 1
    # Without descriptors, each is detached.
    assert not client.set_irqs(TRIGGER, MSIX, 0, 2).error
    assert not client.set_irqs(OFF, MSIX, 1, 1).error
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fds[1])
    assert not client.set_irqs(OFF, MSIX, 0, 0).error


def test_a_reset_resets(bench: Bench, client: RawClient) -> None:
    client.write(2, 0, b"abcd")
    assert not client.ask(abi.VFIO_USER_DEVICE_RESET).error
    assert bench.device.region(2).read32(0) == 0


def test_a_second_client_is_turned_away(bench: Bench, client: RawClient) -> None:
    with RawClient(bench.path, bench.settle) as second:
        assert second.has_been_left()
    assert bench.heard.words[-1] == "turned away"
    assert client.read(CONFIG, 0, 2).payload[16:] == b"\xf4\x1a"


def end_calls(bench: Bench) -> list[str]:
    """What was asked of the kernel since calls are counted, in words."""
    words = {
        vfio.VFIO_DEVICE_SET_IRQS: "interrupts",
        vfio.VFIO_DEVICE_RESET: "reset",
        vfio.VFIO_IOMMU_UNMAP_DMA: "unmap",
        vfio.VFIO_IOMMU_MAP_DMA: "map",
    }
    return [
        words.get(call.request or 0, call.name)
        for call in bench.kernel.calls
        if call.name in ("pwrite", "ioctl") and (call.request is None or call.request in words)
    ]


def begin(bench: Bench, client: RawClient, ram: int, fds: list[int]) -> None:
    """The guest's driver has the device do DMA, and waits for its interrupts."""
    client.map(0, MIB, ram)
    bench.pass_time()
    assert not client.receive().error
    assert not client.set_irqs(TRIGGER, MSIX, 0, len(fds), fds).error
    client.write(CONFIG, pci_regs.PCI_COMMAND, struct.pack("<H", MASTER | pci_regs.PCI_COMMAND_MEMORY))
    assert bench.device.config.bus_master
    assert bench.mappings == [(0, MIB, 3)]


def goes_in_the_middle(bench: Bench, client: RawClient) -> None:
    client.send_bytes(b"\1\0\5")
    client.socket.close()
    bench.settle()


def stops_in_the_middle(bench: Bench, client: RawClient) -> None:
    client.send_bytes(b"\1\0\5")
    bench.pass_time(11)


def goes(bench: Bench, client: RawClient) -> None:
    client.socket.close()
    bench.settle()


def sends_what_is_no_message(_: Bench, client: RawClient) -> None:
    client.send_bytes(b"\xff" * 64)


def is_left(bench: Bench, _: RawClient) -> None:
    bench.server.close()


ENDS = [goes, goes_in_the_middle, sends_what_is_no_message, stops_in_the_middle, is_left]


@pytest.mark.parametrize("end", ENDS)
def test_the_device_stops_before_its_memory_goes(
    bench: Bench,
    client: RawClient,
    ram: int,
    events: Callable[[int], list[int]],
    end: Callable[[Bench, RawClient], None],
) -> None:
    begin(bench, client, ram, events(2))
    bench.kernel.arm()
    end(bench, client)
    assert end_calls(bench) == ["interrupts", "reset", "pwrite", "unmap"]
    assert not bench.server.connected
    assert not bench.device.config.bus_master
    assert bench.mappings == []
    assert bench.simulated.locked_bytes == 0
    assert bench.heard.words[-1].startswith("disconnected: ")


def test_there_is_a_client_until_its_end_is_made(bench: Bench, client: RawClient, ram: int) -> None:
    client.map(0, MIB, ram)
    bench.pass_time()
    hold = Hold(0, request=vfio.VFIO_IOMMU_UNMAP_DMA)
    bench.kernel.arm(hold)
    client.socket.close()
    serving = threading.Thread(target=bench.settle)
    serving.start()
    try:
        assert hold.reached.wait(10)
        assert bench.server.connected
    finally:
        hold.released.set()
        serving.join()
    assert not bench.server.connected
