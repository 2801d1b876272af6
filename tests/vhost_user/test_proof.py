"""Nothing is taken that cannot be proved to be the region: what is refused is untouched, and its message says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvfio import InvalidArgument, SharedMemory
from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    MIB,
    RAM_SIZE,
    RAM_USER_ADDRESS,
    REGION_ADDRESS,
    REGION_SIZE,
    REGION_USER_ADDRESS,
    Bench,
    FrontEnd,
    Request,
    Shared,
    mem_reg,
    region,
)
from virtiomem import RequestType, Response, ResponseType, VirtioMem
from virtiomem.vhost_user import ConfigChanges, VhostUserDevice

ACK, BUSY = Response(ResponseType.ACK), Response(ResponseType.BUSY)
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
LOW = 32 * MIB
WORDS = b"a guest"


def assert_untouched(bench: Bench, memory: Shared, offset: int) -> None:
    assert bytes(memory.bytes[offset : offset + len(WORDS)]) == WORDS
    assert not bench.memory.attached
    assert not [word for word in bench.heard.words if word.startswith("attached")]


def test_boot_memory_at_the_regions_address_is_left_alone(bench: Bench, front_end: FrontEnd) -> None:
    """As q35 has it with more memory than fits below 4 GiB: the second half of one file, at 4 GiB."""
    boot, dimm = Shared(LOW + REGION_SIZE), Shared(REGION_SIZE)
    boot.bytes[LOW : LOW + len(WORDS)] = WORDS
    front_end.connect()
    front_end.share(
        region(0, LOW, RAM_USER_ADDRESS),
        region(REGION_ADDRESS, REGION_SIZE, RAM_USER_ADDRESS + LOW, offset=LOW),
        region(REGION_ADDRESS + REGION_SIZE, REGION_SIZE, REGION_USER_ADDRESS),
        fds=[boot.fd, boot.fd, dimm.fd],
    )
    assert_untouched(bench, boot, LOW)
    refused = bench.heard.last("refused SET_MEM_TABLE")
    assert f"begins at {LOW:#x} of its file" in refused
    # What is meant can be told from what is there.
    assert f"--address {REGION_ADDRESS + REGION_SIZE:#x}" in refused
    boot.close()
    dimm.close()


@pytest.mark.parametrize("how", ["longer", "at an offset", "shared with another", "holds pages", "bigger than it"])
def test_memory_that_may_be_somebodys_is_left_alone(bench: Bench, front_end: FrontEnd, how: str) -> None:
    size = REGION_SIZE if how in ("holds pages", "shared with another") else REGION_SIZE + BLOCK
    memory = Shared(size)
    at = BLOCK if how == "at an offset" else 0
    memory.bytes[at : at + len(WORDS)] = WORDS
    entries, fds = [region(0, RAM_SIZE, RAM_USER_ADDRESS)], [front_end.ram.fd]
    if how == "shared with another":
        entries.append(region(REGION_ADDRESS - BLOCK, BLOCK, REGION_USER_ADDRESS - (1 << 30)))
        fds.append(memory.fd)
    length = REGION_SIZE + BLOCK if how == "bigger than it" else REGION_SIZE
    entries.append(region(REGION_ADDRESS, length, REGION_USER_ADDRESS, offset=at))
    fds.append(memory.fd)
    front_end.connect()
    front_end.share(*entries, fds=fds)
    assert_untouched(bench, memory, at)
    meaning = {
        "longer": "which is more than the region",
        "at an offset": f"begins at {BLOCK:#x} of its file",
        "shared with another": f"its file is that of {REGION_ADDRESS - BLOCK:#x}, too",
        "holds pages": "it is new here and holds pages",
        "bigger than it": "the device's region is not just this",
    }[how]
    refused = bench.heard.last("refused SET_MEM_TABLE")
    assert meaning in refused
    # Behind all the guest's memory, at a whole GiB.
    assert ("such as 0x140000000" in refused) == (how != "holds pages")
    memory.close()


def test_pages_at_the_end_of_a_region_are_found(bench: Bench, front_end: FrontEnd) -> None:
    front_end.region.bytes[-5:] = b"guest"
    front_end.connect()
    front_end.share()
    assert "holds pages" in bench.heard.last("refused")
    assert front_end.region.bytes[-5:] == b"guest"


def test_what_is_refused_makes_every_request_busy(bench: Bench, front_end: FrontEnd) -> None:
    front_end.region.bytes[:7] = WORDS
    driver = started(front_end, "split")
    for kind in RequestType:
        assert ask(driver, kind, REGION_ADDRESS, 1) == BUSY
        assert "it is new here and holds pages" in bench.heard.last(f"refused {kind.name}")
    assert_untouched(bench, front_end.region, 0)


def test_no_region_lies_where_a_guest_boots_from(tmp_path: Path) -> None:
    with (
        SharedMemory(REGION_SIZE) as memory,
        ConfigChanges() as changes,
        VirtioMem(memory, address=0, block_size=BLOCK, events=changes) as device,
        pytest.raises(InvalidArgument, match="such as 0x100000000"),
    ):
        VhostUserDevice(str(tmp_path / "socket"), device, memory, changes)
    assert [*tmp_path.iterdir()] == []


@contextmanager
def told(tmp_path: Path, *, file_offset: int | None = None, discard: bool = False) -> Iterator[tuple[Bench, FrontEnd]]:
    """What the host has said beside the region."""
    bench = Bench(str(tmp_path / "socket"), file_offset=file_offset, discard=discard)
    front_end = FrontEnd(bench)
    try:
        yield bench, front_end
    finally:
        front_end.close()
        bench.close()


@pytest.mark.parametrize("entry", ["its own", "a larger one"])
def test_a_part_of_one_file_for_all_memory_is_the_region_if_the_host_says_where(tmp_path: Path, entry: str) -> None:
    everything = Shared(LOW + REGION_SIZE + BLOCK)
    everything.bytes[:7] = everything.bytes[LOW + REGION_SIZE : LOW + REGION_SIZE + 7] = WORDS
    with told(tmp_path, file_offset=LOW) as (bench, front_end):
        front_end.connect()
        low = region(0, RAM_SIZE, RAM_USER_ADDRESS)
        if entry == "its own":
            high = region(REGION_ADDRESS, REGION_SIZE, REGION_USER_ADDRESS, offset=LOW)
        else:
            high = region(REGION_ADDRESS - BLOCK, REGION_SIZE + 2 * BLOCK, REGION_USER_ADDRESS, offset=LOW - BLOCK)
        front_end.share = lambda *_, **__: FrontEnd.share(  # type: ignore[method-assign]
            front_end, low, high, fds=[front_end.ram.fd, everything.fd]
        )
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS, 16) == ACK
        assert ask(driver, UNPLUG_ALL) == ACK
        assert everything.bytes[:7] == everything.bytes[LOW + REGION_SIZE : LOW + REGION_SIZE + 7] == WORDS
        assert bench.heard.last("attached") == f"attached {REGION_SIZE:#x}"
    everything.close()


@pytest.mark.parametrize("how", ["elsewhere", "shared", "holds pages"])
def test_where_the_host_says_it_is_checked(tmp_path: Path, how: str) -> None:
    everything = Shared(LOW + REGION_SIZE + BLOCK)
    at = LOW + (BLOCK if how == "elsewhere" else 0)
    if how == "holds pages":
        everything.bytes[at : at + 7] = WORDS
    with told(tmp_path, file_offset=LOW) as (bench, front_end):
        front_end.connect()
        low = region(0, LOW + (4096 if how == "shared" else 0), RAM_USER_ADDRESS)
        high = region(REGION_ADDRESS, REGION_SIZE, REGION_USER_ADDRESS, offset=at)
        front_end.share(low, high, fds=[everything.fd] * 2)
        meaning = {
            "elsewhere": f"begins at {at:#x} of its file, and the host says {LOW:#x}",
            "shared": "its part of the file is that of 0x0, too",
            "holds pages": "it is new here and holds pages",
        }[how]
        assert meaning in bench.heard.last("refused")
        assert not bench.memory.attached
    everything.close()


def test_the_host_may_give_up_what_is_in_memory_that_is_new(tmp_path: Path) -> None:
    with told(tmp_path, discard=True) as (bench, front_end):
        front_end.region.bytes[:7] = WORDS
        driver = started(front_end, "split")
        assert front_end.region.resident() == 0
        assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
        # What is not new is a guest's, whatever the host has said of the rest.
        front_end.region.bytes[:7] = WORDS
        front_end.share()
        assert front_end.region.bytes[:7] == WORDS
        assert bench.heard.words.count(f"attached {REGION_SIZE:#x}") == 1


def test_a_restart_of_the_server_leaves_a_running_guests_memory_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    bench = Bench(path)
    first = FrontEnd(bench)
    assert ask(started(first, "split"), PLUG, REGION_ADDRESS, 2) == ACK
    first.region.bytes[:7] = WORDS
    # As after kill -9: nothing is said to anybody.
    bench.memory.detach()
    bench.close()
    again = Bench(path)
    second = FrontEnd(again, region=first.region)
    driver = started(second, "split")
    assert second.region.bytes[:7] == WORDS
    assert ask(driver, PLUG, REGION_ADDRESS + 4 * BLOCK, 1) == BUSY
    assert "which may be a guest's that runs" in again.heard.last("refused SET_MEM_TABLE")
    first.close()
    second.close()
    again.close()


def test_another_machine_does_not_empty_the_memory_of_the_one_before(bench: Bench) -> None:
    """Its front end has gone; whether its guest has, nobody here knows."""
    first = FrontEnd(bench)
    assert ask(started(first, "split"), PLUG, REGION_ADDRESS, 4) == ACK
    first.region.bytes[:7] = WORDS
    first.vanish()
    second = FrontEnd(bench)
    driver = started(second, "split")
    assert bench.device.plugged_size == 0
    assert first.region.bytes[:7] == WORDS
    assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
    second.close()
    first.region.close()


@pytest.mark.parametrize("how", ["refuses to let go", "shares none", "takes it away"])
def test_a_request_is_acked_only_for_the_connected_guests_memory(bench: Bench, how: str) -> None:
    first = FrontEnd(bench)
    assert ask(started(first, "split"), PLUG, REGION_ADDRESS, 2) == ACK
    plugged = first.region.resident()
    second = first
    if how != "takes it away":
        first.vanish()
        second = FrontEnd(bench)
    if how == "refuses to let go":
        bench.device.migrating = True
    if how == "shares none":
        only = region(0, RAM_SIZE, RAM_USER_ADDRESS)
        second.share = lambda *_, **__: FrontEnd.share(  # type: ignore[method-assign]
            second, only, fds=[second.ram.fd]
        )
    if how == "takes it away":
        second.stop()
        second.ram.bytes[: 3 * 4096] = bytes(3 * 4096)
        driver = started(second, "split")
        second.send(Request.REM_MEM_REG, mem_reg(region(REGION_ADDRESS, REGION_SIZE, REGION_USER_ADDRESS)))
    else:
        driver = started(second, "split")
    bench.device.migrating = False
    for kind, block in ((PLUG, 4), (UNPLUG, 0), (UNPLUG_ALL, 0), (STATE, 0)):
        assert ask(driver, kind, REGION_ADDRESS + block * BLOCK, 1) == BUSY
    assert (bench.device.plugged_size, first.region.resident()) == (2 * BLOCK, plugged)
    if how == "takes it away":
        second.send(
            Request.ADD_MEM_REG, mem_reg(region(REGION_ADDRESS, REGION_SIZE, REGION_USER_ADDRESS)), [second.region.fd]
        )
        assert ask(driver, UNPLUG, REGION_ADDRESS, 2) == ACK
    second.close()
    first.region.close()


def test_memory_of_huge_pages_is_for_a_device_of_those(bench: Bench, front_end: FrontEnd) -> None:
    """Whether it could be mapped at the device's address by chance, or not."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    os.ftruncate(fd, REGION_SIZE)
    front_end.connect()
    front_end.share(fds=[front_end.ram.fd, fd])
    os.close(fd)
    assert not bench.memory.attached
    refused = bench.heard.last("refused SET_MEM_TABLE")
    assert "its pages have 0x200000 bytes" in refused
    assert "--page-size 0x200000" in refused
