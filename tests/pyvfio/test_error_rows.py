"""Every errno the kernel answers with gets a meaning of its own, and says what to do; EINVAL alone reaches nobody."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from pyvfio import (
    AlreadyMapped,
    CdevDevice,
    Container,
    DeviceBusy,
    DeviceNotBound,
    Group,
    GroupBusy,
    Ioas,
    Iommufd,
    MappingLimitReached,
    MemlockExceeded,
    Memory,
    MemoryKind,
    MemoryUnavailable,
    OutsideIovaRanges,
    VfioError,
)
from pyvfio.abi import iommufd, vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import SimKernel

IOVA = 0x1_0000_0000
BLOCK = 2 << 20


class Bench:
    """Objects on a simulated kernel whose next call of a kind fails."""

    def __init__(self, stack: ExitStack, memlock: int | None) -> None:
        self.stack = stack
        simulated = SimKernel(edu_devices=2, memlock=memlock, ipc_lock=memlock is None)
        self.addresses = edu_addresses(simulated)
        self.kernel = FaultyKernel(simulated)

    def memory(self) -> Memory:
        return self.stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, 4 * BLOCK, kernel=self.kernel))

    def container(self) -> Container:
        container = self.stack.enter_context(Container(kernel=self.kernel))
        container.open_device(self.addresses[0])
        return container

    def ioas(self) -> Ioas:
        ioas = self.stack.enter_context(Ioas(kernel=self.kernel))
        ioas.open_device(self.addresses[0])
        return ioas

    def mapped(self, space: Container | Ioas) -> Container | Ioas:
        space.map_dma(IOVA, self.memory(), 0, 2 * BLOCK, granularity=BLOCK)
        return space


Act = Callable[[], object]


def opens_container(bench: Bench) -> Act:
    return lambda: Container(kernel=bench.kernel)


def opens_group(bench: Bench) -> Act:
    return lambda: Group(3, kernel=bench.kernel)


def opens_iommufd(bench: Bench) -> Act:
    return lambda: Iommufd(kernel=bench.kernel)


def attaches_group(bench: Bench) -> Act:
    container = bench.stack.enter_context(Container(kernel=bench.kernel))
    return lambda: container.open_group(3)


def opens_device(bench: Bench) -> Act:
    container = bench.stack.enter_context(Container(kernel=bench.kernel))
    group = container.open_group(3)
    return lambda: group.open_device(bench.addresses[0])


def maps(bench: Bench) -> Act:
    container, memory = bench.container(), bench.memory()
    return lambda: container.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)


def unmaps(bench: Bench) -> Act:
    space = bench.mapped(bench.container())
    return lambda: space.unmap_dma(IOVA, BLOCK)


def unmaps_everything(bench: Bench) -> Act:
    space = bench.mapped(bench.container())
    return space.unmap_everything


def asks_info(bench: Bench) -> Act:
    container = bench.container()
    return lambda: container.mappings_left


def tracks_dirty(bench: Bench) -> Act:
    container = bench.container()
    return container.track_dirty


def updates_live(bench: Bench) -> Act:
    container = bench.container()
    return lambda: container.invalidate_vaddrs()


def allocates_ioas(bench: Bench) -> Act:
    return lambda: Ioas(kernel=bench.kernel)


def maps_in_ioas(bench: Bench) -> Act:
    ioas, memory = bench.ioas(), bench.memory()
    return lambda: ioas.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)


def maps_anywhere(bench: Bench) -> Act:
    ioas, memory = bench.ioas(), bench.memory()
    return lambda: ioas.map_anywhere(memory, 0, BLOCK)


def copies(bench: Bench) -> Act:
    ioas = bench.ioas()
    bench.mapped(ioas)
    copy = Ioas(ioas.iommufd)
    return lambda: copy.copy_from(ioas, IOVA, BLOCK, IOVA)


def unmaps_from_ioas(bench: Bench) -> Act:
    space = bench.mapped(bench.ioas())
    return lambda: space.unmap_dma(IOVA, BLOCK)


def asks_ranges(bench: Bench) -> Act:
    ioas = bench.ioas()
    return lambda: ioas.iova_ranges


def binds(bench: Bench) -> Act:
    opened = bench.stack.enter_context(Iommufd(kernel=bench.kernel))
    return lambda: CdevDevice(opened, bench.addresses[0])


def attaches_device(bench: Bench) -> Act:
    ioas = bench.stack.enter_context(Ioas(kernel=bench.kernel))
    return lambda: ioas.open_device(bench.addresses[0])


def detaches_device(bench: Bench) -> Act:
    (device,) = bench.ioas().devices
    return device.detach


def makes_page_table(bench: Bench) -> Act:
    ioas = bench.ioas()
    return lambda: ioas.page_table(ioas.devices[0])


@dataclass(frozen=True, slots=True)
class Row:
    """What is done, which call fails, and with which errno's; expected: by errno, where a caller would branch."""

    prepare: Callable[[Bench], Act]
    fault: str | int
    errnos: tuple[int, ...]
    expected: tuple[tuple[int, type[VfioError]], ...] = ()


_MAP = (
    (errno.EEXIST, AlreadyMapped),
    (errno.EFAULT, MemoryUnavailable),
    (errno.ENOMEM, MemoryUnavailable),
    (errno.EINVAL, OutsideIovaRanges),
    (errno.EOVERFLOW, OutsideIovaRanges),
)
_MAP_ERRNOS = (
    *(code for code, _ in _MAP),
    errno.EOPNOTSUPP,
    errno.EINTR,
    errno.ENODEV,
    errno.EIO,
    errno.EBUSY,
    errno.EPERM,
)
_OPEN = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_IOMMUFD = (errno.ENOENT, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBUSY, errno.ENOMEM, errno.EFAULT, errno.EINVAL)

ROWS = [
    Row(opens_container, "open", _OPEN),
    Row(opens_iommufd, "open", _OPEN),
    Row(
        opens_group,
        "open",
        (errno.EBUSY, errno.EACCES, errno.EPERM, errno.ENODEV, errno.EMFILE, errno.ENOMEM),
        ((errno.EBUSY, GroupBusy), (errno.ENODEV, DeviceNotBound)),
    ),
    Row(attaches_group, vfio.VFIO_GROUP_GET_STATUS, (errno.EINVAL, errno.ENODEV)),
    Row(
        attaches_group,
        vfio.VFIO_GROUP_SET_CONTAINER,
        (
            errno.EPERM,
            errno.EINVAL,
            errno.EBADF,
            errno.EBADFD,
            errno.EBUSY,
            errno.ENODEV,
            errno.EIO,
            errno.EFAULT,
            errno.ENOMEM,
        ),
    ),
    Row(attaches_group, vfio.VFIO_SET_IOMMU, (errno.EPERM, errno.EINVAL, errno.ENODEV, errno.EIO, errno.ENOMEM)),
    Row(asks_info, vfio.VFIO_IOMMU_GET_INFO, (errno.EINVAL, errno.ENODEV, errno.EFAULT)),
    Row(
        opens_device,
        vfio.VFIO_GROUP_GET_DEVICE_FD,
        (errno.ENODEV, errno.EINVAL, errno.EPERM, errno.EBUSY, errno.EMFILE),
        ((errno.ENODEV, DeviceNotBound),),
    ),
    Row(
        maps,
        vfio.VFIO_IOMMU_MAP_DMA,
        (*_MAP_ERRNOS, errno.ENOSPC),
        (*_MAP, (errno.ENOSPC, MappingLimitReached)),
    ),
    Row(unmaps, vfio.VFIO_IOMMU_UNMAP_DMA, (errno.EINVAL, errno.EOVERFLOW, errno.EFAULT, errno.EIO)),
    Row(unmaps_everything, vfio.VFIO_IOMMU_UNMAP_DMA, (errno.EINVAL, errno.EBUSY)),
    Row(
        tracks_dirty,
        vfio.VFIO_IOMMU_DIRTY_PAGES,
        (errno.EACCES, errno.EINVAL, errno.ENOTTY, errno.ENOMEM, errno.EFAULT),
    ),
    Row(updates_live, vfio.VFIO_IOMMU_UNMAP_DMA, (errno.EINVAL, errno.EBUSY)),
    Row(allocates_ioas, iommufd.IOMMU_IOAS_ALLOC, _IOMMUFD),
    Row(maps_in_ioas, iommufd.IOMMU_IOAS_MAP, (*_MAP_ERRNOS, errno.ENOENT), _MAP),
    Row(maps_anywhere, iommufd.IOMMU_IOAS_MAP, (*_MAP_ERRNOS, errno.ENOSPC, errno.ENOENT)),
    Row(copies, iommufd.IOMMU_IOAS_COPY, (*_MAP_ERRNOS, errno.ENOENT)),
    Row(unmaps_from_ioas, iommufd.IOMMU_IOAS_UNMAP, (errno.EINVAL, errno.EOVERFLOW, errno.EBUSY, errno.EFAULT)),
    Row(asks_ranges, iommufd.IOMMU_IOAS_IOVA_RANGES, (errno.ENOENT, errno.EFAULT, errno.EMSGSIZE)),
    Row(
        binds,
        vfio.VFIO_DEVICE_BIND_IOMMUFD,
        (errno.EBUSY, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENOTTY),
        ((errno.EBUSY, DeviceBusy), (errno.EINVAL, DeviceBusy)),
    ),
    Row(
        attaches_device,
        vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT,
        (errno.EADDRINUSE, errno.EFAULT, errno.ENOMEM, errno.EINVAL, errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP),
    ),
    Row(detaches_device, vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, (errno.EINVAL, errno.ENOTTY)),
    Row(makes_page_table, iommufd.IOMMU_HWPT_ALLOC, (*_IOMMUFD, errno.EADDRINUSE)),
]
CASES = [
    pytest.param(row, code, id=f"{row.prepare.__name__}-{row.fault:#x}-{errno.errorcode[code]}")
    if isinstance(row.fault, int)
    else pytest.param(row, code, id=f"{row.prepare.__name__}-{row.fault}-{errno.errorcode[code]}")
    for row in ROWS
    for code in row.errnos
]


def refuse(row: Row, code: int, memlock: int | None = None) -> VfioError:
    with ExitStack() as stack:
        bench = Bench(stack, memlock)
        act = row.prepare(bench)
        name, request = ("ioctl", row.fault) if isinstance(row.fault, int) else (row.fault, None)
        bench.kernel.arm(Fault(name=name, request=request, errno=code))
        try:
            act()
        except VfioError as error:
            return error
        finally:
            bench.kernel.arm()
    pytest.fail("nothing was raised")


@pytest.mark.parametrize(("row", "code"), CASES)
def test_every_errno_is_explained(row: Row, code: int) -> None:
    error = refuse(row, code)
    assert error.meaning != os.strerror(code)
    assert error.meaning
    assert error.advice or code == errno.EINTR
    for expected, kind in row.expected:
        assert code != expected or isinstance(error, kind)


@pytest.mark.parametrize("prepare", [maps, maps_in_ioas])
def test_a_limit_on_locked_memory_is_told_from_memory_that_is_out(prepare: Callable[[Bench], Act]) -> None:
    request = vfio.VFIO_IOMMU_MAP_DMA if prepare is maps else iommufd.IOMMU_IOAS_MAP
    error = refuse(Row(prepare, request, (errno.ENOMEM,)), errno.ENOMEM, memlock=BLOCK // 2)
    assert isinstance(error, MemlockExceeded)
    assert "RLIMIT_MEMLOCK is 0x10_0000" in error.meaning
    assert "ulimit -l" in error.advice


def test_a_mapping_limit_says_which_blocks_would_fit() -> None:
    kernel = SimKernel(edu_devices=1, dma_entry_limit=5)
    with Container(kernel=kernel) as container, Memory.allocate(MemoryKind.MEMFD, 16 * BLOCK, kernel=kernel) as memory:
        container.open_device(edu_addresses(kernel)[0])
        container.map_dma(0, memory, 0, BLOCK)
        with pytest.raises(MappingLimitReached, match=r"It has 4 left.*fit with blocks of 0x80_0000 or more") as caught:
            container.map_dma(IOVA, memory, 0, 16 * BLOCK, granularity=BLOCK)
        assert "the container holds 5 mappings" in str(caught.value)
        assert container.mapping_count == 1
        container.map_dma(IOVA, memory, 0, 16 * BLOCK, granularity=4 * BLOCK)
