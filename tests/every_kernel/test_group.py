"""Groups that join a container, leave it, and join another."""

from __future__ import annotations

import errno

import pytest

from pyvfio import Container, DeviceBusy, Group, InvalidArgument, IommuType, Kernel, Memory, VfioError
from pyvfio.drivers.edu import Edu
from pyvfio.kernel import memlock
from pyvfio.sysfs import pci_device
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed

pytestmark = pytest.mark.needs("type1")

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 4


def number_of(kernel: Kernel, address: str) -> int:
    group = pci_device(kernel, address).group
    assert group is not None
    return group


def test_a_group_moves_from_one_container_to_another(testbed: Testbed, memory: Memory) -> None:
    kernel, address = testbed.kernel, testbed.devices[0]
    memory.write(0, MESSAGE)
    with Container(kernel=kernel) as first, Container(kernel=kernel) as second:
        group = first.open_group(number_of(kernel, address))
        first.map_dma(IOVA, memory, BLOCK, BLOCK)
        first.detach(group)
        assert (first.groups, group.attached, group.closed) == ((), False, False)
        second.attach(group)
        assert (second.groups, group.attached) == ((group,), True)
        second.map_dma(IOVA, memory, 0, BLOCK)
        with Edu(group.open_device(address)) as edu:
            edu.fetch(IOVA, len(MESSAGE))
            edu.store(IOVA + 4096, len(MESSAGE))
        assert memory.read(4096, len(MESSAGE)) == MESSAGE
    assert group.closed


def test_a_group_made_alone_becomes_the_child_of_its_container(testbed: Testbed, memory: Memory) -> None:
    kernel, before = testbed.kernel, memlock(testbed.kernel).charged
    group = Group(number_of(kernel, testbed.devices[0]), kernel=kernel)
    with Container(kernel=kernel) as container:
        container.attach(group)
        assert container.groups == (group,)
        container.map_dma(IOVA, memory, 0, BLOCK)
        device = group.open_device(testbed.devices[0])
    assert group.closed
    assert device.closed
    assert memlock(kernel).charged == before


def test_the_last_group_takes_the_mappings_and_the_iommu_type(testbed: Testbed, memory: Memory) -> None:
    kernel, before = testbed.kernel, memlock(testbed.kernel).charged
    with Container(kernel=kernel) as container:
        groups = [container.open_group(number_of(kernel, address)) for address in testbed.devices[:2]]
        container.map_dma(IOVA, memory, 0, BLOCK)
        container.detach(groups[0])
        assert (container.mapping_count, memlock(kernel).charged) == (1, before + BLOCK)
        container.map_dma(IOVA + BLOCK, memory, BLOCK, BLOCK)
        container.detach(groups[1])
        assert (container.mapping_count, memlock(kernel).charged, container.iommu_type) == (0, before, None)
        with pytest.raises(VfioError, match="no IOMMU yet"):
            container.map_dma(IOVA, memory, 0, BLOCK)
        container.attach(groups[1])
        assert container.iommu_type is IommuType.TYPE1v2
        container.map_dma(IOVA, memory, 0, BLOCK)
        groups[0].close()


def test_a_group_with_an_open_device_stays(testbed: Testbed, memory: Memory) -> None:
    with Container(kernel=testbed.kernel) as container:
        device = container.open_device(testbed.devices[0])
        (group,) = container.groups
        container.map_dma(IOVA, memory, 0, BLOCK)
        with pytest.raises(DeviceBusy, match=f"{testbed.devices[0]} is open.*Close it first") as caught:
            container.detach(group)
        assert caught.value.errno == errno.EBUSY
        assert (container.groups, container.mapping_count, group.attached) == ((group,), 1, True)
        device.close()
        container.detach(group)
        group.close()


def test_a_group_of_another_container(testbed: Testbed) -> None:
    kernel = testbed.kernel
    with Container(kernel=kernel) as first, Container(kernel=kernel) as second:
        group = first.open_group(number_of(kernel, testbed.devices[0]))
        with pytest.raises(InvalidArgument, match="not in this container"):
            second.detach(group)
        with pytest.raises(VfioError, match="in a container already"):
            second.attach(group)
        assert (first.groups, second.groups, second.iommu_type) == ((group,), (), None)


def test_a_group_that_is_a_child_and_not_attached(testbed: Testbed) -> None:
    kernel = testbed.kernel
    with Container(kernel=kernel) as container:
        group = Group(number_of(kernel, testbed.devices[0]), kernel=kernel, container=container)
        with pytest.raises(VfioError, match="is not attached") as caught:
            container.detach(group)
        assert caught.value.errno == errno.EINVAL
