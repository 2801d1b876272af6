"""A kernel whose answers cannot be true: what it has not confirmed stays known, and is told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from pyvfio import Container, Ioas, Memory, MemoryKind, ShortUnmap, StillMapped, VfioError
from pyvfio.abi import iommufd, vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import Call, FalseUnmap, Fault, FaultyKernel, Rule
from pyvfio.faults import ShortUnmap as Shortened
from pyvfio.sim import SimKernel
from tests.support.kernels.held import held_by

BLOCK = 0x10_000
IOVA = 0x1_0000_0000
SIZE = 3 * BLOCK
Space = Container | Ioas
WAYS: dict[str, Callable[[FaultyKernel], Space]] = {
    "container": lambda kernel: Container(kernel=kernel),
    "iommufd": lambda kernel: Ioas(kernel=kernel),
}
UNMAPS = {"container": vfio.VFIO_IOMMU_UNMAP_DMA, "iommufd": iommufd.IOMMU_IOAS_UNMAP}
MAPS = {"container": vfio.VFIO_IOMMU_MAP_DMA, "iommufd": iommufd.IOMMU_IOAS_MAP}


class World:
    """Three blocks of memory, mapped one by one."""

    def __init__(self, way: str) -> None:
        self.simulated = SimKernel(edu_devices=1)
        self.kernel = FaultyKernel(self.simulated)
        self.memory = Memory.allocate(MemoryKind.ANONYMOUS, SIZE, kernel=self.kernel)
        self.space = WAYS[way](self.kernel)
        self.space.open_device(edu_addresses(self.simulated)[0])
        self.memory.populate(0, SIZE)
        self.space.map_dma(IOVA, self.memory, 0, SIZE, granularity=BLOCK)

    @property
    def held(self) -> int:
        """How many bytes the kernel really has mapped."""
        return sum(size for _, size, _ in held_by(self.simulated, self.space, self.memory))

    def expect_kept(self, blocks: int) -> None:
        """The last blocks are mapped, known, in doubt, and not discarded; another try takes them off."""
        assert self.held == blocks * BLOCK
        (run,) = self.space.mappings()
        assert (run.end, run.size) == (IOVA + SIZE, blocks * BLOCK)
        assert self.space.unconfirmed() == (run,)
        with pytest.raises(StillMapped):
            self.memory.discard(SIZE - BLOCK, BLOCK)
        self.kernel.arm()
        assert self.space.unmap_dma(IOVA, SIZE) == blocks * BLOCK
        assert (self.space.mappings(), self.space.unconfirmed(), self.held) == ((), (), 0)
        self.memory.discard(0, SIZE)


@contextmanager
def a_world(way: str) -> Iterator[World]:
    world = World(way)
    try:
        yield world
    finally:
        world.kernel.arm()
        world.space.close()
        world.memory.close()


LIES: dict[str, Callable[[str], tuple[Rule, ...]]] = {
    "nothing was mapped there, twice": lambda _way: (Shortened(size=0),),
    "no such mapping, twice": lambda way: (Fault(request=UNMAPS[way], errno=errno.ENOENT),),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lie", LIES)
def test_what_is_said_to_be_gone_and_is_not_stays_in_the_books(lie: str, way: str) -> None:
    """EEXIST on mapping again proves that the kernel has it."""
    with a_world(way) as world:
        world.kernel.arm(*LIES[lie](way))
        with pytest.raises(ShortUnmap, match="0x3_0000 bytes may be mapped still") as caught:
            world.space.unmap_dma(IOVA, SIZE)
        assert caught.value.remaining == SIZE
        assert world.kernel.calls.count(Call("ioctl", MAPS[way])) == 3
        world.expect_kept(3)


@pytest.mark.parametrize("way", WAYS)
def test_an_unmap_that_comes_back_short_and_then_fails(way: str) -> None:
    with a_world(way) as world:
        request = UNMAPS[way]
        # The first block goes with the first call; asked one by one, the second is refused and so is the third.
        failures = [Fault(nth, request=request, errno=errno.EIO) for nth in (2, 3)]
        world.kernel.arm(Shortened(0, size=BLOCK), *failures)
        with pytest.raises(ShortUnmap, match="0x2_0000 bytes may be mapped still") as caught:
            world.space.unmap_dma(IOVA, SIZE)
        assert (caught.value.remaining, type(caught.value.__cause__)) == (2 * BLOCK, VfioError)
        world.expect_kept(2)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_gone_though_the_kernel_denied_it_is_believed_when_it_can_be_mapped_again(way: str) -> None:
    with a_world(way) as world:
        if isinstance(world.space, Ioas):
            of_ioas = iommufd.iommu_ioas_unmap(ioas_id=world.space.id, iova=IOVA, length=SIZE)
            world.kernel.ioctl(world.space.iommufd.fd, iommufd.IOMMU_IOAS_UNMAP, of_ioas)
        else:
            argument = vfio.vfio_iommu_type1_dma_unmap(iova=IOVA, size=SIZE)
            world.kernel.ioctl(world.space.fd, vfio.VFIO_IOMMU_UNMAP_DMA, argument)
        with pytest.raises(ShortUnmap, match="All of it has been unmapped one by one") as caught:
            world.space.unmap_dma(IOVA, SIZE)
        assert caught.value.remaining == 0
        assert (world.space.mappings(), world.space.unconfirmed(), world.held) == ((), (), 0)


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_found_out_is_told(way: str) -> None:
    """Mapping again fails for want of memory, which says nothing of what is mapped."""
    with a_world(way) as world:
        world.kernel.arm(Shortened(size=0), Fault(request=MAPS[way], errno=errno.ENOMEM))
        with pytest.raises(ShortUnmap):
            world.space.unmap_dma(IOVA, SIZE)
        world.expect_kept(3)


@pytest.mark.parametrize("way", WAYS)
def test_memory_of_a_container_that_cannot_be_unmapped_is_held(way: str) -> None:
    """A refusal to unmap leaves everything as it was."""
    with a_world(way) as world:
        world.kernel.arm(Fault(request=UNMAPS[way], errno=errno.EIO))
        with pytest.raises(VfioError, match="nothing was unmapped"):
            world.space.unmap_dma(IOVA, SIZE)
        assert (world.held, world.space.unconfirmed()) == (SIZE, ())
        world.kernel.arm()
        assert world.space.unmap_all() == SIZE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gone", [BLOCK, SIZE])
def test_what_a_refusal_has_taken_all_the_same_is_mapped_again(gone: int, way: str) -> None:
    with a_world(way) as world:
        world.kernel.arm(FalseUnmap(unmaps=gone, errno=errno.EFAULT))
        with pytest.raises(VfioError, match=f"{gone:#_x} bytes had gone; they are mapped again"):
            world.space.unmap_dma(IOVA, SIZE)
        assert (world.held, world.space.unconfirmed()) == (SIZE, ())


@pytest.mark.parametrize("way", WAYS)
def test_what_a_refusal_may_have_taken_is_confirmed_when_the_kernel_maps_it_again(way: str) -> None:
    with a_world(way) as world:
        refused = FalseUnmap(unmaps=BLOCK, errno=errno.EIO)
        world.kernel.arm(refused, Fault(request=MAPS[way], errno=errno.ENOMEM))
        with pytest.raises(VfioError, match="does not tell either whether 0x3_0000 bytes are mapped still"):
            world.space.unmap_dma(IOVA, SIZE)
        assert world.held == 2 * BLOCK
        assert world.space.confirm(IOVA, SIZE) == world.space.unconfirmed() == world.space.mappings()
        world.kernel.arm()
        assert world.space.confirm(IOVA, SIZE) == world.space.unconfirmed() == ()
        assert world.held == SIZE
        # Nothing is in doubt, so nothing is asked.
        calls = len(world.kernel.calls)
        assert world.space.confirm(IOVA, SIZE) == ()
        assert len(world.kernel.calls) == calls


# Whether the kernel maps files is found out by asking.


def a_shared_world(version: tuple[int, int]) -> tuple[FaultyKernel, Ioas, Memory]:
    simulated = SimKernel(edu_devices=1, version=version)
    kernel = FaultyKernel(simulated)
    space = Ioas(kernel=kernel)
    space.open_device(edu_addresses(simulated)[0])
    return kernel, space, Memory.allocate(MemoryKind.MEMFD, SIZE, kernel=kernel)


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EINTR, errno.EFAULT, errno.EIO])
@pytest.mark.parametrize("version", [(6, 12), (7, 2)])
def test_one_failed_question_whether_files_can_be_mapped_is_asked_again(version: tuple[int, int], code: int) -> None:
    kernel, space, memory = a_shared_world(version)
    with memory, space:
        kernel.arm(Fault(0, request=iommufd.IOMMU_IOAS_MAP_FILE, errno=code))
        for _ in range(3):
            space.map_dma(IOVA, memory, 0, SIZE)
            assert space.unmap_all() == SIZE
        by_address = kernel.calls.count(Call("ioctl", iommufd.IOMMU_IOAS_MAP))
        assert by_address == (1 if version >= (7, 0) else 3)


@pytest.mark.parametrize("what", ["a BAR", "bytes"])
def test_what_is_no_memory_is_refused_with_words(what: str) -> None:
    kernel = SimKernel(edu_devices=1)
    with Container(kernel=kernel) as container:
        region = container.open_device(edu_addresses(kernel)[0]).region(0)
        target: object = region if what == "a BAR" else bytearray(4096)
        with pytest.raises(VfioError, match=r"no memory that devices can be let reach.*BarMemory") as caught:
            container.map_dma(IOVA, cast(Memory, target), 0, 4096)
        assert caught.value.errno == errno.EINVAL
