"""Devices without an IOMMU in machines that cannot be had, or not at once: of older kernels, and beside an IOMMU."""

from __future__ import annotations

import errno

import pytest

from pyvfio import CdevDevice, Container, DeviceNotBound, Ioas, Iommufd, Memory, MemoryKind, VfioError
from pyvfio.abi.tainted import TAINT_USER, TAINTED
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.host import bind
from pyvfio.kernel import read_text, write_text
from pyvfio.noiommu import ENABLE
from pyvfio.sim import PciFunction, SimKernel
from tests.support.kernels.hardware import machine_without_iommu

COVERED, BYPASSED = "0000:00:03.0", "0000:41:00.0"
IOVA = 0x1_0000_0000
SIZE = 2 << 20


@pytest.fixture
def mixed() -> SimKernel:
    """An IOMMU covers one edu device, and not the other."""
    kernel = SimKernel(edu_devices=1, version=(7, 3))
    kernel.add(PciFunction(BYPASSED, group=16, behind_iommu=False))
    write_text(kernel, ENABLE, "1")
    bind(kernel, BYPASSED)
    return kernel


def mapped(ioas: Ioas) -> Memory:
    memory = Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=ioas.kernel)
    memory.populate(0, SIZE)
    ioas.map_dma(IOVA, memory, 0, SIZE)
    return memory


def test_the_kernel_is_tainted_when_it_hands_one_out() -> None:
    kernel = SimKernel(edu_devices=1, version=(7, 3))
    kernel.add(PciFunction(BYPASSED, group=16, behind_iommu=False))
    assert int(read_text(kernel, TAINTED)) == 0
    write_text(kernel, ENABLE, "1")
    assert int(read_text(kernel, TAINTED)) == 0
    bind(kernel, BYPASSED)
    assert int(read_text(kernel, TAINTED)) == TAINT_USER


def test_attached_first_it_has_addresses_beside_one_with_an_iommu(mixed: SimKernel) -> None:
    with Ioas(kernel=mixed) as ioas, mapped(ioas) as memory:
        bypassed = ioas.open_device(BYPASSED, unsafe_noiommu=True)
        covered = ioas.open_device(COVERED)
        memory.write(0, b"both reach it")
        with Edu(bypassed) as by_address, Edu(covered) as by_iova:
            by_address.fetch(ioas.physical_range(IOVA).address, 16)
            by_address.store(ioas.physical_range(IOVA + 4096).address, 16)
            by_iova.fetch(IOVA + 4096, 16)
            by_iova.store(IOVA + 8192, 16)
        assert memory.read(8192, 13) == b"both reach it"
        bypassed.detach()
        with pytest.raises(VfioError, match="one that has an IOMMU was attached before it"):
            ioas.physical_range(IOVA)
        ioas.unmap_all()


def test_attached_second_it_has_none(mixed: SimKernel) -> None:
    with Ioas(kernel=mixed) as ioas, mapped(ioas):
        covered = ioas.open_device(COVERED)
        ioas.open_device(BYPASSED, unsafe_noiommu=True)
        for _ in range(2):
            with pytest.raises(VfioError, match="address space of its own") as caught:
                ioas.physical_range(IOVA)
            assert caught.value.errno == errno.EOPNOTSUPP
            # The page table is still the one that was made for it.
            covered.detach()
        ioas.unmap_all()


def test_one_with_an_iommu_takes_no_page_table_that_translates_nothing(mixed: SimKernel) -> None:
    with Ioas(kernel=mixed) as ioas:
        table = ioas.page_table(ioas.open_device(BYPASSED, unsafe_noiommu=True))
        covered = CdevDevice(ioas.iommufd, COVERED)
        assert not covered.is_noiommu
        with pytest.raises(VfioError, match="page table is of another kind of IOMMU"):
            covered.attach(table)
        covered.attach(ioas)


def test_a_container_takes_groups_of_one_kind(mixed: SimKernel) -> None:
    for first, second in ((COVERED, BYPASSED), (BYPASSED, COVERED)):
        with Container(kernel=mixed) as container:
            assert container.open_device(first).is_noiommu is (first == BYPASSED)
            with pytest.raises(VfioError) as caught:
                container.open_device(second)
            assert caught.value.errno == errno.EPERM


def test_before_linux_7_3_it_has_no_node_and_says_so() -> None:
    with machine_without_iommu("simulated", (7, 2)) as kernel, Iommufd(kernel=kernel) as iommufd:
        with pytest.raises(DeviceNotBound, match=r"older than Linux 7\.3.*Container instead of Ioas"):
            CdevDevice(iommufd, edu_addresses(kernel)[0], unsafe_noiommu=True)
        with Container(kernel=kernel) as container:
            assert container.open_device(edu_addresses(kernel)[0]).is_noiommu


def test_before_linux_7_3_no_address_is_told() -> None:
    with Ioas(kernel=SimKernel(version=(7, 2))) as ioas:
        with pytest.raises(
            VfioError, match=r"Linux 7\.3.*UnsafePhysicalMemory tells where locked huge pages"
        ) as caught:
            ioas.physical_range(IOVA)
        assert caught.value.errno == errno.ENOTTY
