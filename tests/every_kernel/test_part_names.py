"""Regions and interrupts by the names that people say."""

from __future__ import annotations

import pytest

from pyvfio import Container, InterruptIndex, InvalidArgument, RegionIndex
from tests.support.kernels.testbed import Testbed


def test_a_name_is_the_same_part_as_its_index(container: Container, testbed: Testbed) -> None:
    device = container.open_device(testbed.devices[0])
    assert device.region("bar0") is device.region(RegionIndex.BAR0)
    assert device.region("CONFIG") is device.region(RegionIndex.CONFIG)
    assert device.interrupts("msi") is device.interrupts(InterruptIndex.MSI)


def test_a_name_that_no_part_has_is_refused_with_one_that_is_like_it(container: Container, testbed: Testbed) -> None:
    device = container.open_device(testbed.devices[0])
    with pytest.raises(InvalidArgument, match=r"none of bar0, .*Did you mean 'config'"):
        device.region("confg")
    with pytest.raises(InvalidArgument, match="none of intx, msi, msix, err, req"):
        device.interrupts("zzz")


def test_regions_are_those_with_bytes(container: Container, testbed: Testbed) -> None:
    device = container.open_device(testbed.devices[0])
    assert device.regions[0] is device.region("bar0")
    assert device.region("config") in device.regions
    assert device.region("bar3") not in device.regions
    assert all(region.size for region in device.regions)
