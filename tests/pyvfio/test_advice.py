"""What a message advises fits what the library knows: no cause is named that the numbers beside it rule out."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import pytest

from pyvfio import (
    BarMemory,
    Container,
    Device,
    Group,
    InterruptIndex,
    InvalidArgument,
    Ioas,
    Iommufd,
    Memory,
    MemoryKind,
    MemoryUnavailable,
    PciCommand,
    PowerManagement,
    VfioError,
)
from pyvfio.abi import vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices.e1000e import E1000e
from pyvfio.sim.devices.plain import IDS, PlainDevice
from tests.support.overlay import OverlayKernel

EDU = "0000:00:03.0"
FIRST, SECOND = "0000:05:00.0", "0000:05:00.1"


def plain(version: tuple[int, int] = (7, 3)) -> SimKernel:
    kernel = SimKernel(version=version)
    kernel.add(PciFunction(FIRST, 7, *IDS, driver="vfio-pci", model=PlainDevice))
    return kernel


@pytest.mark.parametrize(("version", "grows"), [((6, 1), False), ((6, 12), True)])
def test_vectors_beyond_those_that_there_is_room_for(version: tuple[int, int], grows: bool) -> None:
    kernel = SimKernel(version=version)
    kernel.add(PciFunction(FIRST, 7, driver="vfio-pci", model=E1000e))
    with Container(kernel=kernel) as container:
        interrupts = container.open_device(FIRST).interrupts(InterruptIndex.MSIX)
        interrupts.enable(3)
        if grows:
            interrupts.enable_vector(4)
            return
        meaning = r"there is room for 3, .*this kernel adds none\. disable\(\), then enable\(5\)"
        with pytest.raises(VfioError, match=meaning):
            interrupts.enable_vector(4)
        interrupts.disable_vector(2)
        interrupts.enable_vector(2)


@pytest.mark.parametrize("first", [InterruptIndex.INTX, InterruptIndex.MSI])
def test_another_kind_of_interrupt_is_named(first: InterruptIndex) -> None:
    second = InterruptIndex.INTX if first is InterruptIndex.MSI else InterruptIndex.MSI
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as container:
        device = container.open_device(EDU)
        device.interrupts(InterruptIndex.REQ).enable()
        device.interrupts(first).enable()
        with pytest.raises(VfioError, match=rf"{first.name} is enabled.*\. Disable {first.name} first"):
            device.interrupts(second).enable()


def silent(device: Device) -> str:
    """What an access to a BAR of the device says."""
    with pytest.raises(VfioError) as caught:
        device.region(0).read32(0)
    assert caught.value.errno == errno.EIO
    return str(caught.value)


def test_why_a_bar_does_not_answer() -> None:
    with Container(kernel=plain()) as container:
        device = container.open_device(FIRST)
        power = device.config.find(PowerManagement)
        assert power is not None
        power.state = 3
        assert "it is not in D0. config.find(PowerManagement).state = 0" in silent(device)
        power.state = 0
        device.config.command &= ~PciCommand.MEMORY
        assert "memory decoding is off. config.command |= PciCommand.MEMORY" in silent(device)


@pytest.mark.parametrize("driver", ["snd_hda_intel", None])
def test_who_is_in_the_way_of_a_hot_reset_and_is_not_bound(driver: str | None) -> None:
    kernel = plain()
    kernel.add(PciFunction(SECOND, 8, driver=driver, model=PlainDevice))
    with Container(kernel=kernel) as container:
        device = container.open_device(FIRST)
        has = driver or "no driver"
        with pytest.raises(
            VfioError, match=rf"{SECOND} has {has}: pyvfio bind {SECOND}; then container\.open_group\(8\)"
        ):
            device.hot_reset()


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (Container, r"container\.open_group\(8\), of the same container"),
        (Ioas, rf"ioas\.open_device\('{SECOND}'\), with the same iommufd"),
    ],
)
def test_who_is_in_the_way_of_a_hot_reset(kind: type[Container | Ioas], advice: str) -> None:
    kernel = plain()
    kernel.add(PciFunction(SECOND, 8, driver="vfio-pci", model=PlainDevice))
    with kind(kernel=kernel) as space:
        device = space.open_device(FIRST)
        with pytest.raises(VfioError, match=rf"which is not open here\. {advice}"):
            device.hot_reset()


@pytest.mark.parametrize("driver", ["pcieport", None])
def test_who_is_in_the_way_of_a_hot_reset_in_a_group_that_is_open(driver: str | None) -> None:
    kernel = plain()
    kernel.add(PciFunction(SECOND, 7, driver=driver, model=PlainDevice))
    with Container(kernel=kernel) as container:
        device = container.open_device(FIRST)
        has = driver or "no driver"
        with pytest.raises(VfioError, match=rf"hands: {SECOND} has {has}\. pyvfio bind {SECOND} \[EINVAL\]"):
            device.hot_reset()


@pytest.mark.parametrize(
    ("silence", "meaning"),
    [
        (lambda device: device.features.enter_low_power(), "it may sleep. features.exit_low_power()"),
        (lambda device: setattr(device.config.find(PowerManagement), "state", 3), "it is not in D0. config.find"),
        (lambda device: setattr(device.config, "command", 0), "memory decoding is off. config.command |="),
    ],
    ids=["asleep", "D3hot", "no decoding"],
)
def test_why_registers_cannot_be_mapped_for_another_device(silence: Callable[[Device], object], meaning: str) -> None:
    simulated = plain()
    simulated.add(PciFunction(SECOND, 8, driver="vfio-pci", model=PlainDevice))
    kernel = FaultyKernel(simulated)
    with Container(kernel=kernel) as container:
        container.open_device(SECOND)
        device = container.open_device(FIRST)
        bar = BarMemory(device.region(0), 0, 4096)
        silence(device)
        kernel.arm(Fault(None, "ioctl", vfio.VFIO_IOMMU_MAP_DMA, errno=errno.EFAULT))
        with pytest.raises(VfioError, match=re.escape(meaning)):
            container.map_dma(0x1000_0000, bar, 0, 4096)
        kernel.arm(Fault(None, "ioctl", vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOMEM))
        with pytest.raises(VfioError) as caught:
            container.map_dma(0x1000_0000, bar, 0, 4096)
        assert "does not answer" not in str(caught.value)


def test_a_range_of_nothing_is_said_to_be_empty() -> None:
    with Container(kernel=plain()) as container:
        region = container.open_device(FIRST).region(0)
        with Memory.allocate(MemoryKind.ANONYMOUS, 4096, kernel=container.kernel) as memory:
            for act in (
                lambda: region.read(0, 0),
                lambda: region.write(0, b""),
                lambda: memory.read(0, 0),
                lambda: memory.write(0, b""),
                lambda: memory.discard(0, 0),
            ):
                with pytest.raises(InvalidArgument, match="the range is empty"):
                    act()


def test_a_device_that_is_gone_is_not_said_to_lack_a_reset() -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1))
    with Container(kernel=kernel) as container:
        device = container.open_device(EDU)
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_DEVICE_RESET, errno=errno.ENODEV))
        with pytest.raises(VfioError, match="the device is gone") as caught:
            device.reset()
        assert "hot_reset" not in str(caught.value)


POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"


@pytest.mark.parametrize(
    ("free", "meaning"),
    [
        (500, r"4 huge pages of 2048 KiB needed, and 500 of 512 are free: not to this process\. .*cgroup.*NUMA"),
        (1, r"4 huge pages of 2048 KiB needed, 1 of 512 free\. As root: echo 515 > "),
    ],
)
def test_huge_pages_that_are_there_and_cannot_be_had(free: int, meaning: str) -> None:
    counts = {"nr": 512, "free": free, "resv": 0, "surplus": 0}
    files = {f"{POOL}/{name}_hugepages": f"{count}\n" for name, count in counts.items()}
    files |= {f"{POOL}/nr_overcommit_hugepages": "0\n"}
    kernel = OverlayKernel(SimKernel(host_huge_pages=False), files)
    with Memory.allocate(MemoryKind.HUGETLB, 8 << 20, kernel=kernel) as memory:
        kernel.arm(Fault(0, "madvise", errno=errno.EFAULT))
        with pytest.raises(MemoryUnavailable, match=meaning):
            memory.populate(0, memory.size)


def test_a_container_whose_type_nobody_has_told() -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as owner:
        owner.open_device(edu_addresses(kernel)[0])
        with (
            Container.from_fd(kernel.dup(owner.fd), kernel=kernel) as received,
            pytest.raises(VfioError, match=r"another process has chosen.*from_fd\(fd, iommu_type="),
        ):
            _ = received.iova_ranges


@pytest.mark.parametrize("path", ["/dev/vfio/vfio", "/dev/iommu"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_node_that_was_not_passed_in(path: str, is_there: bool) -> None:
    name = path.rpartition("/")[2]
    files = {f"/sys/class/misc/{name}/dev": "10:196\n"} if is_there else {}
    kernel = OverlayKernel(SimKernel(), files, hidden=("/sys/class/misc",))
    kernel.arm(Fault(0, "open", errno=errno.ENOENT))
    with pytest.raises(VfioError) as caught:
        Iommufd(kernel=kernel) if path == "/dev/iommu" else Container(kernel=kernel)
    assert (f"docker run --device {path}" in str(caught.value)) is is_there
    assert ("modprobe" in str(caught.value)) is not is_there


def test_a_group_whose_node_was_not_passed_in() -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1))
    kernel.arm(*(Fault(nth, "open", errno=errno.ENOENT) for nth in range(2)))
    with pytest.raises(VfioError, match=rf"/dev/vfio/3 is not here, though {EDU} is bound to a VFIO driver"):
        Group(3, kernel=kernel)
