"""A front end that shortens its memory ends its own session, and no process."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio.kernel import LinuxKernel, host_page_size
from tests.support.vhost_user.driver import PackedDriver, SplitDriver, ask
from tests.support.vhost_user.front_end import (
    BLOCK,
    EVENT_IDX,
    FEATURES,
    PACKED,
    QUEUE_SIZE,
    RAM_SIZE,
    REGION_ADDRESS,
    REGION_SIZE,
    Bench,
    FrontEnd,
    Request,
    Shared,
    ring_address,
    state,
    u64,
)
from virtiomem import BlockState, RequestType, Response, ResponseType
from virtiomem.vhost_user.errors import QueueBroken
from virtiomem.vhost_user.guest_bytes import CopiedBytes, GuestBytes, MappedBytes, stays

PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
KINDS = {"mapped": True, "copied": False}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def shared(request: pytest.FixtureRequest, bench: Bench) -> Iterator[FrontEnd]:
    """A front end whose memory can be shortened, or not."""
    ram, region = (Shared(size, is_sealed=request.param) for size in (RAM_SIZE, REGION_SIZE))
    front_end = FrontEnd(bench, ram=ram, region=region)
    yield front_end
    front_end.close()


def drivers(front_end: FrontEnd, features: int) -> SplitDriver | PackedDriver:
    return (
        PackedDriver(front_end) if features & PACKED else SplitDriver(front_end, event_idx=bool(features & EVENT_IDX))
    )


@pytest.mark.parametrize("features", [0, EVENT_IDX, PACKED, PACKED | EVENT_IDX], ids=hex)
def test_a_ring_works_in_memory_of_either_kind(shared: FrontEnd, features: int) -> None:
    shared.connect()
    shared.start(FEATURES | features)
    driver = drivers(shared, features)
    for plugged in (BlockState.UNPLUGGED, BlockState.PLUGGED):
        for _ in range(150):
            assert ask(driver, STATE, REGION_ADDRESS, 1) == Response(ResponseType.ACK, plugged)
        if plugged is BlockState.UNPLUGGED:
            assert ask(driver, PLUG, REGION_ADDRESS, 1) == Response(ResponseType.ACK)


@pytest.mark.parametrize("features", [0, PACKED], ids=["split", "packed"])
def test_memory_that_is_cut_off_under_a_ring_breaks_the_ring(bench: Bench, features: int) -> None:
    front_end = FrontEnd(bench)
    front_end.connect()
    front_end.start(FEATURES | features)
    assert ask(drivers(front_end, features), STATE, REGION_ADDRESS, 1) is not None
    os.ftruncate(front_end.ram.fd, 0)
    front_end.notify()
    assert "its file has become too short" in bench.heard.last("broken")
    front_end.close()
    other = FrontEnd(bench)
    other.connect()
    other.start()
    assert ask(SplitDriver(other), STATE, REGION_ADDRESS, 1) is not None
    other.close()


def test_memory_that_is_cut_off_before_the_ring_starts(bench: Bench) -> None:
    front_end = FrontEnd(bench)
    front_end.connect()
    front_end.send(Request.SET_FEATURES, u64(FEATURES))
    front_end.share()
    os.ftruncate(front_end.ram.fd, 0)
    front_end.send(Request.SET_VRING_NUM, state(QUEUE_SIZE))
    front_end.send(Request.SET_VRING_ADDR, bytes(ring_address()))
    front_end.send(Request.SET_VRING_KICK, u64(0), [front_end.kick])
    front_end.send(Request.SET_VRING_ENABLE, state(1))
    assert "its file has become too short" in bench.heard.last("broken")
    assert front_end.number(Request.GET_FEATURES) & FEATURES
    front_end.close()


def test_a_region_that_is_cut_off_is_not_plugged(bench: Bench) -> None:
    front_end = FrontEnd(bench)
    front_end.connect()
    front_end.start()
    driver = SplitDriver(front_end)
    assert ask(driver, PLUG, REGION_ADDRESS, 1) == Response(ResponseType.ACK)
    os.ftruncate(front_end.region.fd, BLOCK)
    assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 1) == Response(ResponseType.BUSY)
    assert bench.device.plugged_size == BLOCK
    assert ask(driver, UNPLUG_ALL) == Response(ResponseType.ACK)
    front_end.close()


def test_only_what_nobody_can_shorten_is_mapped(tmp_path: Path) -> None:
    sealed, open_to_all = Shared(4096, is_sealed=True), Shared(4096)
    assert stays(sealed.fd, host_page_size())
    assert not stays(open_to_all.fd, host_page_size())
    # A pool of huge pages may be empty when one is touched.
    assert not stays(sealed.fd, 2 << 20)
    with (tmp_path / "file").open("w+b") as file:
        assert not stays(file.fileno(), host_page_size())
    sealed.close()
    open_to_all.close()


class Area:
    """A page that is mapped, as the front end has it, and as either kind of GuestBytes has it."""

    def __init__(self, kind: str) -> None:
        self.mapped = mmap.mmap(-1, 4096)
        self.kernel = LinuxKernel()
        self.fd = os.memfd_create("area")
        os.ftruncate(self.fd, 4096)
        self.mapped = mmap.mmap(self.fd, 4096)
        self.address = self.kernel.mmap(4096, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self.fd)
        self.bytes: GuestBytes = (
            CopiedBytes(self.address, 4096) if kind == "copied" else MappedBytes(self.kernel.window(self.address, 4096))
        )

    def close(self) -> None:
        self.bytes.release()
        self.kernel.munmap(self.address, 4096)
        self.mapped.close()
        os.close(self.fd)


@pytest.fixture(params=list(KINDS))
def area(request: pytest.FixtureRequest) -> Iterator[Area]:
    area = Area(request.param)
    yield area
    area.close()


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_numbers_are_little_endian_and_touch_nothing_else(area: Area, width: int) -> None:
    for place in range(64, 64 + 2 * width, width):
        area.mapped[:] = b"\xa5" * 4096
        value = int.from_bytes(range(1, width + 1), "little")
        area.bytes.store(place, width, value)
        expected = b"\xa5" * place + value.to_bytes(width, "little") + b"\xa5" * (4096 - place - width)
        assert area.mapped[:] == expected
        assert area.bytes.load(place, width) == value
        area.bytes.write(place, b"xyz")
        assert area.bytes.read(place, 3) == b"xyz"


def test_nobody_sees_half_of_an_index_that_moves(area: Area) -> None:
    """A driver that saw 0x0000 on the way from 0x00ff to 0x0100 would take 65,281 answers that are not there."""
    done = threading.Event()
    wrong: list[tuple[int, int]] = []

    def look() -> None:
        before = 0
        with memoryview(area.mapped)[4:8] as bytes_of_index, bytes_of_index.cast("I") as word:
            while not done.is_set():
                now = word[0] >> 16
                if not 0 <= (now - before) & 0xFFFF < 0x8000:
                    wrong.append((before, now))
                before = now

    looking = threading.Thread(target=look)
    looking.start()
    for index in range(1, 20_000):
        area.bytes.store(6, 2, index)
    done.set()
    looking.join()
    assert wrong == []
    assert area.mapped[4:8] == struct.pack("<HH", 0, 19_999)


def test_what_is_released_or_gone_is_not_touched() -> None:
    area = Area("copied")
    area.bytes.store(0, 2, 7)
    os.ftruncate(area.fd, 0)
    for access in (
        lambda: area.bytes.load(0, 2),
        lambda: area.bytes.store(0, 2, 8),
        lambda: area.bytes.read(0, 16),
        lambda: area.bytes.write(0, b"xyz"),
    ):
        with pytest.raises(QueueBroken, match="its file has become too short"):
            access()
    os.ftruncate(area.fd, 4096)
    area.bytes.release()
    with pytest.raises(QueueBroken, match="not shared any more"):
        area.bytes.load(0, 2)
    area.close()
