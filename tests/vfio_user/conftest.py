"""A device behind a socket, and a client that has agreed with its server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.vfio_user.bench import Bench, RawClient, eventfds, guest_file


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def stranger(bench: Bench) -> Iterator[RawClient]:
    """A client that has said nothing yet."""
    with RawClient(bench.path, bench.settle) as client:
        yield client


@pytest.fixture
def client(stranger: RawClient) -> RawClient:
    """A client whose session has begun."""
    stranger.agree()
    return stranger


@pytest.fixture
def ram() -> Iterator[int]:
    """16 MiB of a guest's memory, as a file."""
    fd = guest_file(16 << 20)
    yield fd
    os.close(fd)


@pytest.fixture
def events() -> Iterator[Callable[[int], list[int]]]:
    """Makes eventfds, and closes them after the test."""
    made: list[int] = []

    def make(count: int) -> list[int]:
        fds = eventfds(count)
        made.extend(fds)
        return fds

    yield make
    for fd in made:
        os.close(fd)
