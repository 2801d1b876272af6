"""A manager and a client of its control socket, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.virtiomem.managers import Running, running
from virtiomem.control import ControlClient


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "vm0.sock") as run:
        yield run


@pytest.fixture
def client(manager: Running) -> Iterator[ControlClient]:
    with ControlClient(manager.path) as client:
        yield client
