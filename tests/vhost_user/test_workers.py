"""A thread for each region that is served: what one guest asks for delays nobody else, and can be given up."""

from __future__ import annotations

import io
import os
import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from pyvfio import ClosedError, DeviceBusy, LinuxKernel
from pyvfio.faults import FaultyKernel, Hold
from tests.support.vhost_user.driver import ANSWER, REQUEST, USUAL, PackedDriver, SplitDriver, ask, started
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE, Elsewhere, FrontEnd
from virtiomem import Request, RequestType, Response, ResponseType
from virtiomem.control import ControlClient, ControlServer, DeviceStatus
from virtiomem.device import REQUEST_SIZE, RESPONSE_SIZE, BlockState, BusyReason
from virtiomem.discard import DiscardCoordination
from virtiomem.serving import Calls, EventLoop, Worker
from virtiomem.trace import replay
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions

ACK, BUSY = Response(ResponseType.ACK), Response(ResponseType.BUSY)
PLUG, UNPLUG, _, STATE = RequestType


class Guest:
    """A region that is served, with a front end and a driver that runs."""

    def __init__(self, stack: ExitStack, path: Path, **options: object) -> None:
        self.kernel = FaultyKernel(LinuxKernel())
        self.told: list[str] = []
        self.trace = io.StringIO()
        self.served = stack.enter_context(
            ServedRegion(
                ServedRegionOptions(
                    str(path),
                    path.name,
                    REGION_ADDRESS,
                    REGION_SIZE,
                    BLOCK,
                    requested_size=REGION_SIZE,
                    record=self.trace,
                    **options,  # type: ignore[arg-type]
                ),
                [],
                kernel=self.kernel,
                coordination=DiscardCoordination(),
                changed=list,
                say=self.told.append,
            )
        )
        self.front_end = FrontEnd(Elsewhere(str(path)))
        stack.callback(self.front_end.close)
        self.driver: SplitDriver | PackedDriver = started(self.front_end, "split")

    @property
    def status(self) -> DeviceStatus:
        return DeviceStatus.of(self.served.managed)

    @contextmanager
    def populating(self, blocks: int) -> Iterator[None]:
        """Within the block, a PLUG of the first blocks waits for the host's memory. The answer is not read."""
        hold = Hold(nth=0, name="madvise")
        self.kernel.arm(hold)
        ram = self.front_end.ram.bytes
        ram[REQUEST : REQUEST + REQUEST_SIZE] = bytes(Request(PLUG, REGION_ADDRESS, blocks))
        self.driver.offer(USUAL)
        os.eventfd_write(self.front_end.kick, 1)
        try:
            assert hold.reached.wait(60)
            yield
        finally:
            hold.released.set()

    def answer(self) -> Response:
        """What the request that was sent last is answered."""
        assert select.select([self.front_end.call], [], [], 60)[0]
        os.eventfd_read(self.front_end.call)
        assert self.driver.used() is not None
        return Response.parse(self.front_end.ram.bytes[ANSWER : ANSWER + RESPONSE_SIZE])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_plug_that_takes_long_delays_no_other_guest_and_nobody_who_asks(stack: ExitStack, tmp_path: Path) -> None:
    one, two = Guest(stack, tmp_path / "one"), Guest(stack, tmp_path / "two")
    control = stack.enter_context(ControlServer(str(tmp_path / "control"), lambda: None))
    for guest in (one, two):
        control.manage(guest.served.managed)
        stack.callback(control.forget, guest.served.managed.name)
    with one.populating(8):
        assert ask(two.driver, PLUG, REGION_ADDRESS, 2) == ACK
        assert ask(two.driver, STATE, REGION_ADDRESS, 2) == Response(ResponseType.ACK, BlockState.PLUGGED)
        with ControlClient(tmp_path / "control") as client:
            assert [device.plugged_size for device in client.show()[1]] == [0, 2 * BLOCK]
            client.resize(4 * BLOCK, "one")
            assert client.show()[1][0].requested_size == 4 * BLOCK
        assert one.served.managed.device.statistics.responses == {}
    # It was asked for before the size changed.
    assert one.answer() == ACK
    assert (one.status.plugged_size, one.status.requested_size) == (8 * BLOCK, 4 * BLOCK)
    # The trace has the request first, too: a replay allows it.
    assert [*replay(one.trace.getvalue().splitlines())]


def test_a_server_that_is_to_stop_plugs_no_more(stack: ExitStack, tmp_path: Path) -> None:
    guest = Guest(stack, tmp_path / "one")
    with guest.populating(8):
        guest.served.give_up()
    # What was nearly done is done.
    assert guest.answer() == ACK
    assert ask(guest.driver, PLUG, REGION_ADDRESS + 8 * BLOCK, 1) == BUSY
    assert ask(guest.driver, UNPLUG, REGION_ADDRESS, 8) == ACK
    assert guest.served.managed.device.statistics.refusals == {BusyReason.STOPPING: 1}


def test_threads_that_populate_are_as_many_as_asked(stack: ExitStack, tmp_path: Path) -> None:
    for threads in (1, 2, 4):
        guest = Guest(stack, tmp_path / str(threads), prealloc_threads=threads)
        guest.kernel.arm()
        assert ask(guest.driver, PLUG, REGION_ADDRESS, 8) == ACK
        assert [call.name for call in guest.kernel.calls].count("madvise") == threads


class Broken:
    """A Source that raises what it may not."""

    descriptors: ClassVar[list[int]] = []
    next_event_time = 0.0

    def ready(self, fd: int) -> None:
        raise AssertionError(fd)

    def flush_events(self) -> None:
        raise ZeroDivisionError


def test_a_fault_of_ours_ends_one_worker_and_is_told() -> None:
    told: list[Exception] = []
    failed = threading.Event()

    def tell(error: Exception) -> None:
        told.append(error)
        failed.set()

    with Worker("broken", [Broken()], failed=tell):
        assert failed.wait(60)
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_a_worker_is_done_with_its_sources_when_it_is_closed() -> None:
    names = {thread.name for thread in threading.enumerate()}
    worker = Worker("short", [])
    assert "short" in {thread.name for thread in threading.enumerate()}
    worker.close()
    worker.close()
    assert {thread.name for thread in threading.enumerate()} == names


def test_what_another_thread_hands_to_a_loop_is_called_there_or_not_at_all() -> None:
    called: list[str] = []
    calls = Calls()
    with EventLoop([calls]) as loop:
        with pytest.raises(DeviceBusy, match="has not come to it"):
            calls.make("late", lambda: called.append("late"), 0.01)
        assert loop.turn(0)
        assert called == []
    with Worker("loop", [calls]):
        assert calls.make("name", lambda: threading.current_thread().name, 60) == "loop"
        with pytest.raises(ZeroDivisionError):
            calls.make("fault", lambda: 1 // 0, 60)
    calls.close()
    with pytest.raises(ClosedError):
        calls.make("closed", list, 60)
