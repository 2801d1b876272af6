"""The plugin where pytest was started: hands the tests of real kernels to machines."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from vmlib.hardware import Hardware
from vmlib.progress import Progress

from tests.vm.run import Run
from tests.vm.target import SIMULATED, TARGETS

OVERHEAD = 512
"""MiB that QEMU needs beside the guest's memory."""


class Host:
    """All machines begin as soon as it is known what they have to do, and run beside the tests of this process."""

    def __init__(self) -> None:
        # Here, where it is not yet captured: lines that come while a test runs are to be seen.
        self._stderr = os.fdopen(os.dup(2), "w")
        self._runs: dict[str, Run] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = {name: place for place, name in enumerate(_targets(items))}
        items.sort(key=lambda item: order[target_name(item)])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            return
        slots = threading.Semaphore(slot_count(os.cpu_count() or 1, available_memory()))
        progress = Progress(self._stderr, in_place=False)
        option = session.config.option
        options = [f"--tb={option.tbstyle}", *["-v"] * option.verbose, *["--showlocals"] * option.showlocals]
        for name in _targets(session.items):
            if name is not None:
                tests = [item.nodeid for item in session.items if target_name(item) == name]
                self._runs[name] = Run(TARGETS[name], tests, options, slots, progress)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        name = target_name(item)
        if name is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._runs[name].reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._runs:
            terminalreporter.section("real kernels")
        for run in self._runs.values():
            terminalreporter.line(run.summary())

    def pytest_sessionfinish(self) -> None:
        for run in self._runs.values():
            run.end()

    def pytest_unconfigure(self) -> None:
        self._stderr.close()


def target_name(item: pytest.Item) -> str | None:
    """The real kernel a test is for; None where it runs in this process."""
    callspec = getattr(item, "callspec", None)
    name: str | None = callspec.params.get("kernel_name") if callspec else None
    return None if name == SIMULATED else name


def slot_count(processors: int, memory: int) -> int:
    """How many machines may run side by side; memory: MiB that are free."""
    return max(1, min(processors, memory // (Hardware().memory + OVERHEAD)))


def available_memory() -> int:
    """MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) >> 10


def _targets(items: Iterable[pytest.Item]) -> list[str | None]:
    """In the order they come first in; this process first."""
    return [None, *dict.fromkeys(name for item in items if (name := target_name(item)) is not None)]
