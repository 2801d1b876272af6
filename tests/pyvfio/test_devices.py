"""What emulated hardware has not: devices whose regions, vectors and buses are as a test wants them. Simulated."""

from __future__ import annotations

import errno
import os
import struct
import threading
from array import array
from collections.abc import Iterator

import pytest

from pyvfio import (
    AffectedDevice,
    ClosedError,
    Container,
    Device,
    FeatureUnsupported,
    InterruptIndex,
    InvalidArgument,
    Ioas,
    IovaRange,
    Memory,
    MemoryKind,
    MigrationState,
    MmapArea,
    PciAtomics,
    PowerManagement,
    RegionFlags,
    RegionIndex,
    RegionType,
    VfioError,
)
from pyvfio.abi import vfio
from pyvfio.device.open_device import device_info
from pyvfio.drivers.edu import Edu
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.kernel import chain, write_text
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices import PlainDevice
from pyvfio.sim.devices.plain import IDS, ROM

ADDRESSES = ("0000:05:00.0", "0000:05:00.1", "0000:05:01.0")


@pytest.fixture
def kernel() -> SimKernel:
    """Three devices on one bus; the first two share a group."""
    kernel = SimKernel()
    for address, group in zip(ADDRESSES, (7, 7, 8), strict=True):
        kernel.add(PciFunction(address, group, *IDS, driver="vfio-pci", model=PlainDevice, host_vectors=3))
    return kernel


@pytest.fixture
def container(kernel: SimKernel) -> Iterator[Container]:
    with Container(kernel=kernel) as container:
        yield container


@pytest.fixture
def device(container: Container) -> Device:
    return container.open_device(ADDRESSES[0])


def test_a_region_mapped_in_parts_is_whole_all_the_same(device: Device) -> None:
    bar = device.region(2)
    assert bar.info.mmap_areas == (MmapArea(0x1000, 0x1000), MmapArea(0x4000, 0x2000))
    for offset in (0, 0xFFC, 0x1000, 0x1FFC, 0x2000, 0x5FFC, 0x7FFC):
        bar.write32(offset, offset | 1 << 31)
        assert bar.read32(offset) == offset | 1 << 31
        assert bar.read(offset, 4) == struct.pack("<I", offset | 1 << 31)


def test_a_region_of_the_device_s_own_type(device: Device) -> None:
    region = device.region(RegionIndex.VGA + 1)
    assert device.info.num_regions == 10
    assert region.info.type == RegionType(vfio.VFIO_REGION_TYPE_PCI_VENDOR_TYPE | IDS[0], 7)
    assert region.info.type.vendor == IDS[0]
    assert RegionType(vfio.VFIO_REGION_TYPE_GFX, 1).vendor is None
    assert not region.info.mmap_areas
    region.write(0x10, b"own")
    assert region.read(0x10, 3) == b"own"


def test_a_rom_is_read_and_not_written(device: Device) -> None:
    rom = device.region(RegionIndex.ROM)
    assert rom.info.flags == RegionFlags.READ
    assert rom.read(0, rom.size) == ROM
    with pytest.raises(VfioError, match="does not allow it"):
        rom.write(0, b"\0")


def test_vga_is_a_region_of_its_own(device: Device) -> None:
    vga = device.region(RegionIndex.VGA)
    vga.write(0xB8000, b"A\x07")
    assert vga.read16(0xB8000) == 0x0741
    assert vga.read8(0x3C0) == 0


def test_the_host_has_fewer_vectors_than_the_device(device: Device) -> None:
    interrupts = device.interrupts(InterruptIndex.MSIX)
    assert interrupts.info.count == 16
    with pytest.raises(VfioError, match="the host can provide only 3") as caught:
        interrupts.enable(16)
    assert caught.value.errno == errno.ENOSPC
    assert interrupts.enabled == 0
    interrupts.enable(3)
    interrupts.disable()
    msi = device.interrupts(InterruptIndex.MSI)
    assert msi.info.count == 4
    msi.enable(2)
    with pytest.raises(VfioError) as caught:
        msi.enable_vector(3)
    assert caught.value.errno == errno.EINVAL


def test_a_hot_reset_names_what_it_would_reset_without_asking(container: Container, device: Device) -> None:
    assert device.affected_by_hot_reset() == (
        AffectedDevice(ADDRESSES[0], 7, held=True),
        AffectedDevice(ADDRESSES[1], 7, held=True),
        AffectedDevice(ADDRESSES[2], 8, held=False),
    )
    device.region(0).write32(0, 0x1234)
    with pytest.raises(VfioError, match=r"0000:05:01.0 \(group 8\), which is not open here") as caught:
        device.hot_reset()
    assert caught.value.errno == errno.EPERM
    assert device.region(0).read32(0) == 0x1234
    neighbour = container.open_device(ADDRESSES[2])
    neighbour.region(0).write32(0, 0x5678)
    power = neighbour.config.find(PowerManagement)
    assert power is not None
    power.state = 3
    assert not neighbour.answers_memory
    device.hot_reset()
    assert (device.answers_memory, neighbour.answers_memory) == (True, True)
    assert (device.region(0).read32(0), neighbour.region(0).read32(0)) == (0, 0)


def test_an_iommufd_knows_what_it_holds_of_a_bus(kernel: SimKernel) -> None:
    with Ioas(kernel=kernel) as space:
        device = space.open_device(ADDRESSES[0])
        held = [(found.address, found.group, found.held) for found in device.affected_by_hot_reset()]
        assert held == [(ADDRESSES[0], None, True), (ADDRESSES[1], None, True), (ADDRESSES[2], None, False)]
        with pytest.raises(VfioError, match=r"0000:05:01\.0, which is not open here"):
            device.hot_reset()
        neighbour = space.open_device(ADDRESSES[2])
        neighbour.region(0).write32(0, 0x5678)
        device.hot_reset()
        assert neighbour.region(0).read32(0) == 0


@pytest.mark.parametrize("driver", [None, "pcieport"])
def test_a_bus_is_not_reset_under_another_driver_or_none(driver: str | None) -> None:
    """Even where its group is held: only VFIO's driver says that a function is out of use."""
    kernel = SimKernel()
    kernel.add(PciFunction(ADDRESSES[0], 7, *IDS, driver="vfio-pci", model=PlainDevice))
    # A bridge is no hindrance to its group; a function without a driver is none either.
    class_code = 0x060400 if driver else 0x040300
    kernel.add(PciFunction(ADDRESSES[1], 7, class_code=class_code, driver=driver, model=PlainDevice))
    with Container(kernel=kernel) as container:
        device = container.open_device(ADDRESSES[0])
        device.region(0).write32(0, 0x1234)
        with pytest.raises(VfioError, match="not every function it would reset") as caught:
            device.hot_reset()
        assert caught.value.errno == errno.EINVAL
        assert device.region(0).read32(0) == 0x1234


def test_a_failed_config_write_says_so_and_not_what_came_after(kernel: SimKernel) -> None:
    faulty = FaultyKernel(kernel)
    with Container(kernel=faulty) as container:
        device = container.open_device(ADDRESSES[0])
        config = device.config
        assert device.region(0).read32(0) == 0
        faulty.arm(Fault(name="pwrite", errno=errno.EACCES), Fault(name="pread", errno=errno.EIO))
        with pytest.raises(VfioError, match=r"^write region 7") as caught:
            config.region.write_register(4, 2, 0)
        assert caught.value.errno == errno.EACCES
        # What it is now is not known: the kernel makes the accesses, until the device is known to answer.
        assert not device.answers_memory
        faulty.arm()
        assert device.region(0).read32(0) == 0
        config.enable_bus_master()
        assert device.answers_memory


def test_what_takes_bytes_takes_those_of_any_buffer(device: Device) -> None:
    numbers = array("I", [*b"abcdefgh"])
    region = device.region(RegionIndex.VGA + 1)
    region.write(0x10, numbers)
    assert region.read(0x10, 32) == numbers.tobytes()
    with pytest.raises(InvalidArgument, match="outside the region"):
        region.write(region.size - 8, numbers)
    migration = device.migration()
    stream = migration.enter(MigrationState.STOP_COPY)
    assert stream is not None
    state = array("I", stream.read_all())
    migration.enter(MigrationState.STOP)
    stream = migration.enter(MigrationState.RESUMING)
    assert stream is not None
    stream.write(state)
    migration.enter(MigrationState.STOP)
    assert migration.state == MigrationState.STOP


def test_a_removed_device_is_waited_for_and_gone(kernel: SimKernel, container: Container, device: Device) -> None:
    request = device.interrupts(InterruptIndex.REQ)
    request.enable()
    remove = f"/sys/bus/pci/devices/{ADDRESSES[0]}/remove"
    root = threading.Thread(target=write_text, args=(kernel, remove, "1"))
    root.start()
    assert request.wait(timeout=10)
    with pytest.raises(VfioError, match="no such device of group 7"):
        container.groups[0].open_device(ADDRESSES[0])
    assert ADDRESSES[0] in kernel.functions
    container.close()
    root.join(10)
    assert not root.is_alive()
    assert ADDRESSES[0] not in kernel.functions


def test_a_state_that_is_none_stops_the_device_for_good(device: Device) -> None:
    migration = device.migration()
    stream = migration.enter(MigrationState.RESUMING)
    assert stream is not None
    stream.write(b"not a state")
    with pytest.raises(VfioError, match=r"in ERROR. Only a reset leads out"):
        migration.enter(MigrationState.RUNNING)
    with pytest.raises(VfioError, match="Only a reset leads out"):
        migration.enter(MigrationState.STOP)
    device.reset()
    assert migration.state is MigrationState.RUNNING


@pytest.mark.parametrize(("version", "is_told"), [((6, 12), False), ((7, 0), True)])
def test_a_first_pass_that_begins_anew(version: tuple[int, int], is_told: bool) -> None:
    kernel = SimKernel(version=version)
    kernel.add(PciFunction(ADDRESSES[0], 7, *IDS, driver="vfio-pci", model=PlainDevice))
    with Container(kernel=kernel) as container:
        device = container.open_device(ADDRESSES[0])
        opened = kernel.vfio.ownership.opened_device(ADDRESSES[0])
        assert opened is not None
        assert opened.model.migration is not None
        opened.model.migration.precopy_flags = vfio.VFIO_PRECOPY_INFO_REINIT
        stream = device.migration().enter(MigrationState.PRE_COPY)
        assert stream is not None
        assert stream.precopy_info().begins_anew is is_told


def test_closing_a_sleeping_device_closes_its_wakeup(device: Device) -> None:
    event = device.features.enter_low_power_with_wakeup()
    device.close()
    with pytest.raises(ClosedError):
        event.pending()


def test_a_descriptor_that_is_no_device(kernel: SimKernel) -> None:
    fd = os.open(os.devnull, os.O_RDWR)
    with pytest.raises(VfioError, match="open device mine: it is no VFIO device") as caught:
        Device(fd, "mine", kernel=kernel)
    assert caught.value.errno == errno.ENOTTY
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_device_notes_what_it_writes(kernel: SimKernel) -> None:
    kernel.add(PciFunction("0000:06:00.0", 9, driver="vfio-pci", logs_dma=True))
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, 2 << 20, kernel=kernel) as memory,
        Edu(container.open_device("0000:06:00.0")) as edu,
    ):
        memory.populate(0, memory.size)
        container.map_dma(0, memory, 0, memory.size)
        with edu.device.log_dma(IovaRange(0x4000, 0xFFFF), IovaRange(0x10000, 0x1FFFF)) as log:
            edu.store(0x5FF0, 32)
            edu.store(0x1000, 32)
            edu.fetch(0x8000, 32)
            assert log.read(0, 0x20000).runs() == (IovaRange(0x5000, 0x6FFF),)
            assert log.read(0, 0x20000).bits == 0
            with pytest.raises(VfioError) as caught:
                edu.device.log_dma(IovaRange(0, 0xFFF))
            assert caught.value.errno == errno.EINVAL
        edu.device.log_dma(IovaRange(0, 0xFFFF), page_size=0x8000).close()


@pytest.mark.parametrize(
    ("ranges", "page_size", "meaning"),
    [
        ([], 4096, "there must be a range"),
        ([IovaRange(0, 0x1FFF), IovaRange(0x1000, 0x1FFF)], 4096, "none may overlap"),
        ([IovaRange(0, 0x17FF)], 4096, "not a range in units of 0x1000"),
        ([IovaRange(0, 0x1FFF)], 2048, "a power of two from 4096 on"),
        ([IovaRange(0, 0x1FFF)], 12288, "a power of two from 4096 on"),
    ],
)
def test_ranges_that_cannot_be_logged(device: Device, ranges: list[IovaRange], page_size: int, meaning: str) -> None:
    with pytest.raises(InvalidArgument, match=meaning):
        device.log_dma(*ranges, page_size=page_size)


def test_a_device_without_a_log_says_so(device: Device) -> None:
    with pytest.raises(FeatureUnsupported, match="feature DMA_LOGGING_START"):
        device.log_dma(IovaRange(0, 0xFFF))


def test_atomic_operations_that_the_platform_completes() -> None:
    body = struct.pack("<HHIII", vfio.VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP, 1, 0, 0b011, 0)
    data = struct.pack("<6I", 40, vfio.VFIO_DEVICE_FLAGS_PCI | vfio.VFIO_DEVICE_FLAGS_CAPS, 9, 5, 24, 0) + body
    info = device_info(vfio.vfio_device_info.from_buffer_copy(data), data)
    assert info.atomics == PciAtomics.COMP32 | PciAtomics.COMP64
    assert info.capabilities == tuple(chain(data, 24))


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOTTY, FeatureUnsupported), (errno.EINVAL, VfioError), (errno.EIO, VfioError)]
)
def test_a_dma_buf_where_there_is_none(kernel: SimKernel, code: int, kind: type[VfioError]) -> None:
    faulty = FaultyKernel(kernel)
    with Container(kernel=faulty) as container:
        device = container.open_device(ADDRESSES[0])
        faulty.arm(Fault(errno=code, name="ioctl", request=vfio.VFIO_DEVICE_FEATURE))
        with pytest.raises(kind, match="feature DMA_BUF"):
            device.features.dma_buf(0, MmapArea(0, 4096))


def test_arguments_are_looked_at_first(device: Device) -> None:
    with pytest.raises(InvalidArgument, match="a number of 16 bits"):
        device.features.probe(1 << 16)
    with pytest.raises(InvalidArgument, match="it is not enabled"):
        device.interrupts(InterruptIndex.MSIX).wait_any(0)
    with pytest.raises(InvalidArgument, match="the device has 16 of them"):
        device.interrupts(InterruptIndex.MSIX).enable_vector(16)


def test_an_access_that_is_cut_short_says_how_far_it_came(
    kernel: SimKernel, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = device.region(2)
    monkeypatch.setattr(kernel, "pread", lambda *_: b"")
    monkeypatch.setattr(kernel, "pwrite", lambda *_: 0)
    with pytest.raises(VfioError, match="only 0 bytes came") as caught:
        bar.read32(0)
    assert caught.value.advice == ""
    with pytest.raises(VfioError, match="only 0 bytes went"):
        bar.write32(0, 1)
