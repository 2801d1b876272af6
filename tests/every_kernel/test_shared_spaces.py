"""Address spaces that two programs map into: neither takes away what the other has mapped."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from pyvfio import (
    CdevDevice,
    ClosedError,
    Container,
    Ioas,
    Iommufd,
    IommuType,
    Kernel,
    Memory,
    SharedContainer,
    SharedIoas,
    VfioError,
)
from pyvfio.drivers.edu import Edu
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed

PIECE = MEBIBYTE // 4
MESSAGE = bytes(range(256)) * 4


def held(space: Container | Ioas) -> list[tuple[int, int]]:
    return [(run.iova - IOVA, run.size) for run in space.mappings()]


def test_what_an_owner_has_mapped_in_a_hole_stays(
    container: Container, engine: Edu, kernel: Kernel, memory: Memory
) -> None:
    with SharedContainer.from_fd(kernel.dup(container.fd), kernel=kernel) as shared:
        shared.map_dma(IOVA, memory, 0, PIECE)
        shared.map_dma(IOVA + 2 * PIECE, memory, 2 * PIECE, PIECE)
        container.map_dma(IOVA + PIECE, memory, PIECE, PIECE)
        memory.write(PIECE, MESSAGE)
        assert shared.unmap_dma(IOVA, 4 * PIECE) == 2 * PIECE
        engine.fetch(IOVA + PIECE, len(MESSAGE))
        shared.map_dma(IOVA, memory, 0, PIECE)
        shared.map_dma(IOVA + 2 * PIECE, memory, 2 * PIECE, PIECE)
        engine.store(IOVA + 2 * PIECE, len(MESSAGE))
        assert memory.read(2 * PIECE, len(MESSAGE)) == MESSAGE
    # Closing it is the same.
    engine.store(IOVA + PIECE + 4096, len(MESSAGE))
    assert memory.read(PIECE + 4096, len(MESSAGE)) == MESSAGE
    container.map_dma(IOVA, memory, 0, PIECE)
    assert held(container) == [(0, PIECE), (PIECE, PIECE)]
    assert container.unmap_dma(IOVA, 2 * PIECE) == 2 * PIECE


def test_what_cuts_a_mapping_is_refused_with_nothing_changed(
    container: Container, kernel: Kernel, memory: Memory
) -> None:
    with SharedContainer.from_fd(kernel.dup(container.fd), kernel=kernel) as shared:
        shared.map_dma(IOVA, memory, 0, PIECE)
        shared.map_dma(IOVA + 2 * PIECE, memory, 2 * PIECE, PIECE)
        for iova, size in ((IOVA, 2 * PIECE + 4096), (IOVA + PIECE, PIECE), (IOVA, 0)):
            with pytest.raises(VfioError):
                shared.unmap_dma(iova, size)
        assert held(shared) == [(0, PIECE), (2 * PIECE, PIECE)]
        assert shared.unmap_all() == 2 * PIECE


FINDINGS: dict[str, Callable[[SharedContainer, Memory], object]] = {
    "map": lambda shared, memory: shared.map_dma(IOVA + PIECE, memory, 0, PIECE),
    "left": lambda shared, _: shared.mappings_left,
    "layout": lambda shared, _: shared.iova_ranges,
}


@pytest.mark.parametrize("finding", [*FINDINGS, "unmap"])
def test_a_container_that_its_owner_has_left_is_closed(
    kernel: Kernel, testbed: Testbed, memory: Memory, finding: str
) -> None:
    with Container(kernel=kernel) as owner:
        owner.open_device(testbed.devices[0])
        shared = SharedContainer.from_fd(kernel.dup(owner.fd), kernel=kernel, iommu_type=IommuType.TYPE1v2)
        shared.map_dma(IOVA, memory, 0, PIECE)
    assert held(shared) == [(0, PIECE)]
    if finding == "unmap":
        # The kernel has done it already.
        assert shared.unmap_dma(IOVA, PIECE) == PIECE
    else:
        with pytest.raises(ClosedError, match="its owner's last group has left"):
            FINDINGS[finding](shared, memory)
    assert shared.closed
    assert held(shared) == []


def test_a_container_without_a_group_is_none_to_map_into(kernel: Kernel, testbed: Testbed) -> None:
    del testbed
    with Container(kernel=kernel) as owner, pytest.raises(VfioError, match="no group is in it") as caught:
        SharedContainer.from_fd(kernel.dup(owner.fd), kernel=kernel)
    assert caught.value.errno == errno.EINVAL


def test_what_is_no_container_is_none(kernel: Kernel, testbed: Testbed) -> None:
    del testbed
    with pytest.raises(VfioError, match="no VFIO container"):
        SharedContainer.from_fd(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), kernel=kernel)


@pytest.mark.needs("iommufd", "cdev")
def test_an_ioas_of_somebody_else_stays_with_what_they_have_mapped(
    kernel: Kernel, testbed: Testbed, memory: Memory
) -> None:
    with Iommufd(kernel=kernel) as owner, Ioas(owner) as ioas, Edu(ioas.open_device(testbed.devices[0])) as engine:
        with Iommufd.from_fd(kernel.dup(owner.fd), kernel=kernel) as lent, SharedIoas(lent, ioas.id) as shared:
            shared.map_dma(IOVA, memory, 0, PIECE)
            ioas.map_dma(IOVA + PIECE, memory, PIECE, PIECE)
            shared.map_dma(IOVA + 2 * PIECE, memory, 2 * PIECE, PIECE)
            memory.write(0, MESSAGE)
            engine.fetch(IOVA, len(MESSAGE))
            assert shared.unmap_dma(IOVA, 3 * PIECE) == 2 * PIECE
            shared.map_dma(IOVA, memory, 0, PIECE)
        engine.store(IOVA + PIECE, len(MESSAGE))
        assert memory.read(PIECE, len(MESSAGE)) == MESSAGE
        ioas.map_dma(IOVA, memory, 0, PIECE)
        with Iommufd.from_fd(kernel.dup(owner.fd), kernel=kernel) as lent, pytest.raises(VfioError) as caught:
            SharedIoas(lent, ioas.id + 1000)
        assert caught.value.errno == errno.ENOENT


@pytest.mark.needs("iommufd", "cdev")
def test_an_ioas_that_was_made_for_somebody_else_outlives_its_maker_while_it_is_used(
    kernel: Kernel, testbed: Testbed, memory: Memory
) -> None:
    with Iommufd(kernel=kernel) as owner, Iommufd.from_fd(kernel.dup(owner.fd), kernel=kernel) as lent:
        with SharedIoas(lent) as made:
            made.map_dma(IOVA, memory, 0, PIECE)
            users = SharedIoas(owner, made.id)
            device = CdevDevice(owner, testbed.devices[0])
            device.attach(users)
        with SharedIoas(lent, made.id) as again:
            again.map_dma(IOVA, memory, 0, PIECE)
        device.close()
        users.close()
        with SharedIoas(lent) as unused:
            number = unused.id
        with pytest.raises(VfioError):
            SharedIoas(lent, number)
