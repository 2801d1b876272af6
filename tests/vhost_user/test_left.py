"""What a server leaves is its guest's alone, whoever connects meanwhile and whatever fails."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio.abi.vfio import VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA
from pyvfio.errors import VfioError
from pyvfio.faults import Fault
from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE, Request, Shared
from tests.support.vhost_user.servers import Guest, in_hand, plug_three, record_of, served
from virtiomem import Request as GuestRequest
from virtiomem import RequestType, Response, ResponseType
from virtiomem.device import BlockState, DeviceState
from virtiomem.persistence import MemoryIdentity, SlotFile, birth

ACK, BUSY, ERROR = (Response(kind) for kind in (ResponseType.ACK, ResponseType.BUSY, ResponseType.ERROR))
PLUGGED = Response(ResponseType.ACK, BlockState.PLUGGED)
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


@pytest.fixture
def other() -> Iterator[Guest]:
    """A guest whose memory holds something, and is not taken."""
    other = Guest()
    other.region.bytes[:5] = b"other"
    yield other
    other.close()


def full(*_: object) -> None:
    raise VfioError(28, "state", meaning="no space left")


def test_another_guest_that_asks_what_was_in_hand_gets_nothing_of_it(
    tmp_path: Path, guest: Guest, other: Guest
) -> None:
    plug_three(tmp_path, guest)
    in_hand(tmp_path, GuestRequest(PLUG, REGION_ADDRESS + BLOCK, 3), ACK)
    with served(tmp_path) as server:
        with other.connected(server) as front_end:
            assert ask(started(front_end, "split"), PLUG, REGION_ADDRESS + BLOCK, 3) == BUSY
        with guest.connected(server) as front_end:
            driver = started(front_end, "split")
            assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 3) == ACK
            assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
            assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"


def test_another_guest_is_not_told_what_was_answered(tmp_path: Path, guest: Guest, other: Guest) -> None:
    plug_three(tmp_path, guest)
    in_hand(tmp_path, GuestRequest(UNPLUG, REGION_ADDRESS, 1), ERROR)
    with served(tmp_path) as server, other.connected(server) as front_end:
        assert ask(started(front_end, "split"), UNPLUG, REGION_ADDRESS, 1) == BUSY


def test_only_the_first_request_can_be_the_one_in_hand(tmp_path: Path, guest: Guest) -> None:
    """A position comes again, when the ring has wrapped or the driver begins anew: that is another request then."""
    plug_three(tmp_path, guest)
    in_hand(tmp_path, GuestRequest(PLUG, REGION_ADDRESS + BLOCK, 3), ACK)
    with served(tmp_path) as server:
        server.kernel.arm(Fault(name="ioctl", request=VFIO_IOMMU_MAP_DMA, errno=12))
        with guest.connected(server) as front_end:
            assert ask(started(front_end, "split"), STATE, REGION_ADDRESS + BLOCK, 3) == BUSY
        guest.ram.bytes[:0x3000] = bytes(0x3000)
        with guest.connected(server) as front_end:
            driver = started(front_end, "split")
            assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 3) == BUSY
            server.kernel.arm()
            assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
            assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"


def test_a_disk_that_is_full_while_blocks_cannot_be_mapped_again(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    in_hand(tmp_path, GuestRequest(PLUG, REGION_ADDRESS + 3 * BLOCK, 1), ACK)
    with served(tmp_path) as server, guest.connected(server) as front_end:
        server.kernel.arm(Fault(name="ioctl", request=VFIO_IOMMU_MAP_DMA, errno=12))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlotFile, "write", full)
            driver = started(front_end, "split")
            # What it has is the truth as long as nothing else could be recorded.
            assert ask(driver, PLUG, REGION_ADDRESS + 3 * BLOCK, 1) in (ACK, BUSY)
        server.kernel.arm()
        assert ask(driver, STATE, REGION_ADDRESS + BLOCK, 2) == PLUGGED


@pytest.mark.parametrize("plugged", [0, 2])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_unplug_of_all_on_a_disk_that_is_full_is_answered(
    tmp_path: Path, guest: Guest, plugged: int, nth: int
) -> None:
    """From the nth write on."""
    with served(tmp_path) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert front_end.number(Request.GET_FEATURES)
        if plugged:
            assert ask(driver, PLUG, REGION_ADDRESS, plugged) == ACK
        before = SlotFile.write
        left = [nth - 1]

        def write(file: SlotFile, content: bytes) -> None:
            left[0] -= 1
            if left[0] < 0:
                full()
            before(file, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlotFile, "write", write)
            answer = ask(driver, UNPLUG_ALL)
            unplugged = answer == ACK
            assert answer in (ACK, BUSY)
        assert server.status.plugged_size == (0 if unplugged else plugged * BLOCK)
        assert ask(driver, UNPLUG_ALL) == ACK


def test_a_guest_that_starts_on_a_disk_that_is_full_is_served_when_it_is_not(tmp_path: Path, guest: Guest) -> None:
    with served(tmp_path) as server, guest.connected(server) as front_end:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlotFile, "write", full)
            driver = started(front_end, "split")
            assert ask(driver, PLUG, REGION_ADDRESS, 1) == BUSY
            assert "no space left" in str(server.status.waiting_for)
        assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
    guest.ram.bytes[:] = bytes(len(guest.ram.bytes))
    with served(tmp_path) as server, guest.connected(server) as front_end:
        assert ask(started(front_end, "split"), STATE, REGION_ADDRESS, 1) == PLUGGED


def test_what_could_not_be_recorded_anew_is_recorded_with_the_next_change(tmp_path: Path, guest: Guest) -> None:
    with served(tmp_path) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS, 2) == ACK
        guest.region.bytes[:5] = b"guest"
        before = SlotFile.write
        left = [1]

        def write(file: SlotFile, content: bytes) -> None:
            left[0] -= 1
            if left[0] < 0:
                full()
            before(file, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlotFile, "write", write)
            server.kernel.arm(Fault(name="fallocate", errno=5))
            assert ask(driver, UNPLUG, REGION_ADDRESS, 1) == BUSY
            server.kernel.arm()
        server.served.managed.device.resize(REGION_SIZE // 2)
    guest.ram.bytes[:] = bytes(len(guest.ram.bytes))
    with served(tmp_path) as server, guest.connected(server) as front_end:
        assert ask(started(front_end, "split"), STATE, REGION_ADDRESS, 2) == PLUGGED
        assert guest.region.bytes[:5] == b"guest"


def test_memory_that_is_awaited_is_kept_when_other_memory_cannot_take_its_place(tmp_path: Path, guest: Guest) -> None:
    plug_three(tmp_path, guest)
    guest.region.bytes[3 * BLOCK : 3 * BLOCK + 5] = b"third"
    new = Guest()
    with served(tmp_path) as server:
        # The second block is not mapped, and the first one is not unmapped then.
        server.kernel.arm(
            Fault(name="ioctl", request=VFIO_IOMMU_MAP_DMA, errno=12, nth=2),
            Fault(name="ioctl", request=VFIO_IOMMU_UNMAP_DMA, errno=5),
        )
        with guest.connected(server) as front_end:
            front_end.connect()
            front_end.share()
            assert front_end.number(Request.GET_FEATURES)
        with new.connected(server) as front_end:
            front_end.connect()
            front_end.share()
            assert front_end.number(Request.GET_FEATURES)
            assert sum(server.served.managed.device.reclaim()) == 0
            assert server.container.mapping_count > 0
        server.kernel.arm()
        assert guest.region.bytes[3 * BLOCK : 3 * BLOCK + 5] == b"third"
        with guest.connected(server) as front_end:
            assert ask(started(front_end, "split"), STATE, REGION_ADDRESS + BLOCK, 3) == PLUGGED
            assert guest.region.bytes[BLOCK : BLOCK + 5] == b"guest"
    new.close()


def test_an_end_at_which_memory_cannot_be_detached_leaves_the_guest_what_it_has(tmp_path: Path, guest: Guest) -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"), served(tmp_path) as server:  # noqa: PT012
        with guest.connected(server) as front_end:
            assert ask(started(front_end, "split"), PLUG, REGION_ADDRESS, 2) == ACK
        guest.region.bytes[:5] = b"guest"
        server.kernel.arm(Fault(name="mmap", errno=12))
    assert guest.region.bytes[:5] == b"guest"


def test_a_resize_while_nothing_is_plugged_again_is_not_lost(tmp_path: Path, guest: Guest) -> None:
    with served(tmp_path) as server, guest.connected(server) as front_end:
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS, 1) == ACK
        assert ask(driver, UNPLUG, REGION_ADDRESS, 1) == ACK
    with served(tmp_path) as server:
        device = server.served.managed.device
        before = DeviceState.check

        def check(state: DeviceState, *arguments: object) -> None:
            # The host resizes in the middle of it.
            before(state, *arguments)  # type: ignore[arg-type]
            device.resize(BLOCK)

        with pytest.MonkeyPatch.context() as patch, guest.connected(server) as front_end:
            patch.setattr(DeviceState, "check", check)
            front_end.connect()
            front_end.share()
            assert front_end.number(Request.GET_FEATURES)
            assert device.config.requested_size == BLOCK
    assert DeviceState.parse(record_of(tmp_path).state).config.requested_size == BLOCK


def test_a_file_that_has_got_the_number_of_the_one_that_was_left_is_another_one(tmp_path: Path, guest: Guest) -> None:
    """As ext4 gives them, to a guest that somebody else has served, or that was put back with its memory."""

    def file(name: str) -> int:
        return os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    guest.region.close()
    guest.region = Shared(REGION_SIZE, fd=file("memory"))
    number = os.fstat(guest.region.fd).st_ino
    if not birth(guest.region.fd):
        pytest.skip("the file system does not tell when a file was made")
    plug_three(tmp_path, guest)
    guest.region.close()
    # The simulated kernel has a copy of the descriptor.
    gc.collect()
    (tmp_path / "memory").unlink()
    others = [file(f"other {count}") for count in range(100)]
    again = [fd for fd in others if os.fstat(fd).st_ino == number]
    for fd in others:
        if fd not in again:
            os.close(fd)
    if not again:
        pytest.skip("the file system did not give the number again")
    guest.region = Shared(REGION_SIZE, fd=again[0])
    guest.region.bytes[8 * BLOCK : 8 * BLOCK + 5] = b"other"
    with served(tmp_path) as server, guest.connected(server) as front_end:
        assert ask(started(front_end, "split"), STATE, REGION_ADDRESS + BLOCK, 3) == BUSY
        assert guest.region.bytes[8 * BLOCK : 8 * BLOCK + 5] == b"other"


@pytest.mark.parametrize(
    ("born", "other", "is_it"), [(1, 1, True), (1, 2, False), (0, 2, True), (1, 0, True), (0, 0, True)]
)
def test_what_is_not_known_of_a_file_is_not_held_against_it(born: int, other: int, is_it: bool) -> None:
    assert MemoryIdentity(1, 2, 3, born).may_be(MemoryIdentity(1, 2, 3, other)) is is_it
    assert not MemoryIdentity(1, 2, 3, born).may_be(MemoryIdentity(1, 3, 3, other))
