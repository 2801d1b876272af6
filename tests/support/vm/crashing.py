"""What test_plugin.py runs in a machine: collected only where it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("real")


def test_passes(kernel_name: str) -> None:
    assert kernel_name


def test_fails(kernel_name: str) -> None:
    print("said by the failing test")
    assert kernel_name == "another"


def test_panics(kernel_name: str) -> None:
    assert kernel_name
    Path("/proc/sysrq-trigger").write_text("c")


def test_comes_too_late(kernel_name: str) -> None:
    assert kernel_name
