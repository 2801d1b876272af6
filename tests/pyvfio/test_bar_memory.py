"""BarMemory on kernels of several versions, and what it refuses. tests/every_kernel has what real ones do."""

from __future__ import annotations

import errno

import pytest

from pyvfio import BarMemory, Container, InvalidArgument, Ioas, Memory, MemoryKind, VfioError
from pyvfio.abi import vfio
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import SimKernel

IOVA = 0x1_0000_0000
BAR = 0x2_0000_0000
PAGE = 4096


@pytest.mark.parametrize(
    ("version", "code", "meaning"),
    [
        ((6, 12), errno.EOPNOTSUPP, "only as a dma-buf, and this kernel gives or takes none"),
        ((6, 19), errno.EINVAL, "takes no dma-buf of registers"),
        ((7, 2), 0, ""),
    ],
)
def test_an_ioas_by_version(version: tuple[int, int], code: int, meaning: str) -> None:
    kernel = SimKernel(edu_devices=2, version=version)
    first, second = edu_addresses(kernel)
    with Ioas(kernel=kernel) as ioas, Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=kernel) as memory:
        edu, peer = Edu(ioas.open_device(first)), ioas.open_device(second).region(0)
        bar = BarMemory(peer, 0, PAGE)
        if code:
            with pytest.raises(VfioError, match=meaning) as caught:
                ioas.map_dma(BAR, bar, 0, PAGE)
            assert caught.value.errno == code
            assert ioas.mappings() == ()
            return
        ioas.map_dma(IOVA, memory, 0, PAGE)
        ioas.map_dma(BAR, bar, 0, PAGE)
        edu.fetch(BAR, 4)
        edu.store(IOVA, 4)
        assert memory.read(0, 4) == b"\xed\x00\x00\x01"
        (pin,) = {run.memory for run in ioas.mappings()} - {memory}
        assert pin is bar


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 100), (100, PAGE), (-PAGE, PAGE), (0, 2 << 20), (1 << 20, PAGE), (0, 0)]
)
def test_only_whole_pages_that_can_be_mapped(offset: int, size: int) -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as container:
        region = container.open_device(edu_addresses(kernel)[0]).region(0)
        with pytest.raises(InvalidArgument, match="only whole pages of 0x1000"):
            BarMemory(region, offset, size)


@pytest.mark.parametrize("code", [errno.ENOTTY, errno.EOPNOTSUPP])
def test_without_a_dma_buf_registers_are_mapped_by_address(code: int) -> None:
    kernel = FaultyKernel(SimKernel(edu_devices=2, version=(7, 2)))
    first, second = edu_addresses(kernel)
    with Container(kernel=kernel) as container:
        container.open_device(first)
        peer = container.open_device(second).region(0)
        kernel.arm(Fault(None, "ioctl", vfio.VFIO_DEVICE_FEATURE, errno=code))
        bar = BarMemory(peer, 0, PAGE)
        assert bar.fd is None
        container.map_dma(BAR, bar, 0, PAGE)
        container.unmap_all()


def test_it_is_a_child_of_its_region() -> None:
    kernel = SimKernel(edu_devices=1, version=(7, 2))
    with Container(kernel=kernel) as container:
        region = container.open_device(edu_addresses(kernel)[0]).region(0)
        bar = BarMemory(region)
        assert (bar.size, bar.closed, bar.address != 0) == (region.size, False, True)
        region.close()
        assert (bar.closed, bar.address, bar.fd) == (True, 0, None)
