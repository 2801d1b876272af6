"""EventFd: counts, waiting from several threads and tasks, closing under those who wait, and forks."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from pyvfio import ClosedError, EventFd, InvalidArgument, LinuxKernel


@pytest.fixture
def event() -> EventFd:
    return EventFd(LinuxKernel(), "a test")


def test_signals_are_counted_until_taken(event: EventFd) -> None:
    assert event.wait(0) == 0
    event.signal()
    event.signal()
    assert event.wait(5) == 2
    assert event.pending() == 0
    event.close()
    event.close()
    for use in (event.signal, event.pending, event.wait, event.fileno):
        with pytest.raises(ClosedError, match="a test: it is closed"):
            use()


def test_each_signal_wakes_one_of_those_who_wait(event: EventFd) -> None:
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.append(event.wait(10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(taken) < len(threads):
        event.signal()
        threads[len(taken) - 1].join(0.001)
    for thread in threads:
        thread.join()
    assert len(taken) == 4
    assert 0 not in taken
    event.close()


def test_the_descriptor_lives_until_the_last_who_waits_has_left(event: EventFd) -> None:
    fd = event.fileno()

    def wait() -> None:
        with pytest.raises(ClosedError):
            event.wait()

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    event.close()
    for thread in threads:
        thread.join(10)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_closing_wakes_a_task(event: EventFd) -> None:
    async def wait_and_close() -> None:
        waiting = asyncio.create_task(event.wait_async())
        await asyncio.sleep(0)
        with pytest.raises(InvalidArgument, match="a task waits for it already"):
            await event.wait_async()
        event.close()
        async with asyncio.timeout(5):
            await waiting

    with pytest.raises(ClosedError):
        asyncio.run(wait_and_close())


def test_closing_in_another_thread_wakes_a_task(event: EventFd) -> None:
    async def wait_and_close() -> None:
        waiting = asyncio.create_task(event.wait_async())
        await asyncio.sleep(0)
        await asyncio.to_thread(event.close)
        async with asyncio.timeout(5):
            await waiting

    with pytest.raises(ClosedError):
        asyncio.run(wait_and_close())


def test_a_loop_that_ended_holds_nothing(event: EventFd) -> None:
    loop = asyncio.new_event_loop()
    waiting = event.wait_async()
    loop.call_soon(waiting.send, None)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    event.close()
    waiting.close()


def test_a_child_that_closes_its_copy_wakes_nobody(event: EventFd) -> None:
    # As if another thread waited; forking with real ones would be a warning of its own.
    with event.in_use():
        child = os.fork()
        if not child:
            event.close()
            try:
                os.fstat(event._fd)
            except OSError:
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert event.pending() == 0
    event.close()
