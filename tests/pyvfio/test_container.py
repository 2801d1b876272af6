"""Container: what it says and what it keeps when a call to the kernel fails."""

from __future__ import annotations

import errno

import pytest

from pyvfio import Container, Group, MemlockExceeded, Memory, MemoryKind, MemoryUnavailable, VfioError
from pyvfio.abi import vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.faults.rules import Call, Rule
from pyvfio.kernel import IoctlArgument
from pyvfio.sim import SimKernel
from pyvfio.sysfs import pci_device

IOVA = 0x1_0000_0000
SIZE = 1 << 20


class KernelWithoutDirtyTracking(SimKernel):
    """As before Linux 5.8: nothing is said of dirty bitmaps."""

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        result = super().ioctl(fd, request, argument)
        if request == vfio.VFIO_IOMMU_GET_INFO:
            assert not isinstance(argument, int)
            offset = vfio.vfio_iommu_type1_info.from_buffer(argument).cap_offset
            while offset:
                header = vfio.vfio_info_cap_header.from_buffer(argument, offset)
                if header.id == vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
                    header.id = 0x7FFF
                offset = header.next
        return result


@pytest.mark.parametrize(
    ("path", "kind", "meaning"),
    [
        ("/dev/vfio/vfio", MemoryUnavailable, "no memory left to pin the pages"),
        ("/dev/iommu", MemlockExceeded, "of this user have pinned through iommufd"),
    ],
)
def test_a_container_without_dirty_tracking_is_not_taken_for_one_of_iommufd(
    path: str, kind: type[VfioError], meaning: str
) -> None:
    kernel = FaultyKernel(KernelWithoutDirtyTracking(edu_devices=1, memlock=16 * SIZE, ipc_lock=False))
    with (
        Container(kernel=kernel, path=path) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=kernel) as memory,
    ):
        container.open_device(edu_addresses(kernel)[0])
        container.map_dma(IOVA, memory, 0, 4096)
        kernel.arm(Fault(errno=errno.ENOMEM, name="ioctl", request=vfio.VFIO_IOMMU_MAP_DMA))
        with pytest.raises(kind, match=meaning):
            container.map_dma(IOVA + SIZE, memory, 0, SIZE)


def test_iova_ranges_that_could_not_be_asked_for_are_asked_for_again() -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1))
    with Container(kernel=kernel) as container:
        container.open_device(edu_addresses(kernel)[0])
        kernel.arm(Fault(0, "ioctl", vfio.VFIO_IOMMU_GET_INFO, errno=errno.EIO))
        with pytest.raises(VfioError, match="get IOMMU info"):
            _ = container.iova_ranges
        kernel.arm(Rule())
        container.unmap_all()
        assert Call("ioctl", vfio.VFIO_IOMMU_GET_INFO) in kernel.calls


def test_an_attachment_that_cannot_be_undone_is_said_beside_its_reason() -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=1))
    number = pci_device(kernel, edu_addresses(kernel)[0]).group
    assert number is not None
    with Container(kernel=kernel) as container, Group(number, kernel=kernel) as group:
        kernel.arm(
            Fault(errno=errno.EIO, name="ioctl", request=vfio.VFIO_SET_IOMMU),
            Fault(errno=errno.EBUSY, name="ioctl", request=vfio.VFIO_GROUP_UNSET_CONTAINER),
        )
        with pytest.raises(VfioError, match="set IOMMU TYPE1v2") as caught:
            container.attach(group)
        assert any("it stays attached" in note for note in caught.value.__notes__)
        assert container.groups == ()
        assert container.iommu_type is None
        kernel.arm()


def test_the_generation_tells_that_all_mappings_went_with_the_last_group() -> None:
    kernel = SimKernel(edu_devices=2)
    first, second = edu_addresses(kernel)
    with Container(kernel=kernel) as container, Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=kernel) as memory:
        container.open_device(first)
        container.map_dma(IOVA, memory, 0, SIZE)
        container.open_device(second)
        group, last = container.groups
        group.close()
        assert (container.generation, container.mapping_count) == (0, 1)
        last.close()
        assert (container.generation, container.mapping_count) == (1, 0)
        container.open_device(second)
        assert (container.generation, container.mappings()) == (1, ())
        container.map_dma(IOVA, memory, 0, SIZE)
        container.unmap_all()
        assert container.generation == 1


def test_a_last_group_that_left_unseen_is_noticed_when_the_next_one_comes() -> None:
    """Another object has closed it, as another process may."""
    kernel = SimKernel(edu_devices=2)
    first, second = edu_addresses(kernel)
    with Container(kernel=kernel) as container, Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=kernel) as memory:
        device = container.open_device(first)
        container.map_dma(IOVA, memory, 0, SIZE)
        device.close()
        (group,) = container.groups
        kernel.ioctl(group.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)
        container.open_device(second)
        assert (container.generation, container.mappings()) == (1, ())
        memory.discard(0, SIZE)
        container.map_dma(IOVA, memory, 0, SIZE)
