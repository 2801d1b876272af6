"""Split and packed rings by themselves, over memory that a test writes: what a driver may not do, and what it sees."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from pyvfio.kernel import LinuxKernel
from virtiomem.vhost_user.abi.vhost_user import VhostUserMemoryRegion
from virtiomem.vhost_user.connection import Connection
from virtiomem.vhost_user.errors import FrontEndError, QueueBroken
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.packed_queue import PackedQueue
from virtiomem.vhost_user.split_queue import SplitQueue
from virtiomem.vhost_user.virtqueue import RingFeatures, RingLayout

USER, SIZE, ROOM = 0x7000_0000, 8, 1 << 16
LAYOUT = RingLayout(SIZE, USER, USER + 0x1000, USER + 0x2000)
NEXT, WRITE, INDIRECT = 1, 2, 4
NONE, ALL = RingFeatures(False, False), RingFeatures(True, True)


class Guest:
    """64 KiB of a guest's memory at its address 0."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, ROOM)
        self.table = MemoryTable(LinuxKernel())
        self.table.add(VhostUserMemoryRegion(0, ROOM, USER, 0), os.dup(self.fd))

    def put(self, place: int, layout: str, *values: int) -> None:
        os.pwrite(self.fd, struct.pack(f"<{layout}", *values), place)

    def number(self, place: int) -> int:
        return int.from_bytes(os.pread(self.fd, 2, place), "little")

    def descriptor(
        self, index: int, address: int, size: int, flags: int = 0, following: int = 0, table: int = 0
    ) -> None:
        self.put(table + 16 * index, "QIHH", address, size, flags, following)

    def offer(self, *heads: int) -> None:
        self.put(0x1000, f"HH{len(heads)}H", 0, len(heads), *heads)

    def packed(self, index: int, address: int, size: int, flags: int = 0) -> None:
        self.put(16 * index, "QIHH", address, size, 7, flags | 0x80)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.table.close()
    os.close(guest.fd)


def split(guest: Guest, features: RingFeatures = ALL) -> SplitQueue:
    return SplitQueue(guest.table, LAYOUT, features, 0)


def test_a_chain_comes_and_goes(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 4, NEXT, 1)
    guest.descriptor(1, 0x4000, 8, WRITE)
    guest.offer(0)
    os.pwrite(guest.fd, b"question", 0x3000)
    queue = split(guest)
    chain = queue.pop()
    assert chain is not None
    assert (chain.read(100), chain.writable_size, chain.buffers) == (b"ques", 8, 2)
    chain.write(b"answer")
    queue.push(chain, 6)
    assert os.pread(guest.fd, 6, 0x4000) == b"answer"
    assert (guest.number(0x2002), queue.pop()) == (1, None)


def too_many(guest: Guest) -> None:
    guest.put(0x1000, "HH", 0, SIZE + 1)


def outside_the_table(guest: Guest) -> None:
    guest.offer(SIZE)


def a_loop(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 4, NEXT, 0)
    guest.offer(0)


def an_empty_buffer(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 0)
    guest.offer(0)


def readable_after_writable(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 4, NEXT | WRITE, 1)
    guest.descriptor(1, 0x3000, 4)
    guest.offer(0)


def not_the_guests(guest: Guest) -> None:
    guest.descriptor(0, ROOM - 2, 4)
    guest.offer(0)


def indirect_within_a_table(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 16, INDIRECT)
    guest.descriptor(0, 0x4000, 16, INDIRECT, table=0x3000)
    guest.descriptor(0, 0x5000, 4, table=0x4000)
    guest.offer(0)


def indirect_with_another_behind_it(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 16, INDIRECT | NEXT, 1)
    guest.descriptor(0, 0x5000, 4, table=0x3000)
    guest.offer(0)


def a_table_of_half_a_descriptor(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 24, INDIRECT)
    guest.descriptor(0, 0x5000, 4, table=0x3000)
    guest.offer(0)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (too_many, "9 chains available in a ring of 8"),
        (outside_the_table, "descriptor 8 of 8"),
        (a_loop, "more than the ring's 8 buffers"),
        (an_empty_buffer, "a buffer is empty"),
        (readable_after_writable, "a readable buffer follows"),
        (not_the_guests, "not the guest's memory"),
        (indirect_within_a_table, "an indirect descriptor within a table"),
        (indirect_with_another_behind_it, "or with one that follows it"),
        (a_table_of_half_a_descriptor, "a table of indirect descriptors of 24 bytes"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_what_no_driver_may_do_breaks_a_split_ring(guest: Guest, prepare: object, why: str) -> None:
    prepare(guest)  # type: ignore[operator]
    with pytest.raises(QueueBroken, match=why):
        split(guest).pop()


def test_indirect_descriptors_are_negotiated(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 16, INDIRECT)
    guest.descriptor(0, 0x5000, 4, table=0x3000)
    guest.offer(0)
    assert split(guest).pop() is not None
    with pytest.raises(QueueBroken, match="which was not negotiated"):
        split(guest, NONE).pop()


@pytest.mark.parametrize("kind", [SplitQueue, PackedQueue])
@pytest.mark.parametrize("area", ["descriptors", "driver", "device"])
def test_areas_are_aligned(guest: Guest, kind: type[SplitQueue | PackedQueue], area: str) -> None:
    places = {"descriptors": USER, "driver": USER + 0x1000, "device": USER + 0x2000}
    places[area] += 1
    with pytest.raises(QueueBroken, match=r"aligned|no multiple of"):
        kind(guest.table, RingLayout(SIZE, **places), ALL, 0)


def test_a_driver_is_called_for_what_was_pushed_since(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 4)
    guest.offer(0, 0)
    queue = split(guest, NONE)
    assert not queue.must_notify()
    for _ in range(2):
        chain = queue.pop()
        assert chain is not None
        queue.push(chain, 0)
        assert queue.must_notify()
        assert not queue.must_notify()


def test_a_driver_that_wants_no_calls_gets_none(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 4)
    guest.offer(0)
    guest.put(0x1000, "H", 1)
    queue = split(guest, NONE)
    chain = queue.pop()
    assert chain is not None
    queue.push(chain, 0)
    assert not queue.must_notify()


def test_indexes_wrap_at_65536(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 4)
    guest.put(0x1000, "HH8H", 0, 1, *[0] * 8)
    guest.put(0x2000, "HH", 0, 0xFFFF)
    queue = SplitQueue(guest.table, LAYOUT, NONE, 0xFFFF)
    for expected in (0, 1):
        chain = queue.pop()
        assert chain is not None
        queue.push(chain, 0)
        assert guest.number(0x2002) == expected
        assert queue.base_after_process(None) == expected
        assert queue.must_notify()
    assert (queue.pop(), queue.base) == (None, 1)


def test_a_driver_is_told_from_where_on_to_kick(guest: Guest) -> None:
    guest.descriptor(0, 0x3000, 4)
    guest.offer(0)
    queue = split(guest)
    assert queue.pop() is not None
    queue.enable_kicks()
    assert guest.number(0x2004 + 8 * SIZE) == 1


def test_a_packed_ring_goes_round(guest: Guest) -> None:
    queue = PackedQueue(guest.table, LAYOUT, NONE, 0x8000_8000)
    for number in range(2 * SIZE + 1):
        wrapped = number // SIZE % 2 == 0
        guest.put(16 * (number % SIZE), "QIHH", 0x3000, 4, number, 0x80 if wrapped else 0x8000)
        chain = queue.pop()
        assert chain is not None
        assert chain.id == number
        queue.push(chain, number % 2)
        written = WRITE if number % 2 else 0
        assert guest.number(16 * (number % SIZE) + 14) == (0x8080 if wrapped else 0) | written
        assert queue.must_notify()
        # What was used is not available again.
        assert queue.pop() is None


def test_a_chain_takes_as_many_slots_as_it_has_descriptors(guest: Guest) -> None:
    guest.packed(0, 0x3000, 4, NEXT)
    guest.packed(1, 0x4000, 4, WRITE)
    queue = PackedQueue(guest.table, LAYOUT, NONE, 0x8000_8000)
    chain = queue.pop()
    assert chain is not None
    assert chain.slots == 2
    queue.push(chain, 4)
    assert queue.base == 0x8002_8002


@pytest.mark.parametrize("base", [SIZE, 0x8000 | SIZE, 0x7FFF, SIZE << 16])
def test_a_packed_ring_stands_at_one_of_its_descriptors(guest: Guest, base: int) -> None:
    with pytest.raises(QueueBroken, match="it stands at descriptor"):
        PackedQueue(guest.table, LAYOUT, NONE, base)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ((0, 0, USER, 0), "it is empty"),
        (((1 << 64) - 4096, 8192, 0x1000, 0), "its end wraps"),
        ((0x100_0000, 4096, (1 << 64) - 1, 0), "its end wraps"),
        ((0x100_0000, 4096, 0x1000, (1 << 64) - 1), "its end wraps"),
        ((ROOM - 4096, 8192, 0x1000, 0), "it overlaps another region"),
        ((0x100_0000, 8192, USER + ROOM - 4096, 0), "it overlaps another region in the front end"),
        ((0x100_0000, 1 << 44, 1 << 46, 0), "a guest has at most"),
        ((0x100_0000, ROOM + 4096, 0x1000, 0), "its file is too short"),
    ],
)
def test_a_region_that_cannot_be_is_refused_and_its_file_closed(
    guest: Guest, entry: tuple[int, int, int, int], why: str
) -> None:
    fd = os.dup(guest.fd)
    with pytest.raises(FrontEndError, match=why):
        guest.table.add(VhostUserMemoryRegion(*entry), fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert len(guest.table.regions) == 1


def test_what_is_no_file_is_no_memory(guest: Guest) -> None:
    with pytest.raises(FrontEndError, match="no file of memory"):
        guest.table.add(VhostUserMemoryRegion(0x100_0000, 4096, 0x1000, 0), os.eventfd(0))


def test_regions_that_are_replaced_are_unmapped(guest: Guest) -> None:
    (before,) = guest.table.regions
    guest.table.replace([VhostUserMemoryRegion(0x100_0000, ROOM, 0x1000, 0)], [os.dup(guest.fd)])
    assert before.memory.closed
    assert [region.guest_address for region in guest.table.regions] == [0x100_0000]


@pytest.mark.parametrize(
    ("head", "why"), [((1, 1, 5000), "no message is that long"), ((1, 2, 0), "not version 1 of the protocol")]
)
def test_what_cannot_be_a_message_ends_the_session(head: tuple[int, int, int], why: str) -> None:
    """Before any more of it has come."""
    ours, theirs = socket.socketpair()
    with theirs, closing(Connection(ours)) as connection:
        theirs.sendall(struct.pack("<III", *head))
        with pytest.raises(FrontEndError, match=why):
            connection.receive()
