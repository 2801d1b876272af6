"""Container: what it says and what it keeps when a call to the kernel fails."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pyvfio import (
    ClosedError,
    Container,
    DeviceBusy,
    Group,
    IommuType,
    MemlockExceeded,
    Memory,
    MemoryKind,
    MemoryUnavailable,
    VfioError,
)
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


def shared(kernel: SimKernel, owner: Container) -> Container:
    """The container of owner, as another process has it."""
    return Container.from_fd(kernel.dup(owner.fd), kernel=kernel, iommu_type=IommuType.TYPE1v2)


def numbers(kernel: SimKernel) -> list[int]:
    """The groups of the edu devices."""
    groups = [pci_device(kernel, address).group for address in edu_addresses(kernel)]
    return [group for group in groups if group is not None]


@pytest.mark.parametrize("path", ["/dev/vfio/vfio", "/dev/iommu"])
def test_mappings_stay_while_another_process_has_a_group_in_the_container(path: str) -> None:
    kernel = SimKernel(edu_devices=2)
    first, second = numbers(kernel)
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=kernel) as memory,
        Container(kernel=kernel, path=path) as owner,
    ):
        owner.open_device(edu_addresses(kernel)[0])
        assert owner.groups[0].number == first
        with shared(kernel, owner) as received:
            for _ in range(2):
                group = received.open_group(second)
                if not received.mapping_count:
                    received.map_dma(IOVA, memory, 0, SIZE)
                group.close()
                assert (received.mapping_count, received.generation) == (1, 0)
                assert received.iommu_type is IommuType.TYPE1v2
            assert received.unmap_dma(IOVA, SIZE) == SIZE


@pytest.mark.parametrize("leaves", ["close", "detach"])
def test_dirty_tracking_ends_with_the_last_group(leaves: str) -> None:
    kernel = SimKernel(edu_devices=1)
    (number,) = numbers(kernel)
    container = Container(kernel=kernel)
    group = container.open_group(number)
    tracking = container.track_dirty()
    if leaves == "detach":
        container.detach(group)
    group.close()
    container.open_group(number)
    with pytest.raises(ClosedError, match=r"ended when the last group left.*track_dirty\(\) again"):
        tracking.read(IOVA, SIZE)
    again = container.track_dirty()
    tracking.close()
    assert again.read(IOVA, SIZE).bits == 0
    for each in container.groups:
        each.close()
    container.close()
    assert again.closed


def test_dirty_tracking_whose_last_group_left_unseen_closes() -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as container:
        group = container.open_group(*numbers(kernel))
        container.track_dirty()
        kernel.ioctl(group.fd, vfio.VFIO_GROUP_UNSET_CONTAINER)


def test_one_dirty_tracking_at_a_time() -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as container:
        container.open_device(edu_addresses(kernel)[0])
        tracking = container.track_dirty()
        with pytest.raises(DeviceBusy, match="there is one at a time"):
            container.track_dirty()
        assert tracking.read(IOVA, SIZE).bits == 0
        tracking.close()
        container.track_dirty()


class Restorer:
    """What on_attach() calls: it does something once."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act

    def restore(self) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()


@pytest.mark.parametrize("name", ["container", "group", "detach"])
def test_who_maps_again_may_close_what_is_being_attached(name: str) -> None:
    kernel = SimKernel(edu_devices=1)
    (number,) = numbers(kernel)
    with Container(kernel=kernel) as container:
        acts: dict[str, Callable[[], object]] = {
            "container": container.close,
            "group": lambda: container.groups[0].close(),
            "detach": lambda: container.detach(container.groups[0]),
        }
        restorer = Restorer(acts[name])
        container.on_attach(restorer.restore)
        kind, meaning = (VfioError, "has taken it out again") if name == "detach" else (ClosedError, "it is closed")
        with pytest.raises(kind, match=meaning):
            container.open_group(number)
        assert container.groups == ()
        if name != "container":
            container.open_group(number)
    Group(number, kernel=kernel).close()


def test_a_refusal_of_who_maps_again_is_raised_though_it_has_closed_the_group() -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as container:

        def refuse() -> None:
            container.groups[0].close()
            raise LookupError("refused")

        restorer = Restorer(refuse)
        container.on_attach(restorer.restore)
        with pytest.raises(LookupError):
            container.open_group(*numbers(kernel))
        assert container.groups == ()
