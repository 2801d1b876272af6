from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vhost_user.front_end import Bench, FrontEnd


def descriptors() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/fd").iterdir() if _open(int(path.name))}


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Leaves no descriptor open, whatever the test did."""
    before = descriptors()
    bench = Bench(str(tmp_path / "socket"))
    try:
        yield bench
    finally:
        bench.close()
    assert not descriptors() - before


@pytest.fixture
def front_end(bench: Bench) -> Iterator[FrontEnd]:
    front_end = FrontEnd(bench)
    yield front_end
    front_end.close()
