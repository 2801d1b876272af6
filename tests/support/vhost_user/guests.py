"""Guests that plug and unplug as they like, whoever serves them."""

from __future__ import annotations

import os
import random
import select
import struct
from itertools import groupby
from typing import Literal

from tests.support.vhost_user.driver import ANSWER, REQUEST, USUAL, PackedDriver, SplitDriver
from tests.support.vhost_user.front_end import (
    BLOCK,
    FEATURES,
    PACKED,
    RAM_SIZE,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_SIZE,
    Elsewhere,
    FrontEnd,
    Shared,
    mem_reg,
    region,
    table,
    u64,
)
from tests.support.vhost_user.mortal import Mortal
from virtiomem import Request, RequestType, Response, ResponseType
from virtiomem.control import ControlClient, DeviceStatus
from virtiomem.device import REQUEST_SIZE, RESPONSE_SIZE, BlockState
from virtiomem.vhost_user.messages import FrontEndRequest

Kind = Literal["split", "packed"]

ACK = ResponseType.ACK
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
BLOCKS = REGION_SIZE // BLOCK
_EXTRA = region(RAM_SIZE, RAM_SIZE, RAM_USER_ADDRESS + 2 * RAM_SIZE)


class Guest:
    """Plugs and unplugs as it likes, and connects again whenever its server has gone.

    plugged: what it believes, with marks in each block. spared: blocks that stay as they are. requests: how many it has
    made.
    """

    def __init__(self, servers: Mortal, kind: str, chance: random.Random) -> None:
        self._servers = servers
        self._kind = kind
        self._chance = chance
        self.ram, self.region = Shared(RAM_SIZE), Shared(REGION_SIZE)
        self.plugged: dict[int, bytes] = {}
        self.spared: set[int] = set()
        self.requests = 0
        self.front_end = self._connected()
        self.driver: SplitDriver | PackedDriver
        self.driver = PackedDriver(self.front_end) if kind == "packed" else SplitDriver(self.front_end)
        self._start(0x8000_8000 if kind == "packed" else 0)

    def _connected(self) -> FrontEnd:
        front_end = FrontEnd(Elsewhere(self._servers.path), region=self.region, ram=self.ram)
        front_end.connect()
        return front_end

    def _start(self, base: int) -> None:
        self.front_end.start(FEATURES | (PACKED if self._kind == "packed" else 0), base=base)

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> Response:
        """Ask once, and wait for the answer, whoever gives it."""
        self.ram.bytes[REQUEST : REQUEST + REQUEST_SIZE] = bytes(Request(kind, REGION_ADDRESS + block * BLOCK, count))
        self.driver.offer(USUAL)
        self.requests += 1
        try:
            os.eventfd_write(self.front_end.kick, 1)
            self._answered()
        except (ConnectionError, EOFError):
            self._come_back()
        assert self.driver.used() is not None
        return Response.parse(self.ram.bytes[ANSWER : ANSWER + RESPONSE_SIZE])

    def _answered(self) -> None:
        """Until the device has called. Raises EOFError if the server has gone before."""
        ends = select.select([self.front_end.call, self.front_end.socket.fileno()], [], [], 60)[0]
        assert ends
        if self.front_end.call not in ends:
            raise EOFError
        os.eventfd_read(self.front_end.call)

    def _come_back(self) -> None:
        """To the next server, as often as it takes. What was asked is in the ring still, or answered there."""
        while True:
            self._servers.kill()
            self._servers.start()
            self._drop()
            try:
                self.front_end = self._connected()
                self.driver.front_end = self.front_end
                base, is_answered = self._ring()
                self._start(base)
                if is_answered:
                    return
                self._answered()
                return
            except (ConnectionError, EOFError):
                continue

    def _drop(self) -> None:
        self.front_end.socket.close()
        self.front_end.channel.close()
        for fd in (self.front_end.kick, self.front_end.call, self.front_end.error):
            os.close(fd)

    def _ring(self) -> tuple[int, bool]:
        """Where the ring stands by what was given back in it, and whether the request that was made last was."""
        ram = self.ram.bytes
        if isinstance(self.driver, PackedDriver):
            slot, wrap = self.driver.place
            (flags,) = struct.unpack_from("<H", ram, 16 * slot + 14)
            is_answered = flags & 0x8080 == (0x8080 if wrap else 0)
            if is_answered:
                slot, wrap = self.driver.following
            return (slot | wrap << 15) * 0x1_0001, is_answered
        (used,) = struct.unpack_from("<H", ram, 0x2000 + 2)
        (available,) = struct.unpack_from("<H", ram, 0x1000 + 2)
        return used, used == available

    def act(self) -> None:
        """One request that a driver may make, with its answer, and what follows from it in the guest."""
        free = [block for block in range(BLOCKS) if block not in self.plugged]
        kind = self._chance.choice((PLUG, PLUG, UNPLUG, STATE, UNPLUG_ALL) if self.plugged else (PLUG,))
        if kind is PLUG and free:
            block = self._chance.choice(free)
            count = 1
            while block + count in free and self._chance.random() < 0.7:
                count += 1
            self.plug(block, count)
        elif kind is UNPLUG and self.plugged.keys() - self.spared:
            block = self._chance.choice(sorted(self.plugged.keys() - self.spared))
            del self.plugged[block]
            assert self.ask(UNPLUG, block, 1).type is ACK
        elif kind is UNPLUG_ALL and not self.spared and self._chance.random() < 0.2:
            self.plugged.clear()
            assert self.ask(UNPLUG_ALL).type is ACK
        else:
            self.ask(STATE, 0, BLOCKS)

    def plug(self, block: int, count: int = 1) -> None:
        """Plug blocks, and mark them."""
        assert self.ask(PLUG, block, count).type is ACK
        for number in range(block, block + count):
            mark = self._chance.randbytes(16)
            self.plugged[number] = mark
            self.region.bytes[number * BLOCK : number * BLOCK + 16] = mark
            self.region.bytes[(number + 1) * BLOCK - 16 : (number + 1) * BLOCK] = mark

    def expect_in_step(self) -> None:
        """Mapped is plugged is what the guest knows, its data are there, and nothing else is in the memory."""
        for is_plugged, blocks in groupby(range(BLOCKS), self.plugged.__contains__):
            first, *others = blocks
            expected = BlockState.PLUGGED if is_plugged else BlockState.UNPLUGGED
            assert self.ask(STATE, first, 1 + len(others)) == Response(ACK, expected), first
        for block, mark in self.plugged.items():
            for start in (block * BLOCK, (block + 1) * BLOCK - 16):
                assert self.region.bytes[start : start + 16] == mark, block
        device = self.status()
        assert device.plugged_size == len(self.plugged) * BLOCK
        assert [space.mappings for space in device.address_spaces] == [len(self.plugged)]
        assert device.divergences == ()
        assert self.region.resident() == len(self.plugged) * BLOCK

    def status(self) -> DeviceStatus:
        with ControlClient(self._servers.control) as client:
            return client.show()[1][0]

    def close(self) -> None:
        self._drop()
        self.ram.close()
        self.region.close()


class KeptGuest(Guest):
    """A guest whose front end, as QEMU's, connects once: its connection is kept for the next server."""

    _extra = False
    """Whether the front end shares _EXTRA, too."""

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> Response:
        self.ram.bytes[REQUEST : REQUEST + REQUEST_SIZE] = bytes(Request(kind, REGION_ADDRESS + block * BLOCK, count))
        self.driver.offer(USUAL)
        self.requests += 1
        os.eventfd_write(self.front_end.kick, 1)
        while True:
            self._answered()
            # A server that goes on may call once more than there are answers.
            if self.driver.used() is not None:
                return Response.parse(self.ram.bytes[ANSWER : ANSWER + RESPONSE_SIZE])

    def talk(self) -> None:
        """A message of the front end's, or several, each of which is answered once."""
        front_end = self.front_end
        front_end.socket.settimeout(60)
        match self._chance.randrange(5):
            case 0:
                assert len(front_end.config()) == 56
            case 1:
                before, front_end.call = front_end.call, os.eventfd(0, os.EFD_NONBLOCK)
                assert front_end.acknowledged(FrontEndRequest.SET_VRING_CALL, u64(0), [front_end.call])
                os.close(before)
            case 2:
                entries = table(*front_end.regions(), *([_EXTRA] if self._extra else []))
                fds = [self.ram.fd, self.region.fd, *([self.ram.fd] if self._extra else [])]
                assert front_end.acknowledged(FrontEndRequest.SET_MEM_TABLE, entries, fds)
            case 3 if self._extra:
                assert front_end.acknowledged(FrontEndRequest.REM_MEM_REG, mem_reg(_EXTRA))
                self._extra = False
            case 3:
                assert front_end.acknowledged(FrontEndRequest.ADD_MEM_REG, mem_reg(_EXTRA), [self.ram.fd])
                self._extra = True
            case 4:
                base = front_end.stop()
                self._extra = False
                self._start(base)
