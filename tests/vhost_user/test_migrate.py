"""The device of a front end's guest moves from one server to another, over the control sockets of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE, Elsewhere, FrontEnd
from tests.support.vhost_user.process import serving
from virtiomem import RequestType, Response, ResponseType, Run
from virtiomem.control import ControlClient, ControlRefused
from virtiomem.device import BlockState

PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType
ACK, BUSY = Response(ResponseType.ACK), Response(ResponseType.BUSY)
OPTIONS = ("--region", str(REGION_SIZE), "--block-size", str(BLOCK), "--no-state", "--requested", str(REGION_SIZE))


def test_a_guest_moves_from_one_server_to_another(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with (
        serving(here, "--vhost-user", str(here / "mem"), *OPTIONS),
        serving(there, "--vhost-user", str(there / "mem"), *OPTIONS),
        ControlClient(here / "control") as source,
        ControlClient(there / "control") as target,
    ):
        left = FrontEnd(Elsewhere(str(here / "mem")))
        driver = started(left, "split")
        assert ask(driver, PLUG, REGION_ADDRESS + BLOCK, 3) == ACK
        assert source.begin_migration().region_size == REGION_SIZE
        assert ask(driver, PLUG, REGION_ADDRESS, 1) == ask(driver, UNPLUG, REGION_ADDRESS + BLOCK, 1) == BUSY
        # No device does DMA to it: what the guest writes is not seen here.
        left.region.bytes[BLOCK : BLOCK + 5] = b"guest"
        assert list(source.dirty_pages()) == []
        state = source.save_state()
        with pytest.raises(ControlRefused, match="no file is attached to the memory"):
            target.load_state(state)
        right = FrontEnd(Elsewhere(str(there / "mem")))
        right.connect()
        right.share()
        right.config()
        status = target.load_state(state)
        assert status.plugged == (Run(REGION_ADDRESS + BLOCK, 3 * BLOCK),)
        right.region.bytes[BLOCK : BLOCK + 5] = left.region.bytes[BLOCK : BLOCK + 5]
        driver_there = started(right, "split")
        assert ask(driver_there, STATE, REGION_ADDRESS + BLOCK, 3) == Response(ResponseType.ACK, BlockState.PLUGGED)
        assert right.region.bytes[BLOCK : BLOCK + 5] == b"guest"
        assert ask(driver_there, UNPLUG, REGION_ADDRESS + BLOCK, 3) == ACK
        with pytest.raises(ControlRefused, match="a driver runs"):
            target.load_state(state)
        source.cancel_migration()
        assert ask(driver, UNPLUG, REGION_ADDRESS + BLOCK, 3) == ACK
        for front_end in (left, right):
            front_end.close()
