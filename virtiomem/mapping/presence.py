"""What of somebody's books an address space still holds, and whether it is still there at all."""

from __future__ import annotations

from pyvfio.dma import AddressSpace
from pyvfio.errors import ClosedError, VfioError
from virtiomem.discard import Section
from virtiomem.runs import Run, union


def is_closed(space: AddressSpace) -> bool:
    """Whether the address space is closed for good, and its mappings are gone with it."""
    try:
        _ = space.page_sizes
    except ClosedError:
        return True
    except VfioError:
        # It is open, and without an IOMMU while no group is attached.
        return False
    return False


def mapped_runs(space: AddressSpace, section: Section) -> tuple[list[Run], list[Run]]:
    """What is mapped at section's addresses: section's own memory at its place, and everything else.

    The first are bytes of the memory, the second addresses.
    """
    own, other = [], []
    memory: object = section.memory
    moved = section.offset_within_region - section.offset_within_address_space
    for run in space.mappings_in(section.offset_within_address_space, section.size):
        if run.memory is memory and run.offset - run.iova == moved:
            own.append(Run(run.offset, run.size))
        else:
            other.append(Run(run.iova, run.size))
    return union(own), other


def unconfirmed_runs(space: AddressSpace, section: Section) -> list[Run]:
    """What the address space has at section's addresses, and the kernel has not confirmed: bytes of the memory."""
    start, end = section.offset_within_address_space, section.offset_within_address_space + section.size
    moved = section.offset_within_region - start
    spans = [(max(run.iova, start), min(run.end, end)) for run in space.unconfirmed()]
    return union(Run(first + moved, last - first) for first, last in spans if first < last)
