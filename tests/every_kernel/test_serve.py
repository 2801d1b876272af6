"""virtiomem serve with devices: blocks of another process's memory, mapped where its guest plugs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kernels.testbed import Testbed
from tests.support.vhost_user.driver import ask, started
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE, Elsewhere, FrontEnd
from tests.support.vhost_user.process import serving
from virtiomem import RequestType, Response, ResponseType
from virtiomem.control import ControlClient


@pytest.mark.needs("real", "type1")
def test_blocks_of_a_front_end_are_mapped_while_they_are_plugged(testbed: Testbed, tmp_path: Path) -> None:
    backend = Elsewhere(str(tmp_path / "memory"))
    devices = testbed.devices[:2]
    arguments = ["--region", str(REGION_SIZE), "--block-size", str(BLOCK), "--requested", str(REGION_SIZE)]
    arguments += [word for device in devices for word in ("--device", device)]
    with serving(tmp_path, "--vhost-user", backend.path, *arguments) as process:
        unmapped = _locked(process.pid)
        front_end = FrontEnd(backend)
        try:
            driver = started(front_end, "split")
            for blocks, kind in ((3, RequestType.PLUG), (0, RequestType.UNPLUG)):
                assert ask(driver, kind, REGION_ADDRESS, 3) == Response(ResponseType.ACK)
                assert _locked(process.pid) - unmapped == len(devices) * blocks * BLOCK
                assert front_end.region.resident() == blocks * BLOCK
                with ControlClient(tmp_path / "control") as client:
                    (device,) = client.show()[1]
                assert [space.mappings for space in device.address_spaces] == [blocks] * len(devices)
        finally:
            front_end.close()


def _locked(pid: int) -> int:
    """Bytes the kernel has charged the process with for its mappings."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmLck:")[1].split()[0]) << 10
