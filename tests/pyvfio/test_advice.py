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
    DeviceBusy,
    DeviceNotBound,
    Group,
    InterruptIndex,
    InvalidArgument,
    Ioas,
    Iommufd,
    IommuType,
    IovaAllocator,
    IovaRange,
    Memory,
    MemoryKind,
    MemoryUnavailable,
    PciCommand,
    PowerManagement,
    SharedMemory,
    VfioError,
)
from pyvfio.abi import vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices.e1000e import E1000e
from pyvfio.sim.devices.plain import IDS, PlainDevice
from tests.support.interpreter import output
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


# Address spaces, containers, groups and memory.

IOVA, SIZE = 0x1_0000_0000, 0x1_0000


def said(act: Callable[[], object]) -> str:
    """What the error of act says."""
    with pytest.raises(VfioError) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize(
    ("spans", "size", "alignment", "says", "says_not"),
    [
        ([(0, 1)], 1, 1, "kept back.*allow_zero=True", "alignment"),
        ([(1, 2), (4, 5)], 2, 1, "no hole has room: .*Free some", "alignment"),
        ([(1, 3)], 1, 4, "at such an address.*less alignment", "zero"),
    ],
)
def test_addresses_that_are_not_to_be_had(
    spans: list[tuple[int, int]], size: int, alignment: int, says: str, says_not: str
) -> None:
    allocator = IovaAllocator([IovaRange(start * 4096, end * 4096 - 1) for start, end in spans])
    text = said(lambda: allocator.allocate(size * 4096, alignment=alignment * 4096)).partition("]")[0]
    assert re.search(says, text)
    assert says_not not in text.partition(": ")[2]


@pytest.mark.parametrize("space", [Container, Ioas])
def test_memory_without_a_file_is_not_said_to_be_unpopulated(space: type[Container | Ioas]) -> None:
    kernel = SimKernel(edu_devices=1)
    with SharedMemory(SIZE, kernel=kernel) as memory, space(kernel=kernel) as opened:
        opened.open_device(EDU)
        text = said(lambda: opened.map_dma(IOVA, memory, 0, SIZE))
        assert re.search(r"no file is attached.*attach\(\) one first", text)
        assert "opulate" not in text


@pytest.mark.parametrize("code", [errno.EFAULT, errno.ENOMEM])
@pytest.mark.parametrize("is_populated", [True, False])
def test_populated_memory_is_not_said_to_be_unpopulated(code: int, is_populated: bool) -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1))
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 2 * SIZE, kernel=kernel) as memory,
        Container(kernel=kernel) as container,
    ):
        container.open_device(EDU)
        memory.populate(SIZE, SIZE)
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_IOMMU_MAP_DMA, errno=code))
        text = said(lambda: container.map_dma(IOVA, memory, SIZE if is_populated else 0, SIZE))
        assert ("opulate" not in text) is is_populated


@pytest.mark.parametrize("kind", [MemoryKind.ANONYMOUS, MemoryKind.THP, MemoryKind.MEMFD])
def test_addresses_that_a_process_cannot_have_are_no_matter_of_a_cgroup(kind: MemoryKind) -> None:
    text = said(lambda: Memory.allocate(kind, 1 << 60))
    assert "no such range of addresses" in text
    assert "cgroup" not in text


def test_a_limit_of_addresses_is_named() -> None:
    source = """
    import resource
    from pyvfio import *
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
    for kind in MemoryKind.ANONYMOUS, MemoryKind.HUGETLB_ANONYMOUS:
        try:
            Memory.allocate(kind, 2 << 30)
        except MemoryUnavailable as error:
            print(error)
    """
    line = (
        "allocate memory size 0x8000_0000: RLIMIT_AS lets this process have 0x4000_0000 bytes of addresses in all. "
        "Raise it: ulimit -v, LimitAS= or prlimit --as [ENOMEM]\n"
    )
    assert output(source) == 2 * line


def test_a_size_that_no_machine_has() -> None:
    for kind in MemoryKind:
        with pytest.raises(InvalidArgument, match="The next size that fits"):
            Memory.allocate(kind, 1 << 70)


@pytest.mark.parametrize(
    ("group", "address", "advice"),
    [
        (7, SECOND, r"it is in group 8, not in 7\. Open group 8"),
        (7, FIRST.removeprefix("0000:"), rf"the group calls it {FIRST}\. open_device\('{FIRST}'\)"),
        (7, "0000:09:00.0", r"pyvfio bind 0000:09:00\.0"),
    ],
)
def test_a_device_that_a_group_does_not_have(group: int, address: str, advice: str) -> None:
    kernel = plain()
    kernel.add(PciFunction(SECOND, 8, driver="vfio-pci", model=PlainDevice))
    with Container(kernel=kernel) as container:
        opened = container.open_group(group)
        with pytest.raises(DeviceNotBound, match=advice):
            opened.open_device(address)


def test_where_a_group_is_that_is_attached_already() -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as first, Container(kernel=kernel) as second:
        group = first.open_group(3)
        assert "it is in this container already" in said(lambda: first.attach(group))
        assert "it is in a container already: <Container /dev/vfio/vfio>" in said(lambda: second.attach(group))


MEMLOCK = "RLIMIT_MEMLOCK"


@pytest.mark.parametrize("is_mapped", [True, False])
@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EFAULT, errno.EINVAL])
def test_what_is_mapped_is_not_blamed_where_nothing_is(is_mapped: bool, code: int) -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=2))
    first, second = edu_addresses(kernel)
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=kernel) as memory,
        Container(kernel=kernel) as container,
    ):
        container.open_device(first)
        if is_mapped:
            container.map_dma(IOVA, memory, 0, SIZE)
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_GROUP_SET_CONTAINER, errno=code))
        text = said(lambda: container.open_device(second))
        assert ("mapped" in text) is is_mapped
        assert (MEMLOCK in text) is (is_mapped and code == errno.ENOMEM)


@pytest.mark.parametrize(
    ("path", "code", "is_mapped", "says", "says_not"),
    [
        ("/dev/vfio/vfio", errno.ENOMEM, True, "no memory left for it", MEMLOCK),
        ("/dev/iommu", errno.ENOMEM, False, "no memory left for it", MEMLOCK),
        ("/dev/iommu", errno.ENOMEM, True, MEMLOCK, "cgroup"),
        ("/dev/vfio/vfio", errno.EPERM, False, "its driver may not open it", "interrupts"),
        ("/dev/iommu", errno.EPERM, False, "cannot remap interrupts", "no IOMMU"),
        ("/dev/vfio/vfio", errno.EINVAL, False, "its driver cannot open it", "address space"),
        ("/dev/iommu", errno.EINVAL, False, "attached to another address space", "mapped"),
    ],
)
def test_why_a_device_of_a_group_does_not_open(path: str, code: int, is_mapped: bool, says: str, says_not: str) -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=2))
    first, second = edu_addresses(kernel)
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=kernel) as memory,
        Container(kernel=kernel, path=path) as container,
    ):
        container.open_device(first)
        if is_mapped:
            container.map_dma(IOVA, memory, 0, SIZE)
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_GROUP_GET_DEVICE_FD, errno=code))
        text = said(lambda: container.open_device(second))
        assert says in text
        assert says_not not in text


def test_groups_with_and_without_an_iommu_are_told_apart() -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=2))
    first, second = edu_addresses(kernel)
    with Container(kernel=kernel) as container:
        container.open_device(first)
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_GROUP_SET_CONTAINER, errno=errno.EPERM))
        text = said(lambda: container.open_device(second))
        assert "claimed a member" in text
        assert "no IOMMU" not in text


def test_a_device_that_this_process_has_open_by_its_node() -> None:
    kernel = SimKernel(edu_devices=1)
    with Ioas(kernel=kernel) as ioas:
        ioas.open_device(EDU)
        held = rf"this process has it open already: <Device {EDU}> of <Iommufd"
        assert re.search(held, said(lambda: ioas.open_device(EDU)))
        with pytest.raises(DeviceBusy, match="this process has it open already"):
            Ioas(kernel=kernel, iommufd=ioas.iommufd).open_device(EDU)


def test_a_device_whose_group_this_process_has_open() -> None:
    kernel = SimKernel(edu_devices=1)
    with Group(3, kernel=kernel), Ioas(kernel=kernel) as ioas:
        text = said(lambda: ioas.open_device(EDU))
        assert re.search("its group 3 is open as /dev/vfio/3, .*: this process has it open already: <Group 3>", text)


@pytest.mark.parametrize("is_mapped", [True, False])
@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EADDRINUSE])
def test_what_an_address_space_maps_is_not_blamed_where_nothing_is(is_mapped: bool, code: int) -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1))
    with Memory.allocate(MemoryKind.MEMFD, SIZE, kernel=kernel) as memory, Ioas(kernel=kernel) as ioas:
        if is_mapped:
            ioas.map_dma(IOVA, memory, 0, SIZE)
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, errno=code))
        assert ("mapped" in said(lambda: ioas.open_device(EDU))) is is_mapped


def test_who_has_the_mappings_of_a_container_that_is_full() -> None:
    kernel = SimKernel(edu_devices=1, dma_entry_limit=3)
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 4 * SIZE, kernel=kernel) as memory,
        Container(kernel=kernel) as owner,
    ):
        owner.open_device(EDU)
        owner.map_dma(IOVA, memory, 0, SIZE)
        with Container.from_fd(kernel.dup(owner.fd), kernel=kernel, iommu_type=IommuType.TYPE1v2) as other:
            other.map_dma(IOVA + SIZE, memory, SIZE, 2 * SIZE, granularity=SIZE)
            text = said(lambda: owner.map_dma(IOVA + 3 * SIZE, memory, 3 * SIZE, SIZE))
            assert re.search(r"holds 3 mappings, its limit .*: 1 were made through this object, others by", text)
            text = said(lambda: other.map_dma(IOVA + 3 * SIZE, memory, 3 * SIZE, SIZE))
            assert re.search(r"holds as many mappings as it may .*: 2 were made through this object", text)
        owner.map_dma(IOVA + SIZE, memory, SIZE, 2 * SIZE, granularity=SIZE)
        text = said(lambda: owner.map_dma(IOVA + 3 * SIZE, memory, 3 * SIZE, SIZE))
        assert "the container holds 3 mappings, its limit since it was opened" in text


def test_a_refusal_inside_iova_ranges_is_not_said_to_be_outside() -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1))
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=kernel) as memory,
        Container(kernel=kernel) as container,
    ):
        container.open_device(EDU)
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_IOMMU_MAP_DMA, errno=errno.EINVAL))
        text = said(lambda: container.map_dma(IOVA, memory, 0, SIZE))
        assert "it lies inside iova_ranges" in text
        assert "reserves" not in text


def test_why_a_container_cannot_change_addresses() -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel, path="/dev/iommu") as container:
        container.open_device(EDU)
        text = said(container.invalidate_vaddrs)
        assert "the container is iommufd's compatibility. An Iommufd has change_process() instead" in text
