"""A hostile front end beside a healthy one: the healthy one notices nothing.

`--messages 100000` is the long form. What the hostile one does is chosen by a seed, which `--seed` sets.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.vhost_user.driver import ANSWER, NEXT, REQUEST, USUAL, SplitDriver
from tests.support.vhost_user.front_end import (
    ALL,
    BLOCK,
    FEATURES,
    RAM_SIZE,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_SIZE,
    REGION_USER_ADDRESS,
    Elsewhere,
    FrontEnd,
    Request,
    Shared,
    mem_reg,
    region,
    ring_address,
    state,
    table,
    u64,
)
from tests.support.vhost_user.process import serving
from virtiomem import Request as GuestRequest
from virtiomem import RequestType, Response, ResponseType
from virtiomem.control import ControlClient
from virtiomem.device import REQUEST_SIZE, RESPONSE_SIZE
from virtiomem.vhost_user.abi import vhost_user as abi
from virtiomem.vhost_user.abi.vhost_user import VhostUserHeader

ACK = Response(ResponseType.ACK)
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
PATIENCE = 30.0
"""Seconds for an answer, on a machine that others use, too."""
SIZE = REGION_SIZE // BLOCK


class Healthy:
    """A guest that plugs, writes, reads and unplugs, and looks at each answer, until stop is set."""

    def __init__(self, path: Path) -> None:
        self.front_end = FrontEnd(Elsewhere(str(path)))
        self.front_end.connect()
        self.front_end.start()
        self.driver = SplitDriver(self.front_end)
        self.stop = threading.Event()
        self.answers = 0
        self.longest = 0.0
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> Response:
        ram = self.front_end.ram.bytes
        ram[REQUEST : REQUEST + REQUEST_SIZE] = bytes(GuestRequest(kind, REGION_ADDRESS + block * BLOCK, count))
        ram[ANSWER : ANSWER + RESPONSE_SIZE] = b"\xee" * RESPONSE_SIZE
        before = time.monotonic()
        self.driver.offer(USUAL)
        os.eventfd_write(self.front_end.kick, 1)
        while (used := self.driver.used()) is None:
            assert time.monotonic() - before < PATIENCE, "no answer"
            time.sleep(0.0002)
        self.longest = max(self.longest, time.monotonic() - before)
        self.answers += 1
        assert used[1] == RESPONSE_SIZE
        return Response.parse(ram[ANSWER : ANSWER + RESPONSE_SIZE])

    def _run(self) -> None:
        try:
            chance = random.Random(14)
            while not self.stop.is_set():
                block, count = chance.randrange(SIZE - 3), chance.randint(1, 3)
                assert self.ask(PLUG, block, count) == ACK
                mark = chance.randbytes(64)
                place = block * BLOCK
                self.front_end.region.bytes[place : place + 64] = mark
                assert self.ask(STATE, block, count) == ACK
                assert self.front_end.region.bytes[place : place + 64] == mark
                assert self.ask(UNPLUG, block, count) == ACK
                assert self.front_end.region.bytes[place : place + 64] == bytes(64)
        except BaseException as error:
            self.failure = error


class Hostile:
    """Does what its chance says; count says how many messages it has sent."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._chance = random.Random(seed)
        self.count = 0
        self.sessions = 0
        self._socket = socket.socket()
        self._ram = Shared(RAM_SIZE)
        self._region = Shared(REGION_SIZE)
        self._events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
        self._sparse = os.memfd_create("sparse")
        os.ftruncate(self._sparse, 1 << 40)
        self._pair = socket.socketpair()
        odd = [os.open("/", os.O_RDONLY), os.open("/dev/zero", os.O_RDWR), os.open("/dev/null", os.O_PATH)]
        self._fds = [*odd, *self._events, self._ram.fd, self._region.fd, self._sparse, self._pair[0].fileno()]
        self._fds += os.pipe()
        self._actions: tuple[tuple[int, Callable[[], None]], ...] = (
            (40, self._any_message),
            (12, self._likely_message),
            (6, self._odd_event),
            (3, self._odd_channel),
            (3, self._odd_memory),
            (6, self._start),
            (6, self._rings),
            (3, self._events_that_block),
            (2, self._ask_and_do_not_listen),
            (1, self._flood),
            (1, self._stall),
            (1, self._read_nothing),
            (2, self._vanish),
        )
        self._connect()

    def run(self, messages: int) -> None:
        actions = [action for _, action in self._actions]
        weights = [weight for weight, _ in self._actions]
        while self.count < messages:
            (action,) = self._chance.choices(actions, weights)
            try:
                action()
                self._read()
            except OSError:
                self._connect()

    def _connect(self) -> None:
        self._socket.close()
        self._socket = socket.socket(socket.AF_UNIX)
        # Not settimeout(), with which Python waits whatever the flags of a call are.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
        self._socket.connect(str(self._path))
        self.sessions += 1

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while self._socket.recv(65536, socket.MSG_DONTWAIT):
                pass
            raise ConnectionResetError

    def _send(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 1) -> None:
        data = bytes(VhostUserHeader(request=request, flags=flags, size=len(payload))) + payload
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        self._socket.sendmsg([data], ancillary)
        self.count += 1

    def _some_fds(self, most: int) -> tuple[int, ...]:
        return tuple(self._chance.choices(self._fds, k=self._chance.randint(0, most)))

    def _any_message(self) -> None:
        flags = self._chance.choice([1, 1, 1, 1 | abi.VHOST_USER_NEED_REPLY_MASK, 0, 2])
        payload = self._chance.randbytes(self._chance.choice([0, 4, 8, 8, 8, 12, 40, 72]))
        self._send(self._chance.randint(0, 45), payload, self._some_fds(9), flags)

    def _likely_message(self) -> None:
        words = [
            0,
            1,
            8,
            0x1000,
            FEATURES,
            REGION_ADDRESS + REGION_SIZE,
            REGION_SIZE,
            RAM_SIZE,
            RAM_USER_ADDRESS,
            1 << 63,
        ]
        entries = [region(*self._chance.choices(words, k=4)) for _ in range(self._chance.randint(1, 3))]
        payload = self._chance.choice(
            (
                u64(self._chance.choice(words)),
                state(self._chance.choice((0, 1, 8, 256))),
                bytes(ring_address()),
                table(*entries),
                mem_reg(entries[0]),
                b"",
            )
        )
        self._send(self._chance.choice(list(Request)), payload, self._some_fds(len(entries)))

    def _odd_event(self) -> None:
        request = self._chance.choice((Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR))
        self._send(request, u64(0), (self._chance.choice(self._fds),))

    def _odd_channel(self) -> None:
        self._send(Request.SET_BACKEND_REQ_FD, b"", (self._chance.choice(self._fds),))

    def _odd_memory(self) -> None:
        entries = [region(number << 32, 1 << self._chance.randint(12, 40), number << 42) for number in range(2)]
        self._send(Request.SET_MEM_TABLE, table(*entries), tuple(self._chance.choices(self._fds, k=2)))

    def _ask_and_do_not_listen(self) -> None:
        """A driver's valid request, to which the answer comes with an event that is full, and that waits."""
        self._ram.bytes[:0x6000] = bytes(0x6000)
        self._start()
        self._events_that_block()
        self._ram.bytes[REQUEST : REQUEST + REQUEST_SIZE] = bytes(GuestRequest(STATE, REGION_ADDRESS + REGION_SIZE, 1))
        for number, buffer in enumerate(USUAL):
            flags = buffer.flags | (NEXT if not number else 0)
            struct.pack_into("<QIHH", self._ram.bytes, 16 * number, buffer.address, buffer.size, flags, 1)
        struct.pack_into("<HH", self._ram.bytes, 0x1000, 0, 1)
        with suppress(BlockingIOError):
            os.eventfd_write(self._events[0], 1)
        self._send(Request.GET_STATUS)

    def _start(self) -> None:
        """As QEMU does, with a region that it may have."""
        self._connect()
        self._send(Request.SET_PROTOCOL_FEATURES, u64(int(ALL)))
        self._send(Request.SET_FEATURES, u64(FEATURES | self._chance.choice((0, 1 << 28, 1 << 29))))
        ours = region(REGION_ADDRESS + REGION_SIZE, REGION_SIZE, REGION_USER_ADDRESS)
        memory = table(region(0, RAM_SIZE, RAM_USER_ADDRESS), ours)
        self._send(Request.SET_MEM_TABLE, memory, (self._ram.fd, self._region.fd))
        self._send(Request.SET_VRING_NUM, state(8))
        self._send(Request.SET_VRING_ADDR, bytes(ring_address()))
        for request, event in zip((12, 13, 14), self._events, strict=True):
            self._send(request, u64(0), (event,))
        self._send(Request.SET_VRING_ENABLE, state(1))

    def _rings(self) -> None:
        for _ in range(self._chance.randint(1, 8)):
            place = self._chance.choice((0, 0x1000, 0x2000, 0x3000))
            self._ram.bytes[place : place + 64] = self._chance.randbytes(64)
            struct.pack_into("<HH", self._ram.bytes, 0x1000, 0, self._chance.randint(0, 9))
            with suppress(BlockingIOError):
                os.eventfd_write(self._events[0], 1)
        self._send(Request.GET_STATUS)

    def _events_that_block(self) -> None:
        for event in self._events:
            os.set_blocking(event, False)
            with suppress(BlockingIOError):
                os.eventfd_write(event, 0xFFFF_FFFF_FFFF_FFF0)
        for event in self._events[1:]:
            os.set_blocking(event, self._chance.random() < 0.7)
        self._send(Request.SET_STATUS, u64(15))

    def _flood(self) -> None:
        one = bytes(VhostUserHeader(request=int(Request.SET_OWNER), flags=1, size=0))
        self._socket.sendall(one * 2000)
        # Or there would be little else among those that are counted.
        self.count += 1

    def _stall(self) -> None:
        self._socket.sendall(bytes(VhostUserHeader(request=int(Request.SET_FEATURES), flags=1, size=8)) + b"xx")
        self.count += 1
        time.sleep(0.02)

    def _read_nothing(self) -> None:
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(500):
                self._send(Request.GET_FEATURES)
        self._socket.setblocking(True)

    def _vanish(self) -> None:
        self._send(Request.SET_VRING_CALL, u64(0), self._some_fds(2))
        self._connect()

    def close(self) -> None:
        self._socket.close()
        for fd in {*self._fds, self._sparse} - {self._ram.fd, self._region.fd, self._pair[0].fileno()}:
            os.close(fd)
        for end in self._pair:
            end.close()
        self._ram.close()
        self._region.close()


def test_a_healthy_front_end_notices_nothing_of_a_hostile_one(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """One server in a process of its own, whose lines nobody reads."""
    messages = request.config.getoption("--messages")
    seed = request.config.getoption("--seed")
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["--region", f"{REGION_SIZE >> 20}M", "--block-size", "2M", "--requested", f"{REGION_SIZE >> 20}M"]
    with serving(tmp_path, *options, "--vhost-user", str(one), "--vhost-user", str(two)) as process:
        healthy = Healthy(one)
        hostile = Hostile(two, seed)
        before = time.monotonic()
        try:
            hostile.run(messages)
        finally:
            healthy.stop.set()
            healthy.thread.join()
            hostile.close()
        seconds = time.monotonic() - before
        if healthy.failure is not None:
            raise healthy.failure
        with ControlClient(tmp_path / "control") as client:
            devices = client.show()[1]
            assert devices[0].guest == "vhost-user: its driver runs"
            assert [device.divergences for device in devices] == [(), ()]
        with capsys.disabled():
            print(
                f"\n{hostile.count} messages in {hostile.sessions} sessions beside {healthy.answers} answers, "
                f"of which the slowest took {healthy.longest * 1000:.0f} ms; {seconds:.0f} s; seed {seed}"
            )
        assert healthy.answers > 10
        healthy.front_end.close()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
