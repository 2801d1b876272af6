"""Counts what a test tries in one function, for the last lines of the session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

CASES = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CASES] = Counter()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, count in sorted(config.stash[CASES].items()):
        terminalreporter.write_line(f"{what}: {count} cases")


@pytest.fixture
def count_case(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Called once for each case of a kind."""

    def count(what: str) -> None:
        pytestconfig.stash[CASES][what] += 1

    return count
