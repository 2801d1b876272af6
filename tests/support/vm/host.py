"""The plugin where pytest was started: hands the tests of real kernels to machines."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from tests.support.vm.fleet import Fleet
from tests.support.vm.target import SIMULATED
from tests.support.vm.worker import Task


class Host:
    """All machines begin as soon as it is known what they have to do, and run beside the tests of this process."""

    def __init__(self) -> None:
        # Here, where it is not yet captured: what the worker says while a test runs is to be seen.
        self._stderr = os.dup(2)
        self._fleet: Fleet | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = {name: place for place, name in enumerate((None, *_targets(items)))}
        items.sort(key=lambda item: order[target_name(item)])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        option = session.config.option
        if option.collectonly:
            return
        options = [f"--tb={option.tbstyle}", *["-v"] * option.verbose, *["--showlocals"] * option.showlocals]
        tasks = [
            Task(name, [item.nodeid for item in session.items if target_name(item) == name], options)
            for name in _targets(session.items)
        ]
        if tasks:
            self._fleet = Fleet(tasks, self._stderr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        name = target_name(item)
        if name is None or self._fleet is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._fleet.sessions[name].reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._fleet is not None:
            terminalreporter.section("real kernels")
            for session in self._fleet.sessions.values():
                terminalreporter.line(session.summary())

    def pytest_unconfigure(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
        os.close(self._stderr)


def target_name(item: pytest.Item) -> str | None:
    """The real kernel a test is for; None where it runs in this process."""
    callspec = getattr(item, "callspec", None)
    name: str | None = callspec.params.get("kernel_name") if callspec else None
    return None if name == SIMULATED else name


def _targets(items: Iterable[pytest.Item]) -> list[str]:
    """The names of real kernels, in the order they come first in."""
    return [*dict.fromkeys(name for item in items if (name := target_name(item)) is not None)]
