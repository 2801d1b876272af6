"""Waiting: what a timeout means, who is woken, and that nobody who closes waits for those who wait."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from pyvfio import ClosedError, Container, EventFd, FaultQueue, InterruptIndex, InvalidArgument, Iommufd, LinuxKernel
from pyvfio.host import LinuxUevents
from pyvfio.kernel import wait_for_any
from pyvfio.sim import SimKernel
from tests.support.interpreter import output

PATIENCE = 10.0
MOMENT = 0.1
DEVICE = "0000:00:03.0"
Wait = Callable[[float | None], object]


@contextmanager
def waits_for_event() -> Iterator[tuple[Wait, Callable[[], object]]]:
    with EventFd(LinuxKernel(), "a test") as event:
        yield event.wait, event.signal


@contextmanager
def waits_for_any() -> Iterator[tuple[Wait, Callable[[], object]]]:
    with EventFd(LinuxKernel(), "one") as one, EventFd(LinuxKernel(), "other") as other:
        yield lambda timeout: wait_for_any({0: one, 7: other}, timeout), other.signal


@contextmanager
def waits_for_vector() -> Iterator[tuple[Wait, Callable[[], object]]]:
    with Container(kernel=SimKernel(edu_devices=1)) as container:
        interrupts = container.open_device(DEVICE).interrupts(InterruptIndex.MSI)
        interrupts.enable()
        yield interrupts.wait, interrupts.trigger


@contextmanager
def waits_for_any_vector() -> Iterator[tuple[Wait, Callable[[], object]]]:
    with Container(kernel=SimKernel(edu_devices=1)) as container:
        interrupts = container.open_device(DEVICE).interrupts(InterruptIndex.MSI)
        interrupts.enable()
        yield interrupts.wait_any, interrupts.trigger


@contextmanager
def waits_for_poll() -> Iterator[tuple[Wait, Callable[[], object]]]:
    kernel = LinuxKernel()
    with EventFd(kernel) as event:
        yield lambda timeout: kernel.poll([event.fileno()], timeout), event.signal


@contextmanager
def waits_for_fault() -> Iterator[tuple[Wait, Callable[[], object]]]:
    with Iommufd(kernel=SimKernel()) as iommufd:
        yield FaultQueue(iommufd).wait, iommufd.close


@contextmanager
def waits_for_uevent() -> Iterator[tuple[Wait, Callable[[], object]]]:
    with LinuxUevents() as events:
        yield events.next, events.close


WAITS = [
    waits_for_event,
    waits_for_any,
    waits_for_vector,
    waits_for_any_vector,
    waits_for_poll,
    waits_for_fault,
    waits_for_uevent,
]
every_wait = pytest.mark.parametrize("waits", WAITS, ids=lambda waits: waits.__name__.removeprefix("waits_for_"))


def joined(thread: threading.Thread) -> bool:
    thread.join(PATIENCE)
    return not thread.is_alive()


@every_wait
@pytest.mark.parametrize("timeout", [0, -0.0, -1, -1e10, -math.inf, pytest.param(-(10**400), id="-10^400")])
def test_a_timeout_that_is_not_positive_does_not_wait(waits: Callable[[], object], timeout: float) -> None:
    with waits() as (wait, _):  # type: ignore[attr-defined]
        waiting = threading.Thread(target=wait, args=(timeout,), daemon=True)
        waiting.start()
        assert joined(waiting)


@every_wait
@pytest.mark.parametrize("timeout", [None, math.inf, 1e18, pytest.param(10**400, id="10^400"), 3e6, 2**31 / 1000 + 1])
def test_a_large_timeout_is_waited_for(waits: Callable[[], object], timeout: float | None) -> None:
    results: list[object] = []

    def waiting() -> None:
        try:
            results.append(wait(timeout))
        except BaseException as error:
            results.append(error)

    with waits() as (wait, wake):  # type: ignore[attr-defined]
        thread = threading.Thread(target=waiting, daemon=True)
        thread.start()
        thread.join(MOMENT)
        assert results == []
        wake()
        assert joined(thread)
    assert isinstance(results[0], ClosedError) or (results[0] and not isinstance(results[0], BaseException))


@every_wait
def test_a_timeout_passes(waits: Callable[[], object]) -> None:
    with waits() as (wait, _):  # type: ignore[attr-defined]
        start = time.monotonic()
        assert not wait(MOMENT)
        assert MOMENT <= time.monotonic() - start < PATIENCE


@every_wait
def test_a_timeout_that_is_no_number_is_refused(waits: Callable[[], object]) -> None:
    with waits() as (wait, _), pytest.raises(InvalidArgument, match="not a number of seconds"):  # type: ignore[attr-defined]
        wait(math.nan)


class Crowded(LinuxKernel):
    """A kernel with other threads: what they do happens when a wait is over, before its caller goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[Callable[[], object]] = []

    def poll(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        ready = super().poll(fds, timeout)
        if self.others:
            self.others.pop(0)()
        return ready


def test_who_waits_for_ever_never_returns_nothing() -> None:
    kernel = Crowded()
    with EventFd(kernel) as event, EventFd(kernel) as other:
        event.signal()
        # Another thread is quicker, and then something comes again.
        kernel.others = [event.pending, lambda: None]
        threading.Timer(MOMENT, other.signal).start()
        assert wait_for_any({0: event, 1: other}, None) == {1: 1}


def test_what_was_counted_is_not_lost_when_another_event_is_closed() -> None:
    kernel = Crowded()
    event, other = EventFd(kernel), EventFd(kernel)
    event.signal()
    other.signal()
    kernel.others = [other.close]
    assert wait_for_any({0: event, 1: other}, None) == {0: 1}
    with pytest.raises(ClosedError):
        wait_for_any({0: event, 1: other}, 0)
    event.close()


def test_closing_one_wakes_who_waits_for_any() -> None:
    raised: list[BaseException] = []

    def waiting() -> None:
        try:
            wait_for_any({0: one, 1: other}, None)
        except ClosedError as error:
            raised.append(error)

    with EventFd(LinuxKernel()) as one, EventFd(LinuxKernel(), "other") as other:
        thread = threading.Thread(target=waiting, daemon=True)
        thread.start()
        thread.join(MOMENT)
        other.close()
        assert joined(thread)
        assert "wait for other: it is closed" in str(raised)


def test_there_must_be_something_to_wait_for() -> None:
    with pytest.raises(InvalidArgument, match="no event"):
        wait_for_any({}, None)


class Watching(asyncio.SelectorEventLoop):
    """A loop that knows what is registered in it, and whether each was open when it was let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.registered: set[int] = set()
        self.are_open: list[bool] = []

    def add_reader(self, fd: int, *arguments: object) -> None:  # type: ignore[override]
        super().add_reader(fd, *arguments)  # type: ignore[arg-type]
        self.registered.add(fd)

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        if fd in self.registered:
            self.registered.remove(fd)
            self.are_open.append(os.path.exists(f"/proc/self/fd/{fd}"))  # noqa: PTH110
        return super().remove_reader(fd)


def test_disabling_does_not_wait_for_an_event_loop_that_waits_for_the_device() -> None:
    loop, blocked, ended = Watching(), threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def needs_the_device() -> None:
        blocked.set()
        # The vector's eventfd is closed by now, if it ever is.
        assert ended.wait(PATIENCE)
        device.region(0)

    async def waits() -> None:
        loop.call_later(MOMENT, needs_the_device)
        with pytest.raises(ClosedError):
            await interrupts.wait_async()

    def run() -> None:
        try:
            loop.run_until_complete(waits())
        except BaseException as failure:
            failures.append(failure)

    with Container(kernel=SimKernel(edu_devices=1)) as container:
        device = container.open_device(DEVICE)
        interrupts = device.interrupts(InterruptIndex.MSI)
        interrupts.enable()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert blocked.wait(PATIENCE)
        start = time.monotonic()
        interrupts.disable()
        took = time.monotonic() - start
        interrupts.enable()
        ended.set()
        assert joined(thread)
    assert failures == []
    assert took < 2
    assert loop.are_open == [True]
    loop.close()


def test_closing_a_fault_queue_does_not_wait_for_an_event_loop() -> None:
    loop, blocked, ended = Watching(), threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        ended.wait(PATIENCE)

    async def waits() -> None:
        loop.call_later(MOMENT, block)
        with pytest.raises(ClosedError):
            await faults.wait_async()

    with Iommufd(kernel=SimKernel()) as iommufd:
        faults = FaultQueue(iommufd)
        thread = threading.Thread(target=lambda: loop.run_until_complete(waits()), daemon=True)
        thread.start()
        assert blocked.wait(PATIENCE)
        closing = threading.Thread(target=iommufd.close, daemon=True)
        closing.start()
        closing.join(2)
        is_closed = iommufd.closed and not closing.is_alive()
        ended.set()
        assert joined(thread)
        assert joined(closing)
    assert is_closed
    assert loop.are_open == [True]
    loop.close()


def test_a_task_waits_again_after_another_one_was_cancelled() -> None:
    async def waits() -> int:
        with EventFd(LinuxKernel()) as event:
            task = asyncio.create_task(event.wait_async())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            event.signal()
            return await event.wait_async()

    assert asyncio.run(waits()) == 1


def test_a_signal_handler_signals_and_closes_what_its_thread_is_about_to_use() -> None:
    source = """
    import signal
    from pyvfio import ClosedError, EventFd, LinuxKernel
    event = EventFd(LinuxKernel())
    signal.signal(signal.SIGUSR1, lambda *_: event.signal())
    signal.signal(signal.SIGUSR2, lambda *_: event.close())
    with event._lock:
        signal.raise_signal(signal.SIGUSR1)
    print(event.wait(0))
    with event.in_use():
        signal.raise_signal(signal.SIGUSR2)
    try:
        event.wait()
    except ClosedError:
        print("closed")
    """
    assert output(source) == "1\nclosed\n"


def test_a_wait_goes_on_after_a_signal_handler_and_ends_with_one_that_raises() -> None:
    source = """
    import signal, threading
    from pyvfio import EventFd, LinuxKernel
    from pyvfio.kernel import wait_for_any
    seen = []
    def handler(*_):
        seen.append(0)
        if len(seen) % 5 == 0:
            raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, handler)
    with EventFd(LinuxKernel()) as event:
        for wait in (event.wait, lambda timeout: wait_for_any({0: event}, timeout)):
            for timeout in (None, 60):
                seen.clear()
                signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
                try:
                    wait(timeout)
                except KeyboardInterrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    print(len(seen))
        event.signal()
        print(event.wait())
    """
    assert output(source) == "5\n5\n5\n5\n1\n"


def test_closing_a_fault_queue_in_a_signal_handler_of_who_waits_for_it_ends_the_wait() -> None:
    source = """
    import signal
    from pyvfio import ClosedError, FaultQueue, Iommufd, VfioError
    from pyvfio.sim import SimKernel
    iommufd = Iommufd(kernel=SimKernel())
    faults = FaultQueue(iommufd)
    def close(*_):
        try:
            iommufd.close()
        except VfioError as error:
            print(error.errno)
    signal.signal(signal.SIGALRM, close)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        faults.wait()
    except ClosedError:
        print("closed")
    print(iommufd.closed)
    """
    assert output(source) in ("closed\nTrue\n", "16\nclosed\nTrue\n")


def test_an_event_that_counted_all_it_can_is_still_signalled() -> None:
    with EventFd(LinuxKernel()) as event:
        os.write(event.fileno(), b"\xfe" + b"\xff" * 7 if os.sys.byteorder == "little" else b"\xff" * 7 + b"\xfe")  # type: ignore[attr-defined]
        event.signal()
        assert event.pending() == 2**64 - 2


def test_an_eventfd_is_closed_by_a_with_block() -> None:
    with EventFd(LinuxKernel()) as event:
        fd = event.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(ClosedError), event:
        pass


def test_beyond_descriptor_1023_everything_waits() -> None:
    source = """
    import asyncio, os, resource
    from pyvfio import *
    from pyvfio.host import LinuxUevents
    from pyvfio.kernel import wait_for_any
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048 and hard != resource.RLIM_INFINITY:
        print("none")
        raise SystemExit
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    fill = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    with EventFd(LinuxKernel()) as event, LinuxUevents() as uevents:
        assert event.fileno() > 1023 and uevents.fileno() > 1023
        event.signal()
        assert wait_for_any({0: event}, None) == {0: 1}
        async def waits():
            event.signal()
            return await event.wait_async()
        assert asyncio.run(waits()) == 1
        uevents.next(0.01)
    print("none")
    """
    assert output(source) == "none\n"
