"""One machine, and what it says about the tests that it was given."""

from __future__ import annotations

import json
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from vmlib.errors import Unavailable, VmError
from vmlib.hardware import Hardware
from vmlib.kernels import image
from vmlib.machine import Machine, check_qemu
from vmlib.progress import Progress

from tests.vm.target import Target

GUEST_TARGET = "PYVFIO_GUEST_TARGET"
"""Set in the guest: the name of the target that it is."""
TIMEOUT = 1500
OUTPUT_SHOWN = 8000


class Run:
    """Begins at once, in a thread of its own."""

    def __init__(
        self,
        target: Target,
        tests: Sequence[str],
        options: Sequence[str],
        slot: AbstractContextManager[object],
        progress: Progress,
    ) -> None:
        """tests: their ids. options: of pytest in the guest. slot: held for as long as the machine runs."""
        self._target = target
        self._options = options
        self._slot = slot
        self._progress = progress
        self._reports: dict[str, list[dict[str, object]]] = {test: [] for test in tests}
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._partial = b""
        self._output = bytearray()
        self._running: str | None = None
        self._trouble: VmError | None = None
        self._blamed = False
        self._machine: Machine | None = None
        self._ended = threading.Event()
        self._since = time.monotonic()
        self._took: dict[str, float] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="pyvfio-tests-"))
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """The reports of one test, waiting for the machine to make them."""
        reports = self._reports[item.nodeid]
        while not (complete := any(data["when"] == "teardown" for data in reports)) and self._read():
            pass
        for data in reports:
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=dict(data))
            assert isinstance(report, pytest.TestReport)
            yield report
        if not complete:
            yield self._missing(item)

    def end(self) -> None:
        """End the machine if it still runs. A kernel that is being fetched or built is not waited for."""
        self._ended.set()
        if self._machine is not None:
            self._machine.kill()
            self._thread.join()
        shutil.rmtree(self._directory)

    def summary(self) -> str:
        """How long it took, and for what."""
        took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in self._took.items() if seconds >= 0.5)
        return f"{self._target.name:<20} {len(self._reports):>4} tests: {took}"

    def _main(self) -> None:
        try:
            check_qemu()
            kernel = image(self._target.kernel, self._progress)
            self._mark("kernel")
            with self._slot:
                self._mark("queue")
                if not self._ended.is_set():
                    self._boot(Machine(kernel, Hardware(iommu=self._target.iommu), timeout=TIMEOUT))
        except VmError as error:
            self._trouble = error
        finally:
            self._mark("tests")
            self._lines.put(None)

    def _boot(self, machine: Machine) -> None:
        self._machine = machine
        arguments = self._directory / "arguments"
        arguments.write_text("".join(f"{argument}\n" for argument in (*self._options, *self._reports)))
        command = ["python", "-m", "pytest", "-p", "no:cacheprovider", "-q", f"@{arguments}"]
        environment = {
            GUEST_TARGET: self._target.name,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "CI": os.environ.get("CI", ""),
        }
        outputs = {"reports": self._receive, "stdout": self._output.extend, "stderr": self._output.extend}
        status = machine.run(command, outputs, environment)
        self._trouble = VmError(f"pytest in the machine ended with {status}")

    def _receive(self, data: bytes) -> None:
        if "boot" not in self._took:
            self._mark("boot")
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._lines.put(line)

    def _read(self) -> bool:
        """Take in one more line of the machine's; False if none will come."""
        line = self._lines.get()
        if line is None:
            self._lines.put(None)
            return False
        data = json.loads(line)
        if "begins" in data:
            self._running = data["begins"]
        else:
            self._reports[data["nodeid"]].append(data)
        return True

    def _missing(self, item: pytest.Item) -> pytest.TestReport:
        """For a test that the machine did not finish: all there is to know for the first, less for those after it."""
        required = bool(os.environ.get("CI"))
        if isinstance(self._trouble, Unavailable) and not required:
            path, line, _ = item.location
            where = (path, line or 0, f"Skipped: no real kernel: {self._trouble}")
            return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "skipped", where, "setup")
        when = "during this test" if self._running == item.nodeid else "before this test"
        text = f"the machine ended {when}: {self._trouble}"
        if self._blamed:
            text = text.splitlines()[0]
        else:
            text += f"\n{self._output.decode(errors='replace')[-OUTPUT_SHOWN:]}"
        self._blamed = True
        return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "failed", text, "call")

    def _mark(self, what: str) -> None:
        now = time.monotonic()
        self._took[what], self._since = now - self._since, now
