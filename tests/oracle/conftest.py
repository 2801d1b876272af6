"""The judges as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle.judges import JUDGES, available


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "judge_name" in metafunc.fixturenames:
        metafunc.parametrize("judge_name", ["machine"] if _fast(metafunc.config) else [*JUDGES], scope="session")


@pytest.fixture(scope="session")
def fast(request: pytest.FixtureRequest) -> bool:
    """Whether this is the everyday run, which takes seconds."""
    return _fast(request.config)


@pytest.fixture(scope="session")
def judge(judge_name: str) -> Path:
    """A QEMU to run."""
    return available(judge_name)


def _fast(config: pytest.Config) -> bool:
    kernels: object = config.getoption("kernel")
    return kernels == ["simulated"]
