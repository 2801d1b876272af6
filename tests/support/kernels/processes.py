"""A second process on either kernel: a child of this one, or another process of the simulated machine."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from typing import TypeVar

from pyvfio import Kernel, LinuxKernel
from pyvfio.sim import SimKernel

T = TypeVar("T")

Body = Callable[..., Iterator[T]]
"""What the process does, called with its kernel and with descriptors there, which it owns: from one yield to the next
at each step, and what is left of it at the end."""


@contextmanager
def another_process(kernel: Kernel, body: Body[T], *fds: int) -> Iterator[Callable[[], T]]:
    """What is given lets the process take its next step, and returns what it yields; the process ends with the context.

    fds: descriptors of this process. What is yielded can be pickled.
    """
    if isinstance(kernel, SimKernel):
        other = kernel.spawn()
        steps = body(other, *(kernel.send(fd, other) for fd in fds))
        yield lambda: next(steps)
        for _ in steps:
            raise RuntimeError("more steps than were asked for")
        other.exit()
        return
    here, there = Pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forking where other threads run; none does here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        here.close()
        os._exit(_serve(body(LinuxKernel(), *map(os.dup, fds)), there))
    there.close()
    with here:

        def step() -> T:
            here.send_bytes(b"")
            answer: T | BaseException = pickle.loads(here.recv_bytes())
            if isinstance(answer, BaseException):
                raise answer
            return answer

        yield step
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _serve(steps: Iterator[T], there: Connection) -> int:
    """Take a step for each message, until there are no more. The exit status."""
    try:
        while True:
            there.recv_bytes()
            there.send_bytes(pickle.dumps(next(steps)))
    except EOFError:
        return sum(1 for _ in steps)
    except BaseException as failure:
        there.send_bytes(pickle.dumps(failure))
        return 1
