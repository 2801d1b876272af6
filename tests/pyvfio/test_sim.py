"""What the simulated kernel can show and the test machines cannot, or only at the price of a machine each."""

from __future__ import annotations

import errno
import os

import pytest

from pyvfio import Access, Container, DeviceNotBound, Memory, MemoryKind, OutsideIovaRanges, VfioError
from pyvfio.abi import mman, vfio
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.host import bind
from pyvfio.kernel import memlock, write_text
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices import VFIO_DRIVER
from pyvfio.sysfs import iommu_kinds, pci_device

IOVA = 0x1_0000_0000
NIC = "0000:01:00.0"
MEBIBYTE = 1 << 20
WINDOW = (0x2000_0000, 0x200F_FFFF)


def kernel_with_reserved_window() -> SimKernel:
    """One edu, and another that does not let a window be mapped."""
    kernel = SimKernel(edu_devices=1)
    kernel.add(PciFunction("0000:00:10.0", group=16, driver=VFIO_DRIVER, reserved=(WINDOW,)))
    return kernel


def test_what_a_device_reserves_cannot_be_mapped_while_it_is_there() -> None:
    kernel = kernel_with_reserved_window()
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, MEBIBYTE, kernel=kernel) as memory,
    ):
        container.open_device("0000:00:03.0")
        container.map_dma(WINDOW[0], memory, 0, MEBIBYTE)
        container.unmap_all()
        reserving = container.open_device("0000:00:10.0")
        with pytest.raises(OutsideIovaRanges):
            container.map_dma(WINDOW[0], memory, 0, MEBIBYTE)
        assert reserving.group is not None
        reserving.group.close()


def test_a_device_does_not_join_where_its_window_is_mapped() -> None:
    kernel = kernel_with_reserved_window()
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, MEBIBYTE, kernel=kernel) as memory,
    ):
        container.open_device("0000:00:03.0")
        container.map_dma(WINDOW[0], memory, 0, MEBIBYTE)
        with pytest.raises(VfioError) as caught:
            container.open_device("0000:00:10.0")
        assert caught.value.errno == errno.EINVAL
        assert container.unmap_all() == MEBIBYTE


@pytest.mark.parametrize(("version", "seen"), [((6, 1), bytes(8)), ((6, 2), b"new text")])
def test_memory_never_written_is_the_devices_zero_page_until_6_2(version: tuple[int, int], seen: bytes) -> None:
    kernel = SimKernel(edu_devices=1, version=version)
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, MEBIBYTE, kernel=kernel) as memory,
    ):
        edu = Edu(container.open_device(edu_addresses(kernel)[0]))
        container.map_dma(IOVA, memory, 0, 4096, Access.READ)
        container.map_dma(IOVA + 4096, memory, 4096, 4096)
        memory.write(0, b"new text")
        edu.fetch(IOVA, 8)
        edu.store(IOVA + 4096, 8)
        assert memory.read(4096, 8) == seen
        edu.close()


def test_a_mediated_device_is_in_no_bus() -> None:
    kernel = SimKernel()
    kernel.add(PciFunction("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", 11, driver=VFIO_DRIVER, is_mediated=True))
    assert kernel.listdir("/sys/bus/pci/devices") == []
    assert "11" in kernel.listdir("/dev/vfio")


def test_a_descriptor_is_of_the_process_that_has_it() -> None:
    kernel = SimKernel()
    other = kernel.spawn()
    fd = kernel.open("/dev/vfio/vfio", os.O_RDWR)
    for use in (
        lambda: other.ioctl(fd, vfio.VFIO_GET_API_VERSION),
        lambda: other.pread(fd, 1, 0),
        lambda: other.dup(fd),
        lambda: other.close(fd),
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            use()
    copy = kernel.send(fd, other)
    kernel.close(fd)
    assert other.ioctl(copy, vfio.VFIO_GET_API_VERSION) == 0
    other.exit()
    assert other.containers == kernel.containers == []


def test_memory_is_of_the_process_that_has_mapped_it() -> None:
    kernel = SimKernel(edu_devices=1)
    other = kernel.spawn()
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, MEBIBYTE, kernel=kernel) as memory,
    ):
        container.open_device(edu_addresses(kernel)[0])
        fd = kernel.send(container.fd, other)
        argument = vfio.vfio_iommu_type1_dma_map(flags=1, vaddr=memory.address, iova=IOVA, size=MEBIBYTE)
        with pytest.raises(OSError, match="Bad address"):
            other.ioctl(fd, vfio.VFIO_IOMMU_MAP_DMA, argument)
        kernel.ioctl(container.fd, vfio.VFIO_IOMMU_MAP_DMA, argument)
        assert (kernel.locked_bytes, other.locked_bytes) == (MEBIBYTE, 0)
        other.exit()


def test_what_a_group_reserved_can_be_used_when_it_has_left() -> None:
    kernel = SimKernel(edu_devices=1)
    kernel.add(PciFunction("0000:00:04.0", 4, driver=VFIO_DRIVER, reserved=(WINDOW,)))
    with (
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, 4096, kernel=kernel) as memory,
    ):
        container.open_group(3)
        group = container.open_group(4)
        with pytest.raises(OutsideIovaRanges):
            container.map_dma(WINDOW[0], memory, 0, 4096)
        container.detach(group)
        container.map_dma(WINDOW[0], memory, 0, 4096)
        group.close()


def test_what_a_process_locks_is_charged_to_it_alone() -> None:
    kernel = SimKernel(memlock=16 * MEBIBYTE, ipc_lock=False)
    other = kernel.spawn()
    before = kernel.charges.locked_in_all
    start = other.mmap(MEBIBYTE, mman.PROT_READ | mman.PROT_WRITE, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)
    try:
        other.mlock(start, MEBIBYTE)
        assert (kernel.charges.locked_in_all, other.charges.locked_in_all) == (before, MEBIBYTE)
        assert (memlock(kernel).charged, memlock(other).charged) == (before, MEBIBYTE)
        other.mlock(start, 2 * 4096)
        other.munlock(start, 4096)
        assert other.charges.locked_in_all == MEBIBYTE - 4096
    finally:
        other.exit()
    assert (kernel.charges.locked_in_all, other.charges.locked_in_all) == (before, 0)


@pytest.mark.parametrize(
    ("limit", "exempt", "code"),
    [(0, False, errno.EPERM), (4096, False, errno.ENOMEM), (2 * 4096, False, None), (0, True, None)],
)
def test_mlock_keeps_to_the_limit_of_the_simulated_process(limit: int, exempt: bool, code: int | None) -> None:
    kernel = SimKernel().spawn()
    kernel.charges.limit, kernel.charges.exempt = limit, exempt
    start = kernel.mmap(2 * 4096, mman.PROT_READ | mman.PROT_WRITE, mman.MAP_PRIVATE | mman.MAP_ANONYMOUS)
    try:
        if code is None:
            kernel.mlock(start, 2 * 4096)
        else:
            with pytest.raises(OSError, match=os.strerror(code)):
                kernel.mlock(start, 2 * 4096)
    finally:
        kernel.exit()


@pytest.mark.parametrize(("version", "before"), [((6, 12), None), ((6, 18), 5)])
def test_a_virtio_iommu_groups_a_device_when_a_driver_is_first_bound(
    version: tuple[int, int], before: int | None
) -> None:
    """As seen on these kernels: any driver will do, and the group stays when it is unbound."""
    kernel = SimKernel(iommu="virtio", version=version)
    kernel.add(PciFunction(NIC, group=5, host_driver="igb"))
    assert pci_device(kernel, NIC).group == before
    assert kernel.listdir("/sys/kernel/iommu_groups") == (["5"] if before else [])
    write_text(kernel, "/sys/bus/pci/drivers_probe", NIC)
    assert (pci_device(kernel, NIC).driver, pci_device(kernel, NIC).group) == ("igb", 5)
    write_text(kernel, "/sys/bus/pci/drivers/igb/unbind", NIC)
    assert (pci_device(kernel, NIC).driver, pci_device(kernel, NIC).group) == (None, 5)


@pytest.mark.parametrize(
    ("model", "kind"), [("intel", ["Intel VT-d"]), ("amd", ["AMD-Vi"]), ("virtio", ["virtio-iommu"]), ("none", [])]
)
def test_sysfs_shows_the_iommu(model: str, kind: list[str]) -> None:
    assert iommu_kinds(SimKernel(iommu=model)) == kind


def test_bind_takes_a_device_that_a_virtio_iommu_has_not_grouped_yet() -> None:
    kernel = SimKernel(iommu="virtio", version=(6, 12))
    kernel.add(PciFunction(NIC, group=5))
    bind(kernel, NIC)
    assert (pci_device(kernel, NIC).driver, pci_device(kernel, NIC).group) == ("vfio-pci", 5)


def test_bind_says_after_a_probe_that_there_is_no_iommu_behind_the_device() -> None:
    """The write to drivers_probe tells nothing: the cause is found by looking. Before, it cannot be known there."""
    kernel = SimKernel(iommu="virtio", version=(6, 12))
    kernel.add(PciFunction(NIC, group=5, behind_iommu=False))
    with pytest.raises(DeviceNotBound, match=r"there is no IOMMU behind it\. pyvfio doctor says what is missing"):
        bind(kernel, NIC)
    assert pci_device(kernel, NIC).driver is None
