"""Real guests. Where nothing may be missing (CI), a missing QEMU or kernel is a failure, elsewhere a skip."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from vmlib.errors import Unavailable
from vmlib.kernels import Image, image
from vmlib.qemu import recent_qemu

from tests.support.guest.stage import Stage

LOG = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LOG] = []


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """The everyday run boots nothing."""
    return True if config.getoption("kernel") == ["simulated"] else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash[LOG]:
        terminalreporter.section("what the guests saw, and what the device has")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line in the log of the tests."""
    lines = request.config.stash[LOG]
    lines.append(f"{request.node.name}:")
    return lambda line: lines.append(f"  {line}")


@pytest.fixture
def kernel_image() -> Callable[[str], Image]:
    """A kernel to boot, of the table in tools/vmlib/kernels.py, with a QEMU that can."""

    def available(name: str) -> Image:
        try:
            recent_qemu()
            return image(name)
        except Unavailable as error:
            reason = f"no guest can be booted: {error}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)

    return available


@pytest.fixture
def stage(tmp_path: Path, say: Callable[[str], None]) -> Iterator[Callable[..., Stage]]:
    """Makes stages, and closes them after the test."""
    with ExitStack() as stack:

        def make(**options: object) -> Stage:
            return stack.enter_context(Stage(tmp_path, say, **options))  # type: ignore[arg-type]

        yield make
