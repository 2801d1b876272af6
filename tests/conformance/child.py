"""A second process of a case: it has the descriptors that are open when it begins, and none of the case's memory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING

from pyvfio.abi import mman
from tests.conformance.step import Reply, Step

if TYPE_CHECKING:
    from tests.conformance.bench import Bench
    from tests.conformance.machine import SimulatedMachine


class Child(ABC):
    @abstractmethod
    def run(self, step: Step) -> Reply:
        """Take the step there; what it changed is what the child's own counts show."""

    @abstractmethod
    def end(self) -> None:
        """The process ends, whatever it has open."""


class SimulatedChild(Child):
    def __init__(self, bench: Bench, machine: SimulatedMachine) -> None:
        """machine: the one bench is on."""
        other = machine.spawn()
        self._kernel = other.simulated
        self._bench = bench.on(other)
        self._bench.fds = {name: machine.simulated.send(fd, self._kernel) for name, fd in bench.fds.items()}

    def run(self, step: Step) -> Reply:
        return _run(step, self._bench)

    def end(self) -> None:
        self._kernel.exit()


class ForkedChild(Child):
    def __init__(self, bench: Bench) -> None:
        self._here, there = Pipe()
        self._pid = os.fork()
        if not self._pid:
            self._here.close()
            status = 1
            try:
                _serve(bench, there)
                status = 0
            finally:
                os._exit(status)
        there.close()

    def run(self, step: Step) -> Reply:
        self._here.send(step)
        reply: Reply = self._here.recv()
        return reply

    def end(self) -> None:
        self._here.close()
        os.waitpid(self._pid, 0)


def _serve(bench: Bench, there: Connection) -> None:
    """Take steps until there are no more. As after exec, the memory of a case is not there; nothing takes its place."""
    flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_FIXED
    for address, size in bench.mapped.values():
        bench.kernel.mmap(size, mman.PROT_NONE, flags, address=address)
    bench.mapped = {}
    while True:
        try:
            step: Step = there.recv()
        except EOFError:
            return
        there.send(_run(step, bench))


def _run(step: Step, bench: Bench) -> Reply:
    """What has changed since the last step there was another process's doing."""
    bench.before = None
    return step.run(bench)
