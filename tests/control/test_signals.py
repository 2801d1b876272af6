"""The signals that end run and serve."""

from __future__ import annotations

import signal
import threading

import pytest

from pyvfio.kernel import LinuxKernel
from virtiomem.cli.signals import ending
from virtiomem.serving import EventLoop

PATIENCE = 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_interrupts_no_call_ends_the_loop(number: signal.Signals) -> None:
    """As one does that comes between Python's last look for signals and the system call that waits."""
    with EventLoop([], kernel=LinuxKernel()) as loop, ending(loop) as reasons:
        is_over, is_late = threading.Event(), threading.Event()

        def send() -> None:
            # The kernel runs the handler in this thread: the one that waits is not interrupted.
            signal.pthread_kill(threading.get_ident(), number)
            if not is_over.wait(PATIENCE):
                is_late.set()
                loop.stop()

        sender = threading.Timer(0.2, send)
        sender.start()
        loop.run()
        is_over.set()
        sender.join()
        assert reasons[-1] == number.name
        assert not is_late.is_set()


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with EventLoop([], kernel=LinuxKernel()) as loop, ending(loop):
        pass
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(before[1])) == before
