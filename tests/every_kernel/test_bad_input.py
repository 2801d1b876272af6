"""What the host lacks is a clear error, and nothing is left behind: no mapping, no descriptor, no pinned page."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyvfio import (
    Container,
    DeviceNotBound,
    GroupNotViable,
    Kernel,
    MappingLimitReached,
    MemlockExceeded,
    Memory,
    MemoryKind,
    MemoryUnavailable,
    VfioError,
)
from pyvfio.host import bind, restore, unbind
from pyvfio.kernel import DMA_ENTRY_LIMIT, huge_pages, read_text, write_text
from pyvfio.sim import SimKernel
from tests.support.kernels.hardware import shared_group
from tests.support.kernels.modes import Mode, Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed
from tests.support.memlock import memlock_limited

BLOCK = 2 * MEBIBYTE


@contextmanager
def nothing_left(kernel: Kernel, mode: Mode | None = None) -> Iterator[None]:
    """No descriptor more than before, and nothing charged."""
    before = descriptors(kernel), mode.charged(kernel) if mode else 0
    yield
    assert (descriptors(kernel), mode.charged(kernel) if mode else 0) == before


def descriptors(kernel: Kernel) -> int:
    """How many are open: of the simulated kernel, without what other threads of this process have open."""
    return len(kernel.process.files) if isinstance(kernel, SimKernel) else len(os.listdir("/proc/self/fd"))


def test_a_limit_on_locked_memory(space: Space, memory: Memory, mode: Mode, kernel: Kernel) -> None:
    with nothing_left(kernel, mode), memlock_limited(kernel, 2 * BLOCK):
        with pytest.raises(MemlockExceeded, match="RLIMIT_MEMLOCK is") as caught:
            space.map_dma(IOVA, memory, 0, 4 * BLOCK, granularity=BLOCK)
        assert caught.value.errno == errno.ENOMEM
        assert "ulimit -l" in caught.value.advice
        assert space.mappings() == ()
        space.map_dma(IOVA, memory, 0, 2 * BLOCK, granularity=BLOCK)
        with pytest.raises(MemlockExceeded):
            space.map_dma(IOVA + 2 * BLOCK, memory, 0, 4096)
        assert space.unmap_all() == 2 * BLOCK


def test_a_device_that_is_not_bound(mode: Mode, testbed: Testbed) -> None:
    kernel, address = testbed.kernel, testbed.devices[0]
    before = bind(kernel, address)
    unbind(kernel, address)
    try:
        with (
            nothing_left(kernel, mode),
            mode.open(kernel) as space,
            pytest.raises(DeviceNotBound, match=f"pyvfio bind {address}"),
        ):
            space.open_device(address)
    finally:
        bind(kernel, address)
        restore(kernel, before)


@pytest.mark.needs("shared-group")
def test_a_member_of_the_group_in_other_hands(mode: Mode, testbed: Testbed) -> None:
    kernel = testbed.kernel
    with shared_group(testbed) as (address, other), nothing_left(kernel, mode), mode.open(kernel) as space:
        with pytest.raises(VfioError, match=f"{other} is bound to virtio-pci.*pyvfio bind --group") as caught:
            space.open_device(address)
        assert caught.value.errno == errno.EPERM
        assert isinstance(caught.value, GroupNotViable) == isinstance(space, Container)
        before = bind(kernel, other)
        space.open_device(address)
        space.close()
        restore(kernel, before)


def test_a_limit_on_mappings(testbed: Testbed, memory: Memory) -> None:
    kernel = testbed.kernel
    before = read_text(kernel, DMA_ENTRY_LIMIT)
    write_text(kernel, DMA_ENTRY_LIMIT, "3")
    try:
        with Container(kernel=kernel) as container:
            container.open_device(testbed.devices[0])
            with pytest.raises(MappingLimitReached, match=r"It has 3 left.*blocks of 0x40_0000 or more"):
                container.map_dma(IOVA, memory, 0, memory.size, granularity=BLOCK)
            assert (container.mappings(), container.mappings_left) == ((), 3)
            container.map_dma(IOVA, memory, 0, memory.size, granularity=2 * BLOCK)
    finally:
        write_text(kernel, DMA_ENTRY_LIMIT, before)


def test_no_huge_pages(kernel: Kernel) -> None:
    if kernel.name == "simulated":
        kernel = SimKernel()
    size = (huge_pages(BLOCK, kernel).free + 1) * BLOCK
    with (
        nothing_left(kernel),
        pytest.raises(MemoryUnavailable, match="huge pages of 2048 KiB needed"),
        Memory.allocate(MemoryKind.HUGETLB, size, kernel=kernel) as memory,
    ):
        memory.populate(0, size)


def test_memory_that_cannot_be_had_is_found_out_while_mapping(space: Space, kernel: Kernel) -> None:
    if kernel.name == "simulated":
        # Ordinary pages stand in for huge ones there, and do not run out.
        return
    size = (huge_pages(BLOCK, kernel).free + 1) * BLOCK
    with Memory.allocate(MemoryKind.HUGETLB, size, kernel=kernel) as memory:
        with pytest.raises(MemoryUnavailable, match="Populate the memory first"):
            space.map_dma(0, memory, 0, size, granularity=BLOCK)
        assert space.mappings() == ()
