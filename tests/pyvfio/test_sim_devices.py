"""A simulated machine with devices by name."""

from __future__ import annotations

import pytest

from pyvfio import Container
from pyvfio.sim import SimKernel


def test_devices_by_name_follow_the_edu_devices_each_in_a_group_of_its_own() -> None:
    kernel = SimKernel(edu_devices=1, devices=["nvme", "e1000e", "edu"])
    found = {}
    with Container(kernel=kernel) as space:
        for address in kernel.functions:
            config = space.open_device(address).config
            found[address] = (config.vendor_id, config.device_id)
    assert found == {
        "0000:00:03.0": (0x1234, 0x11E8),
        "0000:00:04.0": (0x1B36, 0x0010),
        "0000:00:05.0": (0x8086, 0x10D3),
        "0000:00:06.0": (0x1234, 0x11E8),
    }
    assert len({function.group for function in kernel.functions.values()}) == 4


def test_a_name_that_no_device_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="'nvmee': there are edu, nvme, e1000e"):
        SimKernel(devices=["nvmee"])
