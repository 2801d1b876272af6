"""What the files of VFIO can do beside their ioctls, and how the rest is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvfio import Container, Ioas, Kernel
from pyvfio.abi import mman
from tests.support.kernels.testbed import Testbed

PAGE = 4096
IDENTIFICATION = bytes.fromhex("ed000001")
"""What edu has in its first register. In the second it has the complement of what is written there."""

Call = Callable[[Kernel, int], object]

READS_AND_WRITES: tuple[Call, ...] = (
    lambda kernel, fd: kernel.read(fd, 8),
    lambda kernel, fd: kernel.write(fd, bytes(8)),
    lambda kernel, fd: kernel.pread(fd, 8, 0),
    lambda kernel, fd: kernel.pwrite(fd, bytes(8), 0),
)


def require_only_ioctls(kernel: Kernel, fd: int) -> None:
    for call in READS_AND_WRITES:
        with pytest.raises(OSError, match="Invalid argument"):
            call(kernel, fd)


@pytest.mark.needs("type1")
def test_a_container_and_a_group_take_nothing_but_ioctls(testbed: Testbed, kernel: Kernel) -> None:
    with Container(kernel=kernel) as container:
        group = container.open_device(testbed.devices[0]).group
        assert group is not None
        for fd in (container.fd, group.fd):
            require_only_ioctls(kernel, fd)
            with pytest.raises(OSError, match="No such device"):
                kernel.mmap(PAGE, mman.PROT_READ, mman.MAP_SHARED, fd)


@pytest.mark.needs("iommufd")
def test_an_iommufd_is_neither_read_nor_written(kernel: Kernel) -> None:
    with Ioas(kernel=kernel) as space:
        require_only_ioctls(kernel, space.iommufd.fd)


@pytest.mark.needs("type1")
def test_a_device_is_read_from_its_first_register_on(testbed: Testbed, kernel: Kernel) -> None:
    with Container(kernel=kernel) as container:
        fd = container.open_device(testbed.devices[0]).fd
        assert kernel.read(fd, 4) == IDENTIFICATION
        assert kernel.write(fd, bytes.fromhex("78563412")) == 4
        assert kernel.pread(fd, 4, 4) == bytes.fromhex("87a9cbed")
