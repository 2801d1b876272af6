"""A managed device moves from one manager to another over their control sockets, each mapped into a real container."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyvfio import MemoryKind
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed
from tests.support.virtiomem.managers import reached
from virtiomem import Run
from virtiomem.control import ControlClient, ControlRefused, ControlServer
from virtiomem.stand_in import Manager, ManagerOptions

BLOCK = 2 * MEBIBYTE
REGION = 8 * BLOCK


@contextmanager
def managing(path: Path, testbed: Testbed, device: str) -> Iterator[ControlClient]:
    """A client of a manager of a region that one device reaches."""
    options = ManagerOptions(
        kernel=testbed.kernel,
        name="vm0",
        devices=[device],
        memory_kind=MemoryKind.ANONYMOUS,
        page_size=None,
        region_size=REGION,
        block_size=BLOCK,
        address=IOVA,
    )
    with ExitStack() as stack:
        server = stack.enter_context(ControlServer(str(path), lambda: None))
        manager = stack.enter_context(Manager(options, server.changed))
        server.manage(manager.managed)
        stack.callback(server.forget, "vm0")
        yield stack.enter_context(ControlClient(path))


@pytest.mark.needs("type1")
def test_a_device_moves_from_one_manager_to_another(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virtiomem.stand_in.stand_in.FIRST_RETRY", 0.05)
    one, two = testbed.devices[:2]
    with managing(tmp_path / "one", testbed, one) as source, managing(tmp_path / "two", testbed, two) as target:
        reached(source, 3 * BLOCK)
        assert source.begin_migration().unlogged == ()
        # What type1 maps reads as written, every time.
        for _ in range(2):
            assert list(source.dirty_pages()) == [Run(0, 3 * BLOCK)]
        source.resize(4 * BLOCK)
        revision, (status,) = source.show()
        while "migrating" not in (status.waiting_for or ""):
            revision, (status,) = source.show(after=revision, timeout=30)
        assert status.plugged_size == 3 * BLOCK
        status = target.load_state(source.save_state())
        assert (status.plugged, status.requested_size) == ((Run(IOVA, 3 * BLOCK),), 4 * BLOCK)
        assert reached(target, 4 * BLOCK).address_spaces[0].mappings == 4
        with pytest.raises(ControlRefused, match="blocks are plugged"):
            target.load_state(source.save_state())
        source.cancel_migration()
        assert reached(source, 4 * BLOCK).address_spaces[0].mappings == 4
        assert reached(source, 0).address_spaces[0].mappings == 0
