"""Guest drivers of a split and a packed ring, over the memory of a front end. They follow the rules unless told not to.

Descriptors, the driver's and the device's area are at 0, 0x1000 and 0x2000; indirect tables at 0x3000; the request and
the answer at 0x4000 and 0x5000.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.support.vhost_user.front_end import EVENT_IDX, FEATURES, PACKED, QUEUE_SIZE, FrontEnd
from virtiomem import Request, RequestType, Response
from virtiomem.device import REQUEST_SIZE, RESPONSE_SIZE

NEXT, WRITE, INDIRECT = 1, 2, 4
TABLE, REQUEST, ANSWER = 0x3000, 0x4000, 0x5000


@dataclass(frozen=True, slots=True)
class Buffer:
    """A descriptor; next: None for the one that follows it in the chain."""

    address: int
    size: int
    flags: int = 0
    next: int | None = None


USUAL = (Buffer(REQUEST, REQUEST_SIZE), Buffer(ANSWER, RESPONSE_SIZE, WRITE))


class Driver(Protocol):
    front_end: FrontEnd

    def offer(self, buffers: Sequence[Buffer]) -> None:
        """Make a chain available; NEXT is set where another buffer follows."""

    def used(self) -> tuple[int, int] | None:
        """The next chain given back: its name and how many bytes were written into it."""


def ask(
    driver: Driver, kind: RequestType, addr: int = 0, nb_blocks: int = 0, buffers: Sequence[Buffer] = USUAL
) -> Response | None:
    """Send a request; None if it was not answered."""
    ram = driver.front_end.ram.bytes
    ram[REQUEST : REQUEST + REQUEST_SIZE] = bytes(Request(kind, addr, nb_blocks))
    ram[ANSWER : ANSWER + RESPONSE_SIZE] = b"\xee" * RESPONSE_SIZE
    driver.offer(buffers)
    driver.front_end.notify()
    used = driver.used()
    if used is None:
        return None
    assert used[1] == RESPONSE_SIZE
    return Response.parse(ram[ANSWER : ANSWER + RESPONSE_SIZE])


class SplitDriver:
    """A Driver."""

    def __init__(self, front_end: FrontEnd, *, event_idx: bool = False) -> None:
        self.front_end = front_end
        self._ram = front_end.ram.bytes
        self._avail = self._seen = 0
        self._free = 0
        self.event_idx = event_idx

    def offer(self, buffers: Sequence[Buffer]) -> None:
        head = self.describe(buffers)
        self.publish(head)

    def describe(self, buffers: Sequence[Buffer]) -> int:
        """Write the chain; its head."""
        head = self._free
        for number, buffer in enumerate(buffers):
            index = (head + number) % QUEUE_SIZE
            follows = (index + 1) % QUEUE_SIZE if buffer.next is None else buffer.next
            flags = buffer.flags | (NEXT if number + 1 < len(buffers) else 0)
            self.descriptor(index, buffer.address, buffer.size, flags, follows)
        self._free = (head + len(buffers)) % QUEUE_SIZE
        return head

    def descriptor(self, index: int, address: int, size: int, flags: int, follows: int) -> None:
        struct.pack_into("<QIHH", self._ram, 16 * index, address, size, flags, follows)

    def publish(self, head: int, steps: int = 1) -> None:
        """Make head available, and move the index by steps."""
        struct.pack_into("<H", self._ram, 0x1000 + 4 + 2 * (self._avail % QUEUE_SIZE), head)
        self._avail = (self._avail + steps) & 0xFFFF
        struct.pack_into("<H", self._ram, 0x1000 + 2, self._avail)

    def used(self) -> tuple[int, int] | None:
        (index,) = struct.unpack_from("<H", self._ram, 0x2000 + 2)
        if index == self._seen:
            return None
        identity, written = struct.unpack_from("<II", self._ram, 0x2000 + 4 + 8 * (self._seen % QUEUE_SIZE))
        self._seen = (self._seen + 1) & 0xFFFF
        return identity, written

    def want_calls(self, event: int | None) -> None:
        """event: with EVENT_IDX, the used index to be told of; without, None for no calls."""
        if self.event_idx:
            struct.pack_into("<H", self._ram, 0x1000 + 4 + 2 * QUEUE_SIZE, event or 0)
        else:
            struct.pack_into("<H", self._ram, 0x1000, int(event is None))

    def kick_event(self) -> int:
        """With EVENT_IDX: the available index the device wants to be kicked for."""
        return int(struct.unpack_from("<H", self._ram, 0x2000 + 4 + 8 * QUEUE_SIZE)[0])


class PackedDriver:
    """A Driver."""

    def __init__(self, front_end: FrontEnd) -> None:
        self.front_end = front_end
        self._ram = front_end.ram.bytes
        self._avail = self._seen = 0
        self._avail_wrap = self._seen_wrap = True
        self._slots: dict[int, int] = {}

    def offer(self, buffers: Sequence[Buffer]) -> None:
        head_flags = 0
        head = self._avail
        identity = (head + 5) % 0x10000
        for number, buffer in enumerate(buffers):
            state = 0x80 if self._avail_wrap else 0x8000
            flags = buffer.flags | state | (NEXT if number + 1 < len(buffers) else 0)
            offset = 16 * self._avail
            struct.pack_into("<QIH", self._ram, offset, buffer.address, buffer.size, identity)
            if number == 0:
                head_flags = flags
            else:
                struct.pack_into("<H", self._ram, offset + 14, flags)
            self._avail += 1
            if self._avail == QUEUE_SIZE:
                self._avail, self._avail_wrap = 0, not self._avail_wrap
        self._slots[identity] = len(buffers)
        struct.pack_into("<H", self._ram, 16 * head + 14, head_flags)

    @property
    def place(self) -> tuple[int, bool]:
        """Where the device gives back the next chain: the slot, and the wrap counter there."""
        return self._seen, self._seen_wrap

    @property
    def following(self) -> tuple[int, bool]:
        """Where the driver makes the next chain available, and the wrap counter there."""
        return self._avail, self._avail_wrap

    def used(self) -> tuple[int, int] | None:
        _, written, identity, flags = struct.unpack_from("<QIHH", self._ram, 16 * self._seen)
        wanted = 0x8080 if self._seen_wrap else 0
        if flags & 0x8080 != wanted:
            return None
        self._seen += self._slots.pop(identity)
        if self._seen >= QUEUE_SIZE:
            self._seen, self._seen_wrap = self._seen - QUEUE_SIZE, not self._seen_wrap
        return identity, written

    def want_calls(self, off_wrap: int, flags: int) -> None:
        struct.pack_into("<HH", self._ram, 0x1000, off_wrap, flags)

    def kick_event(self) -> tuple[int, int]:
        off_wrap, flags = struct.unpack_from("<HH", self._ram, 0x2000)
        return off_wrap, flags


DRIVERS = ("split", "packed")


def write_table(front_end: FrontEnd, kind: str, buffers: Sequence[Buffer]) -> None:
    """Put buffers into the table of indirect descriptors, laid out as rings of this kind have it."""
    for number, buffer in enumerate(buffers):
        place = front_end.ram.bytes, TABLE + 16 * number, buffer.address, buffer.size
        if kind == "packed":
            struct.pack_into("<QIHH", *place, 0, buffer.flags)
        else:
            flags = buffer.flags | (NEXT if number + 1 < len(buffers) else 0)
            struct.pack_into("<QIHH", *place, flags, number + 1 if buffer.next is None else buffer.next)


def started(front_end: FrontEnd, kind: str, features: int = 0) -> SplitDriver | PackedDriver:
    """Connect, negotiate and start, as the driver of a ring of this kind."""
    front_end.connect()
    front_end.start(FEATURES | features | (PACKED if kind == "packed" else 0))
    if kind == "packed":
        return PackedDriver(front_end)
    return SplitDriver(front_end, event_idx=bool(features & EVENT_IDX))


def restarted(front_end: FrontEnd, kind: str) -> SplitDriver | PackedDriver:
    """The driver has gone and comes again, with rings set up anew."""
    front_end.stop()
    front_end.ram.bytes[:TABLE] = bytes(TABLE)
    return started(front_end, kind)
