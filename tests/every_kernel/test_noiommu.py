"""Devices without an IOMMU: they work, nothing is mapped for them, and physical addresses are for who insists."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyvfio import (
    Container,
    InvalidArgument,
    IommuType,
    Kernel,
    Memory,
    MemoryKind,
    NoIommuError,
    VfioError,
)
from pyvfio.abi.tainted import TAINT_USER, TAINTED
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.host import bind, unbind
from pyvfio.kernel import memlock, read_text, write_text
from pyvfio.noiommu import ENABLE, UnsafePhysicalMemory
from tests.every_kernel.conftest import MEBIBYTE, populated
from tests.support.capabilities import without_raw_io
from tests.support.kernels.hardware import machine_without_iommu

pytestmark = pytest.mark.needs("noiommu")

BLOCK = 2 * MEBIBYTE
MESSAGE = bytes(range(256)) * 8


@pytest.fixture
def kernel(kernel_name: str) -> Iterator[Kernel]:
    with machine_without_iommu(kernel_name) as kernel:
        yield kernel


@pytest.fixture
def container(kernel: Kernel) -> Iterator[Container]:
    with Container(kernel=kernel) as container:
        yield container


def test_a_device_works_and_has_no_group_of_an_iommu(container: Container, kernel: Kernel) -> None:
    device = container.open_device(edu_addresses(kernel)[0])
    assert device.group is not None
    assert device.group.is_noiommu
    assert device.group.path == f"/dev/vfio/noiommu-{device.group.number}"
    assert container.iommu_type is IommuType.NOIOMMU
    with Edu(device) as edu:
        assert edu.check_liveness(0x1234_5678)
        assert edu.raise_interrupt()
    assert container.open_device(edu_addresses(kernel)[1]).config.vendor_id == 0x1234


def test_maps_are_refused_with_the_reason_and_the_alternative(container: Container, kernel: Kernel) -> None:
    container.open_device(edu_addresses(kernel)[0])
    with populated(kernel, MemoryKind.ANONYMOUS, BLOCK) as memory:
        with pytest.raises(NoIommuError, match=r"no IOMMU behind this device.*pyvfio\.noiommu"):
            container.map_dma(0x1000_0000, memory, 0, BLOCK)
        for ask in (lambda: container.iova_ranges, lambda: container.mappings_left, container.unmap_all):
            with pytest.raises(NoIommuError):
                ask()
    assert container.mappings() == ()


@pytest.mark.parametrize("kind", [MemoryKind.HUGETLB, MemoryKind.HUGETLB_ANONYMOUS])
def test_dma_by_physical_addresses_of_locked_huge_pages(kind: MemoryKind, container: Container, kernel: Kernel) -> None:
    charged = memlock(kernel).charged
    with (
        populated(kernel, kind, 2 * BLOCK) as memory,
        UnsafePhysicalMemory(memory) as physical,
        Edu(container.open_device(edu_addresses(kernel)[0])) as edu,
    ):
        assert sum(run.size for run in physical.runs()) == 2 * BLOCK
        assert physical.runs()[0].address == physical.address(0)
        assert physical.address(BLOCK + 5) % BLOCK == (physical.address(BLOCK) + 5) % BLOCK
        memory.write(BLOCK + 4096, MESSAGE)
        edu.fetch(physical.address(BLOCK + 4096), len(MESSAGE))
        edu.store(physical.address(0), len(MESSAGE))
        assert memory.read(0, len(MESSAGE)) == MESSAGE
        assert memlock(kernel).charged >= charged
    assert memlock(kernel).charged == charged


def test_memory_that_the_kernel_moves_has_no_address_to_give(kernel: Kernel) -> None:
    with (
        populated(kernel, MemoryKind.THP, BLOCK) as memory,
        pytest.raises(InvalidArgument, match="moves ordinary pages"),
    ):
        UnsafePhysicalMemory(memory)
    with Memory.allocate(MemoryKind.HUGETLB, 2 * BLOCK, kernel=kernel) as memory:
        memory.populate(0, BLOCK)
        with UnsafePhysicalMemory(memory, 0, BLOCK) as physical, pytest.raises(InvalidArgument, match="outside"):
            physical.address(BLOCK)
        with pytest.raises(VfioError, match="it is closed"):
            physical.address(0)


def test_a_device_is_taken_only_where_that_is_allowed(kernel: Kernel) -> None:
    address = edu_addresses(kernel)[0]
    unbind(kernel, address)
    write_text(kernel, ENABLE, "0")
    with pytest.raises(VfioError):
        bind(kernel, address)
    write_text(kernel, ENABLE, "1")
    bind(kernel, address)


def test_a_kernel_that_takes_one_is_tainted_for_good(kernel: Kernel) -> None:
    assert int(read_text(kernel, TAINTED)) & TAINT_USER
    unbind(kernel, edu_addresses(kernel)[0])
    assert int(read_text(kernel, TAINTED)) & TAINT_USER


def test_a_group_is_opened_with_a_capability_only(container: Container, kernel: Kernel) -> None:
    with without_raw_io(kernel), pytest.raises(VfioError, match="CAP_SYS_RAWIO") as caught:
        container.open_device(edu_addresses(kernel)[0])
    assert caught.value.errno == errno.EPERM
    container.open_device(edu_addresses(kernel)[0])
