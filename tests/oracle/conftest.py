"""The judges as fixtures. Where nothing may be missing (CI), a missing judge is a failure, elsewhere a skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vmlib.errors import Unavailable

from tests.oracle.judges import JUDGES


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


def available(name: str) -> Path:
    try:
        return JUDGES[name]()
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"QEMU is required here: {error}")
        pytest.skip(str(error))


def _fast(config: pytest.Config) -> bool:
    kernels: object = config.getoption("kernel")
    return kernels == ["simulated"]
