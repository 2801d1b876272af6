"""What iommufd has beyond an address space like any other."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyvfio import (
    Access,
    AlreadyMapped,
    CdevDevice,
    Container,
    DeviceBusy,
    Group,
    GroupBusy,
    HwPageTable,
    InvalidArgument,
    Ioas,
    Iommufd,
    IovaRange,
    Kernel,
    MappedRun,
    Memory,
    MemoryKind,
    NotMapped,
    RlimitMode,
    VfioError,
)
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.kernel import memlock
from pyvfio.sim import SimKernel
from pyvfio.sysfs import pci_device
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed, populated

pytestmark = pytest.mark.needs("iommufd", "cdev")

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 8


@pytest.fixture
def iommufd(kernel: Kernel) -> Iterator[Iommufd]:
    with Iommufd(kernel=kernel) as iommufd:
        yield iommufd


@pytest.fixture
def device(iommufd: Iommufd, testbed: Testbed) -> CdevDevice:
    return CdevDevice(iommufd, testbed.devices[0])


def fetch_and_store(edu: Edu, iova: int, to: int) -> None:
    edu.fetch(iova, len(MESSAGE))
    edu.store(to, len(MESSAGE))


def test_a_second_attachment_replaces_the_first(iommufd: Iommufd, device: CdevDevice, memory: Memory) -> None:
    first, second = Ioas(iommufd), Ioas(iommufd)
    first.map_dma(IOVA, memory, 0, BLOCK)
    second.map_dma(IOVA, memory, BLOCK, BLOCK)
    memory.write(0, MESSAGE)
    device.attach(first)
    with Edu(device) as edu:
        edu.fetch(IOVA, len(MESSAGE))
        device.attach(second)
        assert (first.devices, second.devices, device.attached) == ((), (device,), second)
        edu.store(IOVA, len(MESSAGE))
    assert memory.read(BLOCK, len(MESSAGE)) == MESSAGE


def test_a_device_without_an_address_space_reaches_nothing(
    iommufd: Iommufd, device: CdevDevice, memory: Memory
) -> None:
    ioas = Ioas(iommufd)
    ioas.map_dma(IOVA, memory, 0, BLOCK)
    memory.write(0, MESSAGE)
    device.attach(ioas)
    with Edu(device) as edu:
        edu.fetch(IOVA, len(MESSAGE))
        device.detach()
        device.detach()
        assert device.attached is None
        edu.store(IOVA + BLOCK - 4096, len(MESSAGE))
        assert memory.read(BLOCK - 4096, len(MESSAGE)) == bytes(len(MESSAGE))


def test_a_device_is_attached_within_its_iommufd(device: CdevDevice, kernel: Kernel, testbed: Testbed) -> None:
    own = Ioas(device.iommufd)
    with Ioas(kernel=kernel) as other:
        namesake = Ioas(other.iommufd)
        assert namesake.id == own.id
        with pytest.raises(InvalidArgument, match="belongs to another iommufd"):
            device.attach(namesake)
        with pytest.raises(InvalidArgument, match="belongs to another iommufd"):
            CdevDevice(device.iommufd, testbed.devices[1], parent=other)
    assert (device.attached, own.devices, namesake.devices) == (None, (), ())
    device.attach(own)
    assert (device.attached, own.devices) == (own, (device,))


def test_several_devices_share_an_address_space(iommufd: Iommufd, testbed: Testbed, memory: Memory) -> None:
    ioas = Ioas(iommufd)
    devices = [ioas.open_device(address) for address in testbed.devices[:2]]
    assert ioas.devices == tuple(devices)
    ioas.map_dma(IOVA, memory, 0, BLOCK)
    memory.write(0, MESSAGE)
    for number, device in enumerate(devices, 1):
        with Edu(device) as edu:
            fetch_and_store(edu, IOVA, IOVA + number * 4096)
        assert memory.read(number * 4096, len(MESSAGE)) == MESSAGE
    assert len({device.id for device in devices}) == 2


def test_what_is_mapped_first_is_pinned_with_the_first_device(device: CdevDevice, memory: Memory) -> None:
    kernel, ioas = device.kernel, Ioas(device.iommufd)
    before = memlock(kernel).pinned
    ioas.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    assert memlock(kernel).pinned == before
    device.attach(ioas)
    assert memlock(kernel).pinned == before + 2 * BLOCK
    ioas.close()
    assert memlock(kernel).pinned == before
    assert device.attached is None


def test_a_device_that_reserves_what_is_mapped_is_not_attached(device: CdevDevice, memory: Memory) -> None:
    ioas = Ioas(device.iommufd)
    assert IovaRange(0, (1 << 64) - 1) in ioas.iova_ranges
    ioas.map_dma(0xFEE0_0000, memory, 0, BLOCK)
    with pytest.raises(VfioError, match="reserves addresses that are mapped already") as caught:
        device.attach(ioas)
    assert caught.value.errno == errno.EADDRINUSE
    assert device.attached is None
    ioas.unmap_all()
    device.attach(ioas)


def test_a_device_is_opened_in_one_way(ioas: Ioas, testbed: Testbed, iommufd: Iommufd) -> None:
    kernel, address = testbed.kernel, testbed.devices[0]
    group = pci_device(kernel, address).group
    assert group is not None
    with pytest.raises(DeviceBusy, match="open already"):
        CdevDevice(iommufd, address)
    with pytest.raises(GroupBusy):
        Group(group, kernel=kernel)
    ioas.close()
    with Group(group, kernel=kernel), pytest.raises(DeviceBusy, match=f"/dev/vfio/{group}"):
        CdevDevice(iommufd, address)
    CdevDevice(iommufd, address)


@pytest.fixture
def ioas(kernel: Kernel, testbed: Testbed) -> Iterator[Ioas]:
    """With the first device attached."""
    with Ioas(kernel=kernel) as ioas:
        ioas.open_device(testbed.devices[0])
        yield ioas


@pytest.mark.parametrize("kind", [MemoryKind.MEMFD, MemoryKind.HUGETLB])
def test_memory_with_a_file_is_mapped_by_its_file(kind: MemoryKind, ioas: Ioas, kernel: Kernel) -> None:
    (device,) = ioas.devices
    with populated(kernel, kind, 2 * BLOCK) as memory, Edu(device) as edu:
        ioas.map_dma(IOVA, memory, BLOCK, BLOCK)
        memory.write(BLOCK, MESSAGE)
        fetch_and_store(edu, IOVA, IOVA + 8192)
        assert memory.read(BLOCK + 8192, len(MESSAGE)) == MESSAGE
        assert ioas.unmap_dma(IOVA, BLOCK) == BLOCK


def test_copied_mappings_share_their_pages(ioas: Ioas, memory: Memory, kernel: Kernel) -> None:
    (device,) = ioas.devices
    copy = Ioas(ioas.iommufd)
    ioas.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
    memory.write(BLOCK, MESSAGE)
    copy.copy_from(ioas, IOVA + MEBIBYTE, 2 * MEBIBYTE, 0x4000_0000)
    whole = MappedRun(0x4000_0000, 2 * MEBIBYTE, memory, MEBIBYTE, Access.READ_WRITE, BLOCK)
    assert copy.mappings() == (whole,)
    assert copy.mapping_count == 2
    pinned = memlock(kernel).pinned
    device.attach(copy)
    assert memlock(kernel).pinned <= pinned
    with Edu(device) as edu:
        fetch_and_store(edu, 0x4000_0000 + MEBIBYTE, 0x4000_0000)
    assert memory.read(MEBIBYTE, len(MESSAGE)) == MESSAGE
    ioas.unmap_all()
    assert copy.unmap_dma(0x4000_0000, MEBIBYTE) == MEBIBYTE
    assert copy.unmap_all() == MEBIBYTE


def test_what_cannot_be_copied(ioas: Ioas, memory: Memory) -> None:
    copy = Ioas(ioas.iommufd)
    ioas.map_dma(IOVA, memory, 0, BLOCK, Access.READ)
    with pytest.raises(InvalidArgument, match="do not allow that access"):
        copy.copy_from(ioas, IOVA, BLOCK, IOVA)
    with pytest.raises(NotMapped, match="does not map all of it"):
        copy.copy_from(ioas, IOVA, 2 * BLOCK, IOVA, Access.READ)
    with pytest.raises(InvalidArgument, match="multiples"):
        copy.copy_from(ioas, IOVA + 1, BLOCK, IOVA, Access.READ)
    copy.copy_from(ioas, IOVA, BLOCK, IOVA, Access.READ)
    with pytest.raises(AlreadyMapped):
        copy.copy_from(ioas, IOVA, BLOCK, IOVA, Access.READ)


def test_the_kernel_chooses_addresses(ioas: Ioas, memory: Memory) -> None:
    first = ioas.map_anywhere(memory, 0, BLOCK)
    allowed = IovaRange(0x8000_0000, 0x8000_0000 + BLOCK - 1)
    ioas.allow_iovas([allowed])
    second = ioas.map_anywhere(memory, BLOCK, MEBIBYTE)
    assert first != 0
    assert allowed.contains(second, MEBIBYTE)
    with pytest.raises(VfioError, match="has room for it") as caught:
        ioas.map_anywhere(memory, 0, BLOCK)
    assert caught.value.errno == errno.ENOSPC
    ioas.allow_iovas([])
    ioas.map_anywhere(memory, 0, BLOCK)
    assert ioas.unmap_all() == 2 * BLOCK + MEBIBYTE


@pytest.mark.parametrize(
    ("ranges", "meaning"),
    [
        ([IovaRange(0x5000, 0x5000)], "two addresses or more"),
        ([IovaRange(0x1000, 0x1FFF), IovaRange(0x1800, 0x2FFF)], "none may overlap"),
        ([IovaRange(0, 1 << 64)], "two addresses or more"),
        ([IovaRange(0xFEE0_0000, 0xFEE0_FFFF)], "reserves some of them"),
    ],
)
def test_addresses_that_cannot_be_allowed(ioas: Ioas, ranges: list[IovaRange], meaning: str) -> None:
    with pytest.raises(VfioError, match=meaning):
        ioas.allow_iovas(ranges)


def test_who_is_charged_is_chosen_right_after_opening(iommufd: Iommufd) -> None:
    assert iommufd.rlimit_mode is RlimitMode.USER
    iommufd.rlimit_mode = RlimitMode.PROCESS
    assert iommufd.rlimit_mode is RlimitMode.PROCESS
    Ioas(iommufd)
    with pytest.raises(VfioError, match="has objects already") as caught:
        iommufd.rlimit_mode = RlimitMode.USER
    assert caught.value.errno == errno.EBUSY


def test_huge_pages_are_given_up_before_mapping(ioas: Ioas, memory: Memory) -> None:
    assert ioas.huge_pages
    ioas.huge_pages = False
    ioas.map_dma(IOVA, memory, 0, BLOCK)
    assert not ioas.huge_pages
    ioas.huge_pages = True
    with pytest.raises(VfioError, match="may hold large pages"):
        ioas.huge_pages = False


def test_a_page_table_of_its_own(ioas: Ioas, memory: Memory) -> None:
    (device,) = ioas.devices
    ioas.map_dma(IOVA, memory, 0, BLOCK)
    memory.write(0, MESSAGE)
    with ioas.page_table(device) as table:
        device.attach(table)
        assert (device.attached, ioas.devices) == (table, (device,))
        with Edu(device) as edu:
            fetch_and_store(edu, IOVA, IOVA + 4096)
        assert memory.read(4096, len(MESSAGE)) == MESSAGE
    assert device.attached is None
    device.attach(ioas)


def test_an_iommu_that_cannot_track_says_so(ioas: Ioas) -> None:
    (device,) = ioas.devices
    with pytest.raises(VfioError, match="has no such page table") as caught:
        ioas.page_table(device, dirty_tracking=True)
    assert caught.value.errno == errno.EOPNOTSUPP
    with ioas.page_table(device) as table, pytest.raises(VfioError, match="was not made for it"):
        table.track_dirty()


def test_what_the_iommu_behind_a_device_is(ioas: Ioas, kernel_name: str) -> None:
    (device,) = ioas.devices
    info = device.hardware_info()
    if kernel_name in ("simulated", "built-intel", "built-compat-intel"):
        assert (info.type, len(info.data)) == (1, 24)
    assert info.max_pasid_log2 == 0


def test_a_pasid_needs_a_page_table_for_it(ioas: Ioas) -> None:
    (device,) = ioas.devices
    with pytest.raises(VfioError, match="the device has no such PASID"):
        device.attach(ioas, pasid=1)
    device.detach(pasid=1)
    assert (device.attached, dict(device.pasids)) == (ioas, {})


@pytest.fixture
def newest_ioas(kernel_name: str, request: pytest.FixtureRequest) -> Iterator[Ioas]:
    """As ioas, on a kernel of Linux 7.3."""
    if kernel_name != "simulated":
        yield request.getfixturevalue("ioas")
        return
    kernel = SimKernel(edu_devices=1, version=(7, 3))
    with Ioas(kernel=kernel) as ioas:
        ioas.open_device(edu_addresses(kernel)[0])
        yield ioas


@pytest.mark.needs("intel")
def test_a_node_is_attached_by_pasid(newest_ioas: Ioas) -> None:
    # Whether the device has any is not asked by Intel's driver.
    ioas, (device,) = newest_ioas, newest_ioas.devices
    first, second = (ioas.page_table(device, pasid=True) for _ in range(2))
    device.attach(first)
    for table in (first, second):
        device.attach(table, pasid=7)
        assert (device.attached, dict(device.pasids)) == (first, {7: table})
    with pytest.raises(VfioError):
        device.attach(ioas)
    second.close()
    assert (device.attached, dict(device.pasids)) == (first, {})


def test_the_address_space_of_container_ioctls(iommufd: Iommufd) -> None:
    assert iommufd.compatibility_ioas is None
    ioas = Ioas(iommufd)
    iommufd.compatibility_ioas = ioas.id
    assert iommufd.compatibility_ioas == ioas.id
    iommufd.compatibility_ioas = None
    assert iommufd.compatibility_ioas is None
    with pytest.raises(VfioError, match="gone from the iommufd"):
        iommufd.compatibility_ioas = 4711


def test_objects_in_use_are_not_destroyed(ioas: Ioas) -> None:
    (device,) = ioas.devices
    for object_id in (ioas.id, device.id):
        with pytest.raises(VfioError, match="still uses it") as caught:
            ioas.iommufd.destroy(object_id, "it")
        assert caught.value.errno == errno.EBUSY
    with pytest.raises(VfioError, match="gone"):
        ioas.iommufd.destroy(4711, "it")


def test_everything_there_is_comes_off(ioas: Ioas, memory: Memory) -> None:
    assert ioas.unmap_everything() == 0
    ioas.map_dma(IOVA, memory, 0, BLOCK, granularity=MEBIBYTE)
    ioas.map_dma(IOVA + 10 * BLOCK, memory, BLOCK, BLOCK)
    assert ioas.unmap_everything() == 2 * BLOCK
    assert ioas.mappings() == ()


def test_children_close_before_their_parents(testbed: Testbed) -> None:
    iommufd = Iommufd(kernel=testbed.kernel)
    ioas = Ioas(iommufd)
    device = ioas.open_device(testbed.devices[0])
    table: HwPageTable = ioas.page_table(device)
    device.attach(table)
    iommufd.close()
    assert all(thing.closed for thing in (ioas, device, table))
    with Container(kernel=testbed.kernel, path="/dev/iommu") as container:
        container.open_device(testbed.devices[0])


def test_mappings_can_be_charged_to_another_process(iommufd: Iommufd, kernel: Kernel) -> None:
    ioas = Ioas(iommufd)
    with populated(kernel, MemoryKind.MEMFD, BLOCK) as memory:
        ioas.map_dma(IOVA, memory, 0, BLOCK)
        try:
            iommufd.change_process()
        except VfioError as error:
            # Linux 6.14 has it.
            if error.errno != errno.ENOTTY:
                raise
        ioas.close()
