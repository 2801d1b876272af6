"""An edu device: its groups, config space, registers, interrupts and reset."""

from __future__ import annotations

import errno

import pytest

from pyvfio import (
    ClosedError,
    Container,
    DeviceFlags,
    DeviceNotBound,
    Group,
    GroupBusy,
    InterruptFlags,
    InterruptIndex,
    InvalidArgument,
    Kernel,
    Memory,
    RegionFlags,
    VfioError,
)
from pyvfio.abi import pci_regs
from pyvfio.drivers.edu import Edu
from pyvfio.host import bind, restore, unbind
from pyvfio.kernel import memlock
from pyvfio.sysfs import group_members, pci_device
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed


def test_what_the_kernel_tells_of_an_edu_device(container: Container, testbed: Testbed) -> None:
    device = container.open_device(testbed.devices[0])
    assert device.info.flags & DeviceFlags.PCI
    assert (device.info.num_regions, device.info.num_irqs) == (9, 5)
    bar = device.region(0)
    assert (bar.size, bar.info.flags & 7) == (1 << 20, RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP)
    assert device.region(1).size == 0
    assert device.interrupts(InterruptIndex.MSI).info.count == 1
    assert InterruptFlags.AUTOMASKED in device.interrupts(InterruptIndex.INTX).info.flags
    assert device.interrupts(InterruptIndex.MSIX).info.count == 0


def test_config_space(container: Container, testbed: Testbed) -> None:
    config = container.open_device(testbed.devices[0]).config
    assert (config.vendor_id, config.device_id) == (0x1234, 0x11E8)
    assert pci_regs.PCI_CAP_ID_MSI in [capability.id for capability in config.capabilities()]
    states = [config.bus_master]
    config.enable_bus_master()
    states.append(config.bus_master)
    config.disable_bus_master()
    assert [*states, config.bus_master] == [False, True, False]


def test_registers_have_their_width(container: Container, testbed: Testbed) -> None:
    device = container.open_device(testbed.devices[0])
    device.config.command |= pci_regs.PCI_COMMAND_MEMORY
    bar = device.region(0)
    assert bar.read32(0) == 0x0100_00ED
    bar.write32(4, 0x1234_5678)
    assert bar.read32(4) == 0xEDCB_A987
    bar.write64(0x80, 0x1122_3344_5566_7788)
    assert bar.read64(0x80) == 0x1122_3344_5566_7788


@pytest.mark.parametrize(("offset", "width"), [(2, 32), (1, 16), (4, 64), (1 << 20, 8), (-4, 32), ((1 << 20) - 4, 64)])
def test_accesses_outside_or_across_are_refused(
    container: Container, testbed: Testbed, offset: int, width: int
) -> None:
    bar = container.open_device(testbed.devices[0]).region(0)
    with pytest.raises(InvalidArgument):
        getattr(bar, f"read{width}")(offset)


def test_a_value_too_wide_for_the_register_is_refused(container: Container, testbed: Testbed) -> None:
    bar = container.open_device(testbed.devices[0]).region(0)
    with pytest.raises(InvalidArgument, match="too wide"):
        bar.write32(4, 1 << 32)


def test_msi_arrives_by_eventfd(engine: Edu) -> None:
    assert engine.raise_interrupt()


def test_no_interrupt_is_a_timeout(container: Container, testbed: Testbed) -> None:
    interrupts = container.open_device(testbed.devices[0]).interrupts(InterruptIndex.MSI)
    interrupts.enable()
    assert interrupts.wait(0.01) == 0
    interrupts.trigger()
    assert interrupts.wait(5) == 1
    interrupts.disable()
    assert interrupts.enabled == 0


def test_intx_masks_itself_until_unmasked(container: Container, testbed: Testbed) -> None:
    device = container.open_device(testbed.devices[0])
    device.config.enable_bus_master()
    interrupts = device.interrupts(InterruptIndex.INTX)
    interrupts.enable()
    bar = device.region(0)
    for _ in range(2):
        bar.write32(0x60, 1)
        assert interrupts.wait(5) == 1
        bar.write32(0x64, 1)
        interrupts.unmask()
    interrupts.disable()


def test_more_vectors_than_there_are(container: Container, testbed: Testbed) -> None:
    interrupts = container.open_device(testbed.devices[0]).interrupts(InterruptIndex.MSI)
    with pytest.raises(InvalidArgument, match="the device has 1 of them"):
        interrupts.enable(2)
    with pytest.raises(InvalidArgument):
        interrupts.enable(0)


def test_an_edu_on_the_root_bus_has_no_reset(container: Container, testbed: Testbed) -> None:
    with pytest.raises(VfioError, match="cannot be reset alone") as caught:
        container.open_device(testbed.devices[0]).reset()
    assert caught.value.errno == errno.EINVAL


@pytest.mark.usefixtures("container")
def test_a_group_opens_once(testbed: Testbed) -> None:
    group = pci_device(testbed.kernel, testbed.devices[0]).group
    assert group is not None
    with pytest.raises(GroupBusy):
        Group(group, kernel=testbed.kernel)
    with Container(kernel=testbed.kernel) as other, pytest.raises(GroupBusy):
        other.open_device(testbed.devices[0])


def test_two_groups_share_a_container(container: Container, testbed: Testbed) -> None:
    second = container.open_device(testbed.devices[1])
    assert second.config.vendor_id == 0x1234
    assert second.group is not None
    assert pci_device(testbed.kernel, testbed.devices[0]).group != second.group.number
    assert second.group in container.groups
    assert all(group.attached for group in container.groups)


def test_children_close_before_their_parents(testbed: Testbed) -> None:
    container = Container(kernel=testbed.kernel)
    device = container.open_device(testbed.devices[0])
    region, interrupts = device.region(0), device.interrupts(InterruptIndex.MSI)
    interrupts.enable()
    container.close()
    assert device.closed
    assert device.group is not None
    assert device.group.closed
    assert region.closed
    assert interrupts.closed
    with pytest.raises(ClosedError):
        region.read32(0)
    with Container(kernel=testbed.kernel) as again:
        again.open_device(testbed.devices[0])


def test_a_container_is_as_new_when_its_last_group_has_gone(testbed: Testbed, memory: Memory) -> None:
    with Container(kernel=testbed.kernel) as container:
        for address in testbed.devices:
            device = container.open_device(address)
            container.map_dma(IOVA, memory, 0, MEBIBYTE)
            assert memlock(testbed.kernel).charged == MEBIBYTE
            assert device.group is not None
            device.group.close()
            assert container.mapping_count == 0
            assert memlock(testbed.kernel).charged == 0


def test_a_device_that_is_not_bound_says_how(testbed: Testbed) -> None:
    address = testbed.devices[0]
    before = bind(testbed.kernel, address)
    unbind(testbed.kernel, address)
    try:
        with (
            Container(kernel=testbed.kernel) as container,
            pytest.raises(DeviceNotBound, match=f"pyvfio bind {address}"),
        ):
            container.open_device(address)
    finally:
        bind(testbed.kernel, address)
        restore(testbed.kernel, before)


@pytest.mark.parametrize("address", ["0000:7f:1f.7", "7f:1f.7"])
def test_a_device_that_is_not_there(kernel: Kernel, address: str) -> None:
    with pytest.raises(DeviceNotBound, match="there is no such device"):
        pci_device(kernel, address)


def test_an_address_that_is_none(kernel: Kernel) -> None:
    with pytest.raises(InvalidArgument, match="not an address"):
        pci_device(kernel, "eth0")


def test_every_device_is_alone_in_its_group(testbed: Testbed) -> None:
    for address in testbed.devices:
        device = pci_device(testbed.kernel, address)
        assert device.driver == "vfio-pci"
        assert device.group is not None
        assert group_members(testbed.kernel, device.group) == [device]


def test_bind_to_a_driver_that_is_not_loaded(testbed: Testbed) -> None:
    with pytest.raises(DeviceNotBound, match="modprobe no-such-driver"):
        bind(testbed.kernel, testbed.devices[0], "no-such-driver")
    assert pci_device(testbed.kernel, testbed.devices[0]).driver == "vfio-pci"
