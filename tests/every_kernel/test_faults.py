"""Faults on demand, on both kernels."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

import pytest

from pyvfio import Container, Kernel, Memory, MemoryKind, VfioError
from pyvfio.abi import vfio
from pyvfio.errors import ShortUnmap as ShortUnmapError
from pyvfio.faults import Before, Fault, FaultyKernel, Hold, ShortUnmap, Vanish
from pyvfio.kernel import memlock
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed

BLOCK = 2 * MEBIBYTE


@pytest.fixture
def faulty(kernel: Kernel) -> FaultyKernel:
    return FaultyKernel(kernel)


@pytest.fixture
def faulty_container(faulty: FaultyKernel, testbed: Testbed) -> Iterator[Container]:
    with Container(kernel=faulty) as container:
        container.open_device(testbed.devices[0])
        yield container


@pytest.fixture
def faulty_memory(faulty: FaultyKernel) -> Iterator[Memory]:
    with Memory.allocate(MemoryKind.ANONYMOUS, 4 * BLOCK, kernel=faulty) as memory:
        memory.populate(0, memory.size)
        yield memory


def test_the_nth_call_fails_and_no_other(
    faulty_container: Container, faulty_memory: Memory, faulty: FaultyKernel
) -> None:
    faulty.arm(Fault(2, request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOMEM))
    before = memlock(faulty).charged
    with pytest.raises(VfioError) as caught:
        faulty_container.map_dma(IOVA, faulty_memory, 0, 4 * BLOCK, granularity=BLOCK)
    assert caught.value.errno == errno.ENOMEM
    assert faulty_container.mapping_count == 0
    assert memlock(faulty).charged == before
    faulty_container.map_dma(IOVA, faulty_memory, 0, 4 * BLOCK, granularity=BLOCK)


def test_every_call_that_matches_fails(
    faulty_container: Container, faulty_memory: Memory, faulty: FaultyKernel
) -> None:
    faulty.arm(Fault(request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.EFAULT))
    for _ in range(3):
        with pytest.raises(VfioError) as caught:
            faulty_container.map_dma(IOVA, faulty_memory, 0, BLOCK)
        assert caught.value.errno == errno.EFAULT


def test_rules_compose(faulty_container: Container, faulty_memory: Memory, faulty: FaultyKernel) -> None:
    ran: list[str] = []
    faulty.arm(
        Before(request=vfio.VFIO_IOMMU_MAP_DMA, action=lambda: ran.append("map")),
        Fault(1, request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.ENOSPC),
        Fault(0, request=vfio.VFIO_IOMMU_UNMAP_DMA, errno=errno.EIO),
    )
    with pytest.raises(VfioError) as caught:
        faulty_container.map_dma(IOVA, faulty_memory, 0, 4 * BLOCK, granularity=BLOCK)
    assert ran == ["map", "map"]
    assert caught.value.errno == errno.ENOSPC
    assert faulty_container.mapping_count == 1
    assert faulty_container.unmap_all() == BLOCK


def test_an_unmap_comes_up_short(faulty_container: Container, faulty_memory: Memory, faulty: FaultyKernel) -> None:
    faulty_container.map_dma(IOVA, faulty_memory, 0, 4 * BLOCK, granularity=BLOCK)
    faulty.arm(ShortUnmap(0, size=BLOCK))
    with pytest.raises(ShortUnmapError):
        faulty_container.unmap_dma(IOVA, 4 * BLOCK)
    assert faulty_container.mapping_count == 0


def test_a_slow_map_holds_up_its_caller_only(
    faulty_container: Container, faulty_memory: Memory, faulty: FaultyKernel
) -> None:
    slow = Hold(0, request=vfio.VFIO_IOMMU_MAP_DMA)
    faulty.arm(slow)
    mapper = threading.Thread(target=faulty_container.map_dma, args=(IOVA, faulty_memory, 0, BLOCK))
    mapper.start()
    assert slow.reached.wait(10)
    assert mapper.is_alive()
    assert memlock(faulty).charged >= 0
    slow.released.set()
    mapper.join(10)
    assert faulty_container.unmap_all() == BLOCK


def test_a_device_is_pulled_out(faulty_container: Container, faulty: FaultyKernel, testbed: Testbed) -> None:
    device = faulty_container.open_device(testbed.devices[0])
    other = faulty_container.open_device(testbed.devices[1])
    copy = faulty.dup(device.fd)
    bar = device.region(0)
    assert bar.read32(0) == 0x0100_00ED
    faulty.vanish(testbed.devices[0])
    assert device.config.vendor_id == 0xFFFF
    assert bar.read32(0) == 0xFFFF_FFFF
    bar.write32(4, 1)
    with pytest.raises(VfioError) as caught:
        device.reset()
    assert caught.value.errno == errno.ENODEV
    assert other.config.vendor_id == 0x1234
    assert faulty.pread(copy, 2, 0) == b"\xff\xff"
    faulty.close(copy)
    device.close()


def test_a_device_is_pulled_out_at_a_call(faulty_container: Container, faulty: FaultyKernel, testbed: Testbed) -> None:
    device = faulty_container.open_device(testbed.devices[0])
    faulty.arm(Vanish(1, name="pread", address=testbed.devices[0]))
    assert device.config.vendor_id == 0x1234
    assert device.config.vendor_id == 0xFFFF
