"""A register access is one access of its width, and what happens to a device under it: it goes silent, or is taken."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyvfio import (
    Container,
    Device,
    InterruptIndex,
    InvalidArgument,
    PciCommand,
    PowerManagement,
    Region,
    RegionIndex,
    VfioError,
)
from pyvfio.kernel import write_text
from pyvfio.sysfs import pci_device
from tests.support.kernels.hardware import E1000E, NVME, Kind, bound
from tests.support.kernels.testbed import Testbed

# Of the e1000e: causes of interrupts, which reading clears; set some; let none interrupt.
CAUSES, SET_CAUSES, MASK_CLEAR = 0x00C0, 0x00C8, 0x00D8
RECEIVED = 1 << 20
VERSION = 0x08


def opened(testbed: Testbed, kind: Kind) -> Iterator[Device]:
    with bound(testbed, kind) as address, Container(kernel=testbed.kernel) as container:
        device = container.open_device(address)
        device.config.enable_bus_master()
        yield device


@pytest.fixture
def network(testbed: Testbed) -> Iterator[Device]:
    yield from opened(testbed, E1000E)


@pytest.fixture
def disk(testbed: Testbed) -> Iterator[Device]:
    yield from opened(testbed, NVME)


@pytest.fixture
def fast_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_write_does_not_read_first(network: Device) -> None:
    """A register that reading clears: a write of zeros leaves it as it is, if it is nothing but a write."""
    registers = network.region(RegionIndex.BAR0)

    def raise_cause() -> None:
        registers.write32(MASK_CLEAR, 0xFFFF_FFFF)
        registers.read32(CAUSES)
        registers.write32(SET_CAUSES, RECEIVED)

    raise_cause()
    assert registers.read32(CAUSES) & RECEIVED
    assert not registers.read32(CAUSES) & RECEIVED
    raise_cause()
    registers.write32(CAUSES, 0)
    assert registers.read32(CAUSES) & RECEIVED


@pytest.mark.parametrize("silence", ["decoding", "power"])
@pytest.mark.usefixtures("fast_switches")
def test_a_bar_that_goes_silent_under_a_thread_is_an_error_and_no_signal(disk: Device, silence: str) -> None:
    """A thread reads while another one switches decoding, or the power, off and on: it never touches the mapping then,
    which would end the process."""
    registers = disk.region(RegionIndex.BAR0)
    power = disk.config.find(PowerManagement)
    assert power is not None
    stop, wrong = threading.Event(), list[object]()
    answers = [0]

    def read() -> None:
        while not stop.is_set():
            try:
                value = registers.read32(VERSION)
            except VfioError as error:
                if error.errno != errno.EIO:
                    wrong.append(error)
            except BaseException as error:
                wrong.append(error)
                raise
            else:
                answers[0] += 1
                if value != 0x0001_0400:
                    wrong.append(value)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(40):
            seen = answers[0]
            while answers[0] == seen and not wrong:
                time.sleep(0)
            if silence == "decoding":
                disk.config.command &= ~PciCommand.MEMORY
                disk.config.command |= PciCommand.MEMORY
            else:
                power.state = 3
                power.state = 0
    finally:
        stop.set()
        reader.join()
    assert not wrong
    assert registers.read32(VERSION) == 0x0001_0400


@pytest.mark.parametrize("reset", [Device.reset, Device.hot_reset], ids=["function", "bus"])
def test_a_reset_brings_a_device_to_d0(disk: Device, reset: Callable[[Device], None]) -> None:
    power = disk.config.find(PowerManagement)
    assert power is not None
    power.state = 3
    assert not disk.answers_memory
    reset(disk)
    assert power.state == 0
    assert disk.region(RegionIndex.BAR0).read32(VERSION) == 0x0001_0400


def test_eight_bytes_by_the_kernel_are_one_access_where_it_can(container: Container, testbed: Testbed) -> None:
    """The upper half of an edu's register of 64 bits reads as ones by itself."""
    bar = container.open_device(testbed.devices[0]).region(RegionIndex.BAR0)
    bar.write64(0x80, 0x1122_3344_5566_7788)
    is_split = testbed.version < (6, 12)
    expected = 0xFFFF_FFFF_5566_7788 if is_split else 0x1122_3344_5566_7788
    assert int.from_bytes(bar.read(0x80, 8), "little") == expected
    assert bar.read64(0x80) == 0x1122_3344_5566_7788


@pytest.mark.parametrize("width", [0, 3, 5, 16, -4])
def test_there_are_no_registers_of_other_widths(container: Container, testbed: Testbed, width: int) -> None:
    device = container.open_device(testbed.devices[0])
    for region in (device.region(RegionIndex.BAR0), device.config.region):
        with pytest.raises(InvalidArgument, match="it is 1, 2, 4 or 8 bytes"):
            region.read_register(0, width)
        with pytest.raises(InvalidArgument, match="it is 1, 2, 4 or 8 bytes"):
            region.write_register(0, width, 0)


def test_a_value_that_is_no_number_is_refused(container: Container, testbed: Testbed) -> None:
    bar = container.open_device(testbed.devices[0]).region(RegionIndex.BAR0)
    bar.write32(4, 0)
    for write in (bar.write32, bar.write64):
        with pytest.raises(TypeError):
            write(0x80, 1.5)  # type: ignore[arg-type]


def test_a_bar_that_the_device_lacks_has_no_bytes(container: Container, testbed: Testbed) -> None:
    device = container.open_device(testbed.devices[0])
    absent: Region = device.region(RegionIndex.BAR3)
    assert (absent.size, absent.info.mmap_areas) == (0, ())
    with pytest.raises(InvalidArgument, match="outside the region"):
        absent.read32(0)
    with pytest.raises(VfioError, match="the device has none"):
        device.region(99)


def test_unbinding_an_open_device_asks_for_it_and_waits(container: Container, testbed: Testbed) -> None:
    address = testbed.devices[0]
    device = container.open_device(address)
    request = device.interrupts(InterruptIndex.REQ)
    request.enable()
    unbind = "/sys/bus/pci/drivers/vfio-pci/unbind"
    root = threading.Thread(target=write_text, args=(testbed.kernel, unbind, address))
    root.start()
    assert request.wait(timeout=30)
    root.join(0.3)
    assert root.is_alive()
    assert device.region(RegionIndex.BAR0).read32(0) == 0x0100_00ED
    container.close()
    root.join(30)
    assert not root.is_alive()
    assert pci_device(testbed.kernel, address).driver is None
