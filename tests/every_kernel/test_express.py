"""A PCI Express device with MSI-X, reset and virtual functions: an NVMe controller on a bus of its own."""

from __future__ import annotations

import asyncio
import errno
import select
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from examples import nvme_read_write as nvme
from pyvfio import (
    AffectedDevice,
    ClosedError,
    Container,
    Device,
    DeviceFlags,
    EventFd,
    Feature,
    FeatureAccess,
    FeatureUnsupported,
    InterruptFlags,
    InterruptIndex,
    InvalidArgument,
    Ioas,
    Memory,
    MmapArea,
    Msix,
    PciCommand,
    PciExpress,
    PowerManagement,
    Region,
    RegionIndex,
    Sriov,
    VfioError,
    VfTokenRefused,
)
from pyvfio.abi import pci_regs
from pyvfio.sim import SimKernel
from tests.support.kernels.hardware import NVME, bound, virtual_function
from tests.support.kernels.testbed import Testbed

VECTORS = 7
VERSION, CONFIGURATION, STATUS, ADMIN_SUBMISSIONS = 0x08, 0x14, 0x1C, 0x28
TOKEN = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


@pytest.fixture
def space(testbed: Testbed) -> Iterator[Container]:
    with Container(kernel=testbed.kernel) as container:
        yield container


@pytest.fixture
def device(testbed: Testbed, space: Container) -> Iterator[Device]:
    with bound(testbed, NVME) as address, space:
        yield space.open_device(address)


@pytest.fixture
def other(testbed: Testbed) -> Iterator[Container]:
    with Container(kernel=testbed.kernel) as container:
        yield container


@pytest.fixture
def bar(device: Device) -> Region:
    return device.region(RegionIndex.BAR0)


def test_capabilities_have_names_and_registers(device: Device) -> None:
    config = device.config
    assert (config.vendor_id, config.device_id, config.class_device) == (*NVME.ids, 0x0108)
    assert {"MSIX", "EXP", "PM"} <= {capability.name for capability in config.capabilities()}
    msix, express = config.find(Msix), config.find(PciExpress)
    assert msix is not None
    assert (msix.vectors, msix.table_bar, msix.enabled) == (VECTORS, 0, 0)
    assert msix.table_offset + VECTORS * pci_regs.PCI_MSIX_ENTRY_SIZE <= device.region(0).size
    assert msix.pending_offset > msix.table_offset
    assert express is not None
    assert (express.type, express.can_function_reset) == (pci_regs.PCI_EXP_TYPE_ENDPOINT, 1)


def test_config_space_is_extended(device: Device) -> None:
    assert device.region(RegionIndex.CONFIG).size == pci_regs.PCI_CFG_SPACE_EXP_SIZE
    for capability in device.config.extended_capabilities():
        assert capability.offset >= pci_regs.PCI_CFG_SPACE_SIZE
        assert capability.version > 0
    sriov = device.config.find(Sriov)
    assert sriov is not None
    assert (sriov.name, sriov.total_vfs, sriov.enabled) == ("SRIOV", 2, 0)


def test_fields_keep_the_bits_beside_them(device: Device) -> None:
    express = device.config.find(PciExpress)
    assert express is not None
    before = express.device_control
    express.max_read_request_code = 1
    assert express.max_read_request_code == 1
    assert express.device_control & ~0x7000 == before & ~0x7000
    with pytest.raises(InvalidArgument, match="the largest is 0x7"):
        express.max_read_request_code = 8


def test_a_bar_with_the_vector_table_can_be_mapped(bar: Region) -> None:
    assert bar.info.msix_mappable
    assert bar.info.mmap_areas[0].size == bar.size
    assert bar.read32(VERSION) == 0x0001_0400
    assert bar.read(VERSION, 4) == bytes.fromhex("00040100")


def test_the_kernel_hides_the_vector_table_from_reads(device: Device, bar: Region) -> None:
    msix = device.config.find(Msix)
    assert msix is not None
    bar.write(msix.table_offset, bytes(8))
    assert bar.read(msix.table_offset, 8) == b"\xff" * 8


def test_every_vector_fires_on_its_own(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.MSIX)
    interrupts.enable(VECTORS)
    for vector in (0, 5, VECTORS - 1):
        interrupts.trigger(vector)
        assert interrupts.wait(5, vector) == 1
    assert [interrupts.pending(vector) for vector in range(VECTORS)] == [0] * VECTORS
    interrupts.trigger(2)
    interrupts.trigger(2)
    interrupts.trigger(6)
    assert interrupts.wait_any(5) == {2: 2, 6: 1}
    assert interrupts.wait_any(0) == {}


def test_one_vector_can_be_taken_and_given_back(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.MSIX)
    interrupts.enable(4)
    interrupts.disable_vector(1)
    assert interrupts.vectors == (0, 2, 3)
    with pytest.raises(InvalidArgument, match="it is not enabled"):
        interrupts.trigger(1)
    interrupts.trigger(2)
    assert interrupts.wait(5, 2) == 1
    interrupts.enable_vector(1)
    interrupts.trigger(1)
    assert interrupts.wait(5, 1) == 1
    for vector in interrupts.vectors:
        interrupts.disable_vector(vector)
    assert interrupts.enabled == 0
    with pytest.raises(InvalidArgument, match="enabled already"):
        interrupts.enable(4)
    interrupts.disable()
    interrupts.enable(4)


def test_vectors_are_added_where_the_kernel_can(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.MSIX)
    interrupts.enable(1)
    if InterruptFlags.NORESIZE in interrupts.info.flags:
        meaning = r"there is room for 1, .*this kernel adds none\. disable\(\), then enable\(7\)"
        with pytest.raises(VfioError, match=meaning) as caught:
            interrupts.enable_vector(6)
        assert caught.value.errno == errno.EINVAL
        assert interrupts.vectors == (0,)
    else:
        interrupts.enable_vector(6)
        interrupts.trigger(6)
        assert interrupts.wait(5, 6) == 1


@pytest.mark.parametrize("index", [InterruptIndex.ERR, InterruptIndex.REQ])
def test_errors_and_requests_of_the_host_arrive(device: Device, index: InterruptIndex) -> None:
    interrupts = device.interrupts(index)
    interrupts.enable()
    interrupts.trigger()
    assert interrupts.wait(5) == 1
    with pytest.raises(VfioError, match="cannot do that") as caught:
        interrupts.mask()
    assert caught.value.errno == errno.ENOTTY
    interrupts.disable()
    interrupts.enable()


def test_one_kind_of_interrupt_at_a_time(device: Device) -> None:
    device.interrupts(InterruptIndex.INTX).enable()
    with pytest.raises(VfioError, match=r"INTX is enabled: .*\. Disable INTX first") as caught:
        device.interrupts(InterruptIndex.MSIX).enable(2)
    assert caught.value.errno == errno.EINVAL
    device.interrupts(InterruptIndex.INTX).disable()
    device.interrupts(InterruptIndex.MSIX).enable(2)


def test_intx_is_held_back_while_masked(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.INTX)
    interrupts.enable()
    interrupts.mask()
    interrupts.unmask()
    event = interrupts.unmask_event()
    assert event is interrupts.unmask_event()
    event.signal()
    interrupts.trigger()
    assert interrupts.wait(5) == 1
    interrupts.disable()
    with pytest.raises(ClosedError):
        event.signal()


def test_a_vector_works_with_select(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.MSIX)
    interrupts.enable(2)
    fds = [interrupts.fileno(vector) for vector in interrupts.vectors]
    assert select.select(fds, [], [], 0)[0] == []
    interrupts.trigger(1)
    assert select.select(fds, [], [], 5)[0] == [fds[1]]
    assert interrupts.pending(1) == 1


def test_a_vector_works_with_asyncio(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.MSIX)
    interrupts.enable(2)

    async def both() -> tuple[int, int]:
        async with asyncio.timeout(5):
            waiting = asyncio.gather(interrupts.wait_async(0), interrupts.wait_async(1))
            await asyncio.sleep(0)
            interrupts.trigger(1)
            interrupts.trigger(0)
            return await waiting

    assert list(asyncio.run(both())) == [1, 1]

    async def timeout() -> None:
        async with asyncio.timeout(0.01):
            await interrupts.wait_async()

    with pytest.raises(TimeoutError):
        asyncio.run(timeout())
    assert interrupts.pending() == 0


def test_who_waits_is_woken_when_the_vector_goes(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.MSIX)
    interrupts.enable(2)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            interrupts.wait(vector=1)
        except ClosedError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    interrupts.disable()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 2


@pytest.mark.needs("express-dma", "type1")
@pytest.mark.parametrize("reset", [Device.reset, Device.hot_reset], ids=["function", "bus"])
def test_a_reset_stops_the_controller_and_keeps_its_interrupts(
    space: Container, device: Device, bar: Region, memory: Memory, reset: Callable[[Device], None]
) -> None:
    assert DeviceFlags.RESET in device.info.flags
    space.map_dma(nvme.IOVA, memory, 0, 2 << 20)
    nvme.Nvme(device, memory)
    assert (bar.read32(CONFIGURATION) & 1, bar.read32(STATUS)) == (1, 1)
    reset(device)
    assert (bar.read32(CONFIGURATION), bar.read32(STATUS)) == (0, 0)
    assert device.config.bus_master
    device.interrupts(InterruptIndex.MSIX).trigger(1)
    assert device.interrupts(InterruptIndex.MSIX).wait(5, 1) == 1


def test_a_hot_reset_tells_what_it_affects(device: Device) -> None:
    assert device.group is not None
    assert device.affected_by_hot_reset() == (AffectedDevice(device.address, device.group.number, held=True),)


@pytest.mark.needs("iommufd", "cdev")
def test_a_hot_reset_of_what_an_iommufd_holds(testbed: Testbed) -> None:
    with bound(testbed, NVME) as address, Ioas(kernel=testbed.kernel) as space:
        device = space.open_device(address)
        assert device.affected_by_hot_reset() == (AffectedDevice(address, None, held=True),)
        device.hot_reset()
        assert device.region(RegionIndex.BAR0).read32(VERSION) == 0x0001_0400


@pytest.mark.parametrize("how", ["decoding", "power"])
def test_a_bar_that_does_not_answer_is_an_error_and_no_signal(device: Device, bar: Region, how: str) -> None:
    power = device.config.find(PowerManagement)
    assert power is not None
    assert bar.read32(VERSION) == 0x0001_0400
    if how == "decoding":
        device.config.command &= ~PciCommand.MEMORY
    else:
        power.state = 3
    for access in (lambda: bar.read32(VERSION), lambda: bar.write32(ADMIN_SUBMISSIONS, 0), lambda: bar.read(0, 8)):
        with pytest.raises(VfioError, match="the device does not answer") as caught:
            access()
        assert caught.value.errno == errno.EIO
    device.config.command |= PciCommand.MEMORY
    power.state = 0
    assert bar.read32(VERSION) == 0x0001_0400


def test_features_are_probed(device: Device) -> None:
    low_power = (Feature.LOW_POWER_ENTRY, Feature.LOW_POWER_ENTRY_WITH_WAKEUP, Feature.LOW_POWER_EXIT)
    offered = device.features.all()
    assert {feature: offered[feature] for feature in low_power} == dict.fromkeys(low_power, FeatureAccess.SET)
    assert Feature.MIGRATION not in offered
    assert device.features.probe(0x7FFF) == FeatureAccess(0)
    with pytest.raises(FeatureUnsupported, match="feature MIGRATION") as caught:
        device.migration()
    assert caught.value.errno == errno.ENOTTY


def test_a_sleeping_device_wakes_for_its_registers(device: Device, bar: Region) -> None:
    assert bar.read32(VERSION) == 0x0001_0400
    device.features.enter_low_power()
    answers = [device.answers_memory]
    with pytest.raises(VfioError) as caught:
        device.features.enter_low_power()
    assert caught.value.errno == errno.EINVAL
    answers.append(device.answers_memory)
    assert bar.read32(VERSION) == 0x0001_0400
    device.features.exit_low_power()
    assert [*answers, device.answers_memory] == [False, False, True]
    assert bar.read32(VERSION) == 0x0001_0400


def test_low_power_with_a_wakeup_event(device: Device) -> None:
    event = device.features.enter_low_power_with_wakeup()
    assert event.pending() == 0
    device.features.exit_low_power()
    device.features.exit_low_power()
    with pytest.raises(ClosedError):
        event.pending()


def test_a_bar_as_a_dma_buf(device: Device) -> None:
    """Where the kernel can (Linux 6.19, built with peer-to-peer DMA)."""
    page = MmapArea(0, 4096)
    if FeatureAccess.GET in device.features.probe(Feature.DMA_BUF):
        fd = device.features.dma_buf(RegionIndex.BAR0, page)
        device.kernel.close(fd)
    else:
        with pytest.raises(FeatureUnsupported):
            device.features.dma_buf(RegionIndex.BAR0, page)


def test_an_ioeventfd_writes_a_register(device: Device, bar: Region) -> None:
    bar.write32(ADMIN_SUBMISSIONS, 0)
    doorbell = bar.ioeventfd(ADMIN_SUBMISSIONS, 4, 0x5000)
    with pytest.raises(VfioError, match="has an ioeventfd already") as caught:
        bar.ioeventfd(ADMIN_SUBMISSIONS, 4, 0x5000)
    assert caught.value.errno == errno.EEXIST
    doorbell.signal()
    # The kernel writes at once, or from a worker a moment later.
    waiter = EventFd(device.kernel)
    for _ in range(500):
        if bar.read32(ADMIN_SUBMISSIONS) == 0x5000:
            break
        waiter.wait(0.01)
    waiter.close()
    assert bar.read32(ADMIN_SUBMISSIONS) == 0x5000
    doorbell.close()
    bar.ioeventfd(ADMIN_SUBMISSIONS, 4, 0x5000).close()


def test_where_no_ioeventfd_can_be(device: Device, bar: Region) -> None:
    msix = device.config.find(Msix)
    assert msix is not None
    with pytest.raises(VfioError, match="the device takes none there") as caught:
        bar.ioeventfd(msix.table_offset, 4, 0)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(InvalidArgument):
        bar.ioeventfd(ADMIN_SUBMISSIONS, 4, 1 << 32)


def test_virtual_functions_need_the_token(testbed: Testbed, space: Container, device: Device, other: Container) -> None:
    assert device.features.probe(Feature.PCI_VF_TOKEN) == FeatureAccess.SET
    device.features.set_vf_token(TOKEN)
    with virtual_function(testbed, device.address) as address:
        with pytest.raises(VfTokenRefused, match="it needs a VF token"):
            other.open_device(address)
        with pytest.raises(VfTokenRefused, match="wrong VF token"):
            other.open_device(address, vf_token=uuid.uuid4())
        virtual = other.open_device(address, vf_token=TOKEN)
        (group,) = space.groups
        with pytest.raises(VfTokenRefused):
            group.open_device(device.address)
        group.open_device(device.address, vf_token=TOKEN).close()
        with pytest.raises(VfioError, match=r"it would also reset .*which is not open here") as caught:
            device.hot_reset()
        assert caught.value.errno == errno.EPERM
        assert virtual.address in str(caught.value)
        virtual.close()


@pytest.mark.needs("iommufd", "cdev")
def test_a_node_needs_the_token_too(testbed: Testbed) -> None:
    if isinstance(testbed.kernel, SimKernel):
        testbed.kernel.machine.version = (7, 3)
    with bound(testbed, NVME) as address, Ioas(kernel=testbed.kernel) as space:
        device = space.open_device(address)
        device.features.set_vf_token(TOKEN)
        with virtual_function(testbed, address) as virtual:
            with pytest.raises(VfTokenRefused, match="it needs a VF token"):
                space.open_device(virtual)
            with pytest.raises(VfTokenRefused, match="wrong VF token"):
                space.open_device(virtual, vf_token=uuid.uuid4())
            space.open_device(virtual, vf_token=TOKEN).close()
        with pytest.raises(VfioError, match="it takes no VF token") as caught:
            space.open_device(testbed.devices[0], vf_token=TOKEN)
        assert caught.value.errno == errno.EINVAL


def test_what_has_no_token_refuses_one(testbed: Testbed) -> None:
    with Container(kernel=testbed.kernel) as container:
        with pytest.raises(VfioError, match="it takes no VF token") as caught:
            container.open_device(testbed.devices[0], vf_token=uuid.uuid4())
        assert caught.value.errno == errno.EINVAL
