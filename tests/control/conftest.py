"""A manager and a client of its control socket, and a device that a test plugs, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.virtiomem.managers import Running, running
from tests.support.virtiomem.place import Place
from virtiomem import RequestType, ResponseType
from virtiomem.control import ControlClient


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "vm0.sock") as run:
        yield run


@pytest.fixture
def client(manager: Running) -> Iterator[ControlClient]:
    with ControlClient(manager.path) as client:
        yield client


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def place(stack: ExitStack, tmp_path: Path) -> Place:
    """Blocks 2 to 4 and 8 are plugged."""
    place = Place(stack, tmp_path / "socket")
    for block, count in ((2, 3), (8, 1)):
        assert place.ask(RequestType.PLUG, block, count) is ResponseType.ACK
    return place
