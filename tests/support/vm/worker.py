"""The process beside a session of pytest that runs its machines: python -m tests.support.vm.worker DESCRIPTOR.

It is one of its own so that tests which look at their own process find only what they did. Standard input has one line
of JSON, a list of tasks, and ends when the session does. Each line written to DESCRIPTOR is an event: of one task, or,
every HEARTBEAT seconds, that this process is there. Every step of a task has a limit of its own.
"""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from vmlib.errors import Unavailable, VmError
from vmlib.hardware import Hardware
from vmlib.kernels import image
from vmlib.machine import Machine, check_qemu
from vmlib.progress import Progress

from tests.support.vm.target import GUEST_TARGET, TARGETS

TIMEOUT = 1500
OVERHEAD = 512
"""MiB that QEMU needs beside the guest's memory."""
OUTPUT_SHOWN = 8000
HEARTBEAT = 20
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Task:
    """tests: their ids, run in the machine called target. options: of pytest there."""

    target: str
    tests: Sequence[str]
    options: Sequence[str]


@dataclass(frozen=True, slots=True)
class End:
    """What a machine leaves. took: seconds by what for. unavailable: there was none to be had."""

    trouble: str
    unavailable: bool
    output: str
    took: dict[str, float]


class Events:
    """Lines of JSON from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, event: Mapping[str, object]) -> None:
        with self._lock:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


class Run:
    """One task: begins at once, in a thread of its own."""

    def __init__(self, task: Task, slots: threading.Semaphore, events: Events) -> None:
        """slots: as many as machines may run side by side."""
        self._task = task
        self._slots = slots
        self._events = events
        self._partial = b""
        self._output = bytearray()
        self._took: dict[str, float] = {}
        self._since = time.monotonic()
        self._machine: Machine | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the machine if it still runs. A kernel that is being fetched or built is not waited for."""
        self._ended.set()
        if self._machine is not None:
            self._machine.kill()
            self._thread.join()

    def _main(self) -> None:
        trouble: VmError | None = None
        try:
            check_qemu()
            kernel = image(TARGETS[self._task.target].kernel, Progress(in_place=False))
            self._mark("kernel")
            with self._slots:
                self._mark("queue")
                trouble = self._boot(Machine(kernel, Hardware(iommu=TARGETS[self._task.target].iommu), timeout=TIMEOUT))
        except VmError as error:
            trouble = error
        except Exception as error:  # whatever it was, the session has to learn that no report will come
            trouble = VmError(f"the worker failed: {error!r}")
            traceback.print_exc()
        self._mark("tests")
        output = self._output.decode(errors="replace")[-OUTPUT_SHOWN:]
        self._send({"end": asdict(End(str(trouble), isinstance(trouble, Unavailable), output, self._took))})

    def _boot(self, machine: Machine) -> VmError:
        with tempfile.TemporaryDirectory(prefix="pyvfio-tests-") as directory:
            arguments = Path(directory, "arguments")
            arguments.write_text("".join(f"{argument}\n" for argument in (*self._task.options, *self._task.tests)))
            command = ["python", "-m", "pytest", "-p", "no:cacheprovider", "-q", f"@{arguments}"]
            environment = {
                GUEST_TARGET: self._task.target,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "CI": os.environ.get("CI", ""),
            }
            outputs = {"reports": self._receive, "stdout": self._output.extend, "stderr": self._output.extend}
            status = machine.run(command, outputs, environment)
        return VmError(f"pytest in the machine ended with {status}")

    def _receive(self, data: bytes) -> None:
        if "boot" not in self._took:
            self._mark("boot")
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._send(json.loads(line))

    def _send(self, event: dict[str, object]) -> None:
        self._events.send({"target": self._task.target, **event})

    def _mark(self, what: str) -> None:
        now = time.monotonic()
        self._took[what], self._since = now - self._since, now


def slot_count(processors: int, memory: int) -> int:
    """How many machines may run side by side; memory: MiB that are free."""
    return max(1, min(processors, memory // (Hardware().memory + OVERHEAD)))


def available_memory() -> int:
    """MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) >> 10


def main() -> None:
    events = Events(os.fdopen(int(sys.argv[1]), "w"))
    tasks = [Task(**task) for task in json.loads(sys.stdin.readline())]
    slots = threading.Semaphore(slot_count(os.cpu_count() or 1, available_memory()))
    runs = [Run(task, slots, events) for task in tasks]
    while not select.select([sys.stdin], [], [], HEARTBEAT)[0]:
        events.send({"alive": True})
    for run in runs:
        run.end()


if __name__ == "__main__":
    main()
