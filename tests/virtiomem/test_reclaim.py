"""Pages of unplugged blocks: found, given back and counted, and never those of anybody else."""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path

import pytest

from pyvfio import LinuxKernel, Memory, MemoryKind, SharedMemory
from pyvfio.faults import FaultyKernel, Hold
from pyvfio.kernel import host_page_size
from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import REGION_ADDRESS, REGION_SIZE, Elsewhere, FrontEnd
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, FakeListener, FakeMemory
from virtiomem.control import ControlClient, ControlServer
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import DiscardCoordination
from virtiomem.serving import EventLoop, Periodic
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions

PAGE = host_page_size()
GIB = 1 << 30
PLUG, UNPLUG = RequestType.PLUG, RequestType.UNPLUG
ACK = ResponseType.ACK


def asked(device: VirtioMem, kind: RequestType, block: int, count: int) -> ResponseType:
    return Response.parse(device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type


@pytest.mark.parametrize("kind", [MemoryKind.ANONYMOUS, MemoryKind.MEMFD])
def test_what_was_touched_is_found_and_given_back(kind: MemoryKind, caplog: pytest.LogCaptureFixture) -> None:
    with (
        Memory.allocate(kind, 16 * BLOCK) as memory,
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size) as device,
    ):
        assert asked(device, PLUG, 4, 2) is ACK
        memory.write(4 * BLOCK, b"plugged")
        memory.write(BLOCK + 7 * PAGE, b"x")
        memory.write(6 * BLOCK, b"y")
        memory.write(16 * BLOCK - 1, b"z")
        assert sum(device.reclaim()) == 3 * PAGE
        assert "of the unplugged blocks from block 0 on were touched" in caplog.text
        assert sum(device.reclaim()) == 0
        assert device.statistics.stray_bytes == 3 * PAGE
        assert memory.read(4 * BLOCK, 7) == b"plugged"
        assert memory.resident(0, memory.size) == 2 * BLOCK


def test_a_part_of_a_file_is_looked_at_where_it_is() -> None:
    """The pages before and behind it are the owner's."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 8 * BLOCK)
    with mmap.mmap(fd, 8 * BLOCK) as all_of_it, SharedMemory(4 * BLOCK) as memory:
        all_of_it[2 * BLOCK - 1] = all_of_it[6 * BLOCK] = 1
        memory.attach(os.dup(fd), 2 * BLOCK)
        assert memory.reclaim(0, 4 * BLOCK) == 0
        all_of_it[2 * BLOCK] = all_of_it[6 * BLOCK - 1] = all_of_it[4 * BLOCK] = 1
        with memory.pages_kept(), memory.pages_kept():
            assert memory.reclaim(0, 4 * BLOCK) == 0
        assert memory.reclaim(0, 4 * BLOCK) == 3 * PAGE
        assert (all_of_it[2 * BLOCK - 1], all_of_it[6 * BLOCK]) == (1, 1)
        assert os.fstat(fd).st_blocks * 512 == 2 * PAGE
        memory.detach()
        assert memory.reclaim(0, 4 * BLOCK) == 0
    os.close(fd)


def test_a_large_region_is_looked_at_in_pieces() -> None:
    with (
        Memory.allocate(MemoryKind.MEMFD, 8 * GIB) as memory,
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size) as device,
    ):
        for gibibyte in (0, 3, 7):
            memory.write(gibibyte * GIB + BLOCK, b"x")
        found = []
        for size in device.reclaim():
            found.append(size)
            # Requests have their turn in between.
            assert asked(device, PLUG, 0, 1) in (ACK, ResponseType.ERROR)
        assert found == [PAGE, 0, 0, PAGE, 0, 0, 0, PAGE]


def test_what_a_listener_would_not_let_go_of_is_left_alone() -> None:
    memory = FakeMemory()
    listener = FakeListener(memory)
    device = VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=memory.size)
    device.discards.register(listener, device.section)
    assert asked(device, PLUG, 0, 4) is ACK
    # A plug that fails, and of which the listener keeps half.
    listener.half = True
    memory.faults.arm(every_from=1)
    assert asked(device, PLUG, 8, 2) is ResponseType.BUSY
    memory.faults.disarm()
    held = [*listener.held]
    assert sum(device.reclaim()) == 0
    assert listener.held == held
    listener.half = False
    device.discards.unregister(listener)
    device.close()


def test_a_server_looks_by_itself_and_when_it_is_asked(tmp_path: Path) -> None:
    options = ServedRegionOptions(
        str(tmp_path / "mem"),
        "vm0",
        REGION_ADDRESS,
        REGION_SIZE,
        BLOCK,
        requested_size=REGION_SIZE,
        reclaim_interval=0.05,
    )
    with (
        ControlServer(str(tmp_path / "control"), lambda: None) as control,
        ServedRegion(
            options, [], kernel=LinuxKernel(), coordination=DiscardCoordination(), changed=list, say=lambda _: None
        ) as served,
    ):
        control.manage(served.managed)
        front_end = FrontEnd(Elsewhere(options.path))
        driver = started(front_end, "split")
        assert ask(driver, PLUG, REGION_ADDRESS, 1) == Response(ACK)
        front_end.region.bytes[5 * BLOCK] = 1
        deadline = time.monotonic() + 60
        while front_end.region.resident() > BLOCK:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with ControlClient(tmp_path / "control") as client:
            assert client.request("reclaim") == {"bytes": {"vm0": 0}}
            assert client.request("reclaim", device="vm0") == {"bytes": {"vm0": 0}}
            assert f"'stray_bytes': {PAGE}" in str(client.request("stats"))
            assert f'virtiomem_stray_bytes_total{{device="vm0"}} {PAGE}' in str(client.request("metrics")["text"])
        control.forget("vm0")
        front_end.close()


def test_periodic_work_is_done_step_by_step() -> None:
    now = [0.0]
    done: list[str] = []

    def work():  # type: ignore[no-untyped-def]
        for step in "ab":
            done.append(step)
            yield

    periodic = Periodic(10, work, clock=lambda: now[0])
    with EventLoop([periodic], clock=lambda: now[0]) as loop:
        for moment, expected in ((0, ""), (9.9, ""), (10, "a"), (10, "ab"), (10, "ab"), (19, "ab"), (20, "aba")):
            now[0] = moment
            loop.turn(0)
            assert "".join(done) == expected


def test_another_file_comes_when_what_was_begun_in_the_one_before_has_ended() -> None:
    """Or pages would be looked for in the one, and given back in the other."""
    kernel = FaultyKernel(LinuxKernel())
    with SharedMemory(4 * BLOCK, kernel=kernel) as memory:
        files = [os.memfd_create("guest") for _ in range(2)]
        for fd in files:
            os.ftruncate(fd, 4 * BLOCK)
            os.pwrite(fd, b"x", 0)
        memory.attach(os.dup(files[0]))
        hold = Hold(nth=1, name="next_data")
        kernel.arm(hold)
        finder = threading.Thread(target=memory.reclaim, args=(0, 4 * BLOCK))
        finder.start()
        assert hold.reached.wait(60)
        comes = threading.Thread(target=memory.attach, args=(os.dup(files[1]),))
        comes.start()
        comes.join(0.2)
        hold.released.set()
        finder.join(60)
        comes.join(60)
        assert [os.fstat(fd).st_blocks * 512 for fd in files] == [0, PAGE]
    for fd in files:
        os.close(fd)


@pytest.mark.parametrize("answer", [(0, 0), (0, BLOCK), (2 * BLOCK, BLOCK), (2 * BLOCK, 2 * BLOCK)])
def test_a_file_system_that_answers_anything_is_not_asked_for_ever(answer: tuple[int, int]) -> None:
    class Anything(LinuxKernel):
        def next_data(self, fd: int, offset: int) -> tuple[int, int] | None:  # noqa: ARG002
            return answer

    with Memory.allocate(MemoryKind.MEMFD, 4 * BLOCK, kernel=Anything()) as memory:
        memory.write(0, b"before")
        assert memory.reclaim(BLOCK, 2 * BLOCK) == 0
        assert memory.read(0, 6) == b"before"
