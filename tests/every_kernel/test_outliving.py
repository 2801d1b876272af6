"""Servers that are killed, with a container that stays: a device goes on with its DMA, and a guest notices nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kernels import outliving
from tests.support.kernels.testbed import Testbed
from tests.support.vhost_user.guests import Kind

KILLS = 6


@pytest.mark.needs("type1")
@pytest.mark.parametrize("kind", ["split", "packed"])
def test_a_device_sees_no_gap_while_its_server_is_killed(kind: Kind, testbed: Testbed, tmp_path: Path) -> None:
    if testbed.kernel.name == "simulated":
        pytest.skip("a simulated container is its process's, and ends with it")
    outliving.drive(testbed.kernel, testbed.devices[0], tmp_path, kind, KILLS, lambda _: None)
