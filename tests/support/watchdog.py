"""The plugin that ends a session in which a test hangs, and says where it does."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest

from tests.support.vm.host import target_name

PATIENCE = 1500
"""Seconds for a test of this process: the longest boots several guests."""
_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    # Here, where pytest does not yet capture it.
    config.stash[_STDERR] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # What waits for a machine is bounded by the machine.
    if target_name(item) is None:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
