"""What a simulated kernel itself holds, asked past the library."""

from __future__ import annotations

from pyvfio import Container, Ioas, Memory
from pyvfio.sim import SimKernel
from pyvfio.sim.iommufd import IoasState, IommufdFile
from pyvfio.sim.vfio import ContainerState

Mapping = tuple[int, int, int]
"""iova, size, and where in the memory, in bytes."""


def held_by(kernel: SimKernel, space: Container | Ioas, memory: Memory) -> list[Mapping]:
    """The mappings of an address space, ascending, all of which are of memory. None for one that is closed."""
    if isinstance(space, Ioas):
        iommufd = kernel.process.file(space.iommufd.fd, IommufdFile)
        if iommufd is None:
            return []
        base = {False: memory.address, True: memory.file_offset}
        return [
            (area.iova, area.size, area.pages.source.start + area.offset - base[area.pages.source.file is not None])
            for state in iommufd.context.objects(IoasState)
            if state.id == space.id
            for area in state.areas
        ]
    state = kernel.process.file(space.fd, ContainerState)
    if state is None:
        return []
    return [(mapping.iova, mapping.size, mapping.vaddr - memory.address) for mapping in state.mappings]


def charged(kernel: SimKernel) -> int:
    """Bytes pinned, by whichever way."""
    return max(kernel.charges.locked, kernel.charges.pinned)


def expect_known(kernel: SimKernel, space: Container | Ioas, memory: Memory) -> None:
    """mappings() has all that the kernel has."""
    known = {(single.iova, single.size, single.offset) for run in space.mappings() for single in run.single_mappings()}
    assert set(held_by(kernel, space, memory)) <= known
    assert {(run.iova, run.memory) for run in space.unconfirmed()} <= {
        (single.iova, single.memory) for run in space.mappings() for single in run.single_mappings()
    }
