"""A kernel that lies about what it unmaps, below a device: no page is discarded under a pin, and nothing is kept quiet.

One lie is none that anybody could tell: an answer of just the bytes that are asked for is believed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvfio import Container, Ioas, Memory, MemoryKind, VfioError
from pyvfio.abi import iommufd, vfio
from pyvfio.drivers.edu import edu_addresses
from pyvfio.faults import FalseUnmap, Fault, FaultyKernel, Rule
from pyvfio.kernel import IoctlArgument
from pyvfio.sim import SimKernel
from tests.support.kernels.held import held_by
from tests.support.thorough import examples
from virtiomem import DmaMapper, GuestIommu, VirtioMem
from virtiomem.device import Request, RequestType, Response, ResponseType
from virtiomem.runs import Run, union

BLOCK = 2 << 20
BLOCKS = 6
ADDRESS = 1 << 32
WAYS: dict[str, Callable[[FaultyKernel], Container | Ioas]] = {
    "container": lambda kernel: Container(kernel=kernel),
    "iommufd": lambda kernel: Ioas(kernel=kernel),
}
MAPS = {"container": vfio.VFIO_IOMMU_MAP_DMA, "iommufd": iommufd.IOMMU_IOAS_MAP}


class LyingKernel(FaultyKernel):
    """lies: what becomes of each next unmap: how many blocks of it really come off, and how many it says did (None: it
    fails with the errno), and the errno. began_in_doubt: whether a request began with mappings that nobody knows of.
    Whatever is discarded must not be pinned."""

    def __init__(self, kernel: SimKernel) -> None:
        super().__init__(kernel)
        self.simulated = kernel
        self.lies: list[tuple[int, int | None, int]] = []
        self.began_in_doubt = False
        self.world: World | None = None

    def ioctl(self, fd: int, request: int, argument: IoctlArgument = 0) -> int:
        match argument:
            case vfio.vfio_iommu_type1_dma_unmap() | iommufd.iommu_ioas_unmap() if self.lies:
                return self._lie(fd, request, argument)
            case _:
                return super().ioctl(fd, request, argument)

    def _lie(self, fd: int, request: int, argument: Any) -> int:
        unmaps, says, code = self.lies.pop(0)
        is_type1 = isinstance(argument, vfio.vfio_iommu_type1_dma_unmap)
        asked = argument.size if is_type1 else argument.length
        assert self.world is not None
        expected = sum(run.size for run in self.world.space.mappings_in(argument.iova, asked))
        answer = None if says is None else says * BLOCK
        # What was in doubt may be gone: less than expected may be all the bytes that there were.
        if answer == expected or (self.began_in_doubt and answer is not None and 0 < answer < expected):
            # What is believed has to be true.
            return super().ioctl(fd, request, argument)
        if size := min(unmaps * BLOCK, asked):
            setattr(argument, "size" if is_type1 else "length", size)
            with suppress(OSError):
                super().ioctl(fd, request, argument)
        if answer is None:
            raise OSError(code, os.strerror(code))
        setattr(argument, "size" if is_type1 else "length", answer)
        return 0

    def madvise(self, address: int, length: int, advice: int) -> None:
        if self.world is not None and self.world.memory.address and advice == 4:
            offset = address - self.world.memory.address
            assert not self.world.pinned(Run(offset, length)), "pages are discarded under a pin"
        super().madvise(address, length, advice)


class World:
    """A device of a few blocks, and an address space that its mapper has joined."""

    def __init__(self, way: str) -> None:
        self.simulated = SimKernel(edu_devices=1)
        self.kernel = LyingKernel(self.simulated)
        self.memory = Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK, kernel=self.kernel)
        self.space = WAYS[way](self.kernel)
        self.space.open_device(edu_addresses(self.simulated)[0])
        self.device = VirtioMem(self.memory, address=ADDRESS, block_size=BLOCK, requested_size=BLOCKS * BLOCK)
        self.mapper = DmaMapper(self.space)
        self.device.discards.register(self.mapper, self.device.section)
        self.kernel.world = self

    def held(self) -> list[Run]:
        """What the simulated kernel has mapped, as bytes of the memory."""
        return union(Run(offset, size) for _, size, offset in held_by(self.simulated, self.space, self.memory))

    def pinned(self, run: Run) -> bool:
        return any(held.start < run.end and run.start < held.end for held in self.held())

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        self.kernel.began_in_doubt = bool(self.space.unconfirmed())
        request = Request(kind, ADDRESS + block * BLOCK, count)
        return Response.parse(self.device.handle(bytes(request))).type

    def plugged(self) -> list[Run]:
        return [Run(run.start, run.size) for run in self.device.discards.populated_runs(Run(0, BLOCKS * BLOCK))]

    def expect_told(self) -> None:
        """What is mapped is what is plugged, but for what divergences say."""
        divergences = self.device.discards.divergences
        held, plugged = self.held(), self.plugged()
        for block in range(BLOCKS):
            run = Run(block * BLOCK, BLOCK)
            is_held, is_plugged = (any(each.start <= run.start < each.end for each in runs) for runs in (held, plugged))
            if is_held != is_plugged:
                told = [each for each in divergences if each.section.run.start <= run.start < each.section.run.end]
                assert [each.stale for each in told] == [is_held], (block, is_held, is_plugged, divergences)

    def recover(self) -> None:
        """The kernel is honest again: everything comes to be as it should."""
        self.kernel.lies = []
        self.kernel.arm()
        assert self.device.discards.repair() == ()
        assert self.space.unconfirmed() == ()
        assert self.held() == self.plugged()


@contextmanager
def a_world(way: str) -> Iterator[World]:
    world = World(way)
    try:
        yield world
        world.recover()
    finally:
        world.kernel.lies = []
        world.kernel.arm()
        world.device.discards.unregister(world.mapper)
        world.mapper.close()
        world.device.close()
        world.space.close()
        world.memory.close()


REFUSED_AND_GONE = FalseUnmap(0, errno=errno.EIO)
REFUSED_AND_SOME_GONE = FalseUnmap(0, unmaps=BLOCK, errno=errno.EFAULT)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lie", [REFUSED_AND_GONE, REFUSED_AND_SOME_GONE], ids=["all gone", "some gone"])
def test_what_a_refused_unmap_has_unmapped_is_mapped_again(way: str, lie: Rule) -> None:
    with a_world(way) as world:
        assert world.ask(RequestType.PLUG, 0, 3) is ResponseType.ACK
        world.kernel.arm(lie)
        assert world.ask(RequestType.UNPLUG, 0, 3) is ResponseType.BUSY
        assert (world.held(), world.device.discards.divergences) == ([Run(0, 3 * BLOCK)], ())


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_known_after_a_refusal_is_a_divergence_until_it_is(way: str) -> None:
    with a_world(way) as world:
        assert world.ask(RequestType.PLUG, 0, 3) is ResponseType.ACK
        world.kernel.arm(REFUSED_AND_GONE, Fault(request=MAPS[way], errno=errno.ENOMEM))
        assert world.ask(RequestType.UNPLUG, 0, 3) is ResponseType.BUSY
        assert world.held() == []
        (divergence,) = world.device.discards.divergences
        assert (divergence.section.run, divergence.stale) == (Run(0, 3 * BLOCK), False)
        assert "neither confirmed nor denied" in divergence.error
        world.kernel.arm()
        # The next change begins with bringing it back.
        assert world.ask(RequestType.PLUG, 4, 1) is ResponseType.ACK
        assert world.device.discards.divergences == ()
        assert world.held() == [Run(0, 3 * BLOCK), Run(4 * BLOCK, BLOCK)]


@pytest.mark.parametrize("way", WAYS)
def test_bytes_that_add_up_prove_nothing_against_a_mapping_that_is_there(way: str) -> None:
    """It says that a block is gone, which it is not; when asked for that alone, that nothing is there."""
    with a_world(way) as world:
        assert world.ask(RequestType.PLUG, 0, 3) is ResponseType.ACK
        world.kernel.lies = [(0, 1, 0), (0, 0, 0)]
        assert world.ask(RequestType.UNPLUG, 0, 3) is ResponseType.BUSY
        assert world.held() == [Run(0, 3 * BLOCK)]


LIE = st.tuples(
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(0, BLOCKS)),
    st.sampled_from([errno.EIO, errno.EBUSY, errno.EDEADLK, errno.ENOENT, errno.EINVAL, errno.EFAULT, errno.EINTR]),
)
STEP = st.tuples(
    st.sampled_from([RequestType.PLUG, RequestType.UNPLUG, RequestType.UNPLUG, RequestType.UNPLUG_ALL]),
    st.integers(0, BLOCKS - 1),
    st.integers(1, BLOCKS),
    st.lists(LIE, max_size=8),
    st.one_of(st.none(), st.integers(0, 4)),
)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, min_size=1, max_size=8))
def test_whatever_lies_no_page_is_discarded_under_a_pin_and_nothing_is_kept_quiet(way: str, steps: list[Any]) -> None:
    """no_memory: which mapping, counted from the first of a request, the kernel has no memory for."""
    with a_world(way) as world:
        assert world.ask(RequestType.PLUG, 0, BLOCKS - 2) is ResponseType.ACK
        for kind, block, count, lies, no_memory in steps:
            world.kernel.lies = list(lies)
            faults = [] if no_memory is None else [Fault(no_memory, request=MAPS[way], errno=errno.ENOMEM)]
            world.kernel.arm(*faults)
            if kind is RequestType.UNPLUG_ALL:
                world.ask(kind)
            else:
                world.ask(kind, block, min(count, BLOCKS - block))
            world.kernel.lies = []
            world.kernel.arm()
            world.expect_told()


@pytest.mark.parametrize("way", WAYS)
def test_what_was_in_doubt_and_is_gone_is_told_when_the_doubt_ends(way: str) -> None:
    with a_world(way) as world:
        assert world.ask(RequestType.PLUG, 0, 4) is ResponseType.ACK
        no_memory = Fault(1, request=MAPS[way], errno=errno.ENOMEM)
        # Whether the second block came off cannot be known.
        world.kernel.lies = [(0, 0, 0), (0, None, errno.EIO), (0, None, errno.EIO)]
        world.kernel.arm(no_memory)
        assert world.ask(RequestType.UNPLUG, 0, 2) is ResponseType.BUSY
        world.expect_told()
        # Both come off now, one by one, and the second is not mapped again.
        world.kernel.lies = [(0, None, errno.EBUSY)]
        world.kernel.arm(no_memory)
        assert world.ask(RequestType.UNPLUG, 0, 2) is ResponseType.BUSY
        world.expect_told()


@pytest.mark.parametrize("way", WAYS)
def test_unregistering_under_lies_leaves_nothing_pinned_and_unknown(way: str) -> None:
    with a_world(way) as world:
        assert world.ask(RequestType.PLUG, 0, 3) is ResponseType.ACK
        world.kernel.lies = [(0, 2, 0), (0, 0, 0), (1, None, errno.EIO)]
        with suppress(VfioError):
            world.device.discards.unregister(world.mapper)
        world.expect_told()
        if not world.device.discards.sections(world.mapper):
            world.device.discards.register(world.mapper, world.device.section)


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_known_of_a_guests_mapping_is_a_divergence_until_it_is(way: str) -> None:
    """The guest unplugs a block that it has mapped: BUSY, with the mapping its own still."""
    with a_world(way) as world:
        world.device.discards.unregister(world.mapper)
        discards, section = world.device.discards, world.device.section
        with GuestIommu(discards, section, max_bytes=BLOCKS * BLOCK, max_mappings=64) as iommu:
            domain = iommu.open_domain()
            domain.join(world.space)
            assert world.ask(RequestType.PLUG, 0, 3) is ResponseType.ACK
            domain.map(ADDRESS >> 1, ADDRESS, 2 * BLOCK)
            world.kernel.arm(REFUSED_AND_GONE, Fault(request=MAPS[way], errno=errno.ENOMEM))
            assert world.ask(RequestType.UNPLUG, 0, 1) is ResponseType.BUSY
            assert (world.held(), len(domain.mappings)) == ([], 1)
            (divergence,) = world.device.discards.divergences
            assert (divergence.section.run, divergence.stale) == (Run(0, 2 * BLOCK), False)
            world.kernel.arm()
            assert world.device.discards.repair() == ()
            assert (world.held(), world.space.unconfirmed()) == ([Run(0, 2 * BLOCK)], ())
            domain.close()
        world.device.discards.register(world.mapper, world.device.section)
