"""Counts what a test tries in one function, for the last lines of the session.

A plugin of its own, because the process that writes them may be another than those that run the tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

_PROPERTY = "cases"


class _Summary:
    def __init__(self) -> None:
        self._counts = Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == _PROPERTY and isinstance(value, dict):
                    self._counts.update(value)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for what, count in sorted(self._counts.items()):
            terminalreporter.write_line(f"{what}: {count} cases")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Summary())


@pytest.fixture
def count_case(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Called once for each case of a kind."""
    counts = Counter[str]()

    def count(what: str) -> None:
        counts[what] += 1

    yield count
    request.node.user_properties.append((_PROPERTY, dict(counts)))
