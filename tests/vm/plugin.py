"""Tests with the fixture kernel_name run on the simulated kernel here and on real ones in a virtual machine.

One machine boots for each real kernel and runs its tests in one pytest; their reports come back one by one as they are
made and count as this session's own.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmlib.errors import VmError
from vmlib.hardware import IOMMUS, Hardware
from vmlib.kernels import KERNELS, image
from vmlib.machine import Machine

SIMULATED = "simulated"
GUEST_KERNEL = "PYVFIO_GUEST_KERNEL"
"""Set in the guest: which of the parameters it is."""
GUEST_REPORTS = "/dev/vm-reports"
TIMEOUT = 900


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kernels")
    group.addoption(
        "--kernel",
        action="append",
        choices=[SIMULATED, *KERNELS],
        help="kernels to test on (default: simulated, stock)",
    )
    group.addoption("--iommu", action="append", choices=[*IOMMUS], help="IOMMU models of the machine (default: intel)")


def pytest_configure(config: pytest.Config) -> None:
    if GUEST_KERNEL in os.environ:
        config.pluginmanager.register(_Guest(config))
    else:
        config.pluginmanager.register(_Host())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel_name" in metafunc.fixturenames:
        metafunc.parametrize("kernel_name", _kernel_names(metafunc.config), scope="session")


def _kernel_names(config: pytest.Config) -> list[str]:
    """ "simulated", and KERNEL-IOMMU for every real one."""
    if guest := os.environ.get(GUEST_KERNEL):
        return [guest]
    chosen = config.getoption("kernel") or [SIMULATED, "stock"]
    models = config.getoption("iommu") or ["intel"]
    return [
        name
        for kernel in chosen
        for name in ([SIMULATED] if kernel == SIMULATED else [f"{kernel}-{model}" for model in models])
    ]


class _Guest:
    """In the machine: every report goes to the host."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._port = Path(GUEST_REPORTS).open("w", buffering=1)  # noqa: SIM115 (open as long as the session)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._port.write(json.dumps(data) + "\n")

    def pytest_unconfigure(self) -> None:
        self._port.close()


class _Host:
    """Where pytest was started: hands tests of real kernels to machines."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: _real_kernel(item) or "")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        name = _real_kernel(item)
        if name is None:
            return None
        if name not in self._runs:
            theirs = [other.nodeid for other in item.session.items if _real_kernel(other) == name]
            self._runs[name] = _Run(name, theirs)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._runs[name].reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        for run in self._runs.values():
            run.end()


class _Run:
    """One machine and the reports that come from it."""

    def __init__(self, name: str, tests: list[str]) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reports: dict[str, list[dict[str, object]]] = {}
        self._output = bytearray()
        self._partial = b""
        self._directory = Path(tempfile.mkdtemp(prefix="pyvfio-tests-"))
        self._trouble: str | None = None
        self._machine: Machine | None = None
        self._thread: threading.Thread | None = None
        kernel, _, model = name.rpartition("-")
        try:
            self._machine = Machine(image(kernel), Hardware(iommu=model), timeout=TIMEOUT)
        except VmError as error:
            self._trouble = str(error)
            return
        (self._directory / "tests").write_text("".join(f"{test}\n" for test in tests))
        self._thread = threading.Thread(target=self._boot, args=(self._machine, name), daemon=True)
        self._thread.start()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """The reports of one test, waiting for the machine to make them."""
        if self._thread is None:
            yield _unavailable(item, self._trouble or "")
            return
        seen = self._reports.setdefault(item.nodeid, [])
        while not any(data["when"] == "teardown" for data in seen):
            line = self._lines.get()
            if line is None:
                self._lines.put(None)
                yield from (_report(item, data) for data in seen)
                yield _failed(item, f"{self._trouble}\n{self._output.decode(errors='replace')[-4000:]}")
                return
            data = json.loads(line)
            self._reports.setdefault(data["nodeid"], []).append(data)
        yield from (_report(item, data) for data in seen)

    def end(self) -> None:
        if self._machine is not None and self._thread is not None:
            if self._thread.is_alive() and self._lines.empty():
                self._thread.join(10)
            self._machine.kill()
            self._thread.join()
        shutil.rmtree(self._directory)

    def _boot(self, machine: Machine, name: str) -> None:
        command = ["python", "-m", "pytest", "-p", "no:cacheprovider", "-q", f"@{self._directory}/tests"]
        environment = {GUEST_KERNEL: name, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": os.environ.get("CI", "")}
        outputs = {"reports": self._receive, "stdout": self._output.extend, "stderr": self._output.extend}
        try:
            status = machine.run(command, outputs, environment)
            self._trouble = f"pytest in the machine ended with {status} before it ran this test"
        except VmError as error:
            self._trouble = str(error)
        finally:
            self._lines.put(None)

    def _receive(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._lines.put(line.decode())


def _real_kernel(item: pytest.Item) -> str | None:
    """The real kernel a test is for; None where it runs in this process."""
    callspec = getattr(item, "callspec", None)
    name = callspec.params.get("kernel_name") if callspec else None
    return None if name == SIMULATED else name


def _report(item: pytest.Item, data: dict[str, object]) -> pytest.TestReport:
    report = item.config.hook.pytest_report_from_serializable(config=item.config, data=dict(data))
    assert isinstance(report, pytest.TestReport)
    return report


def _unavailable(item: pytest.Item, reason: str) -> pytest.TestReport:
    """Skipped for want of a machine; a failure where nothing may be missing."""
    if os.environ.get("CI"):
        return _failed(item, f"the real kernel is required here: {reason}")
    path, line, _ = item.location
    where = (path, line or 0, f"Skipped: no real kernel: {reason}")
    return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "skipped", where, "setup")


def _failed(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "failed", text, "call")
