"""What a mapper asks of an address space for a section, and what it requires to be there, or not."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from pyvfio.dma import Access, AddressSpace, TakesUp
from pyvfio.errors import AlreadyMapped, InvalidArgument
from pyvfio.memory import Memory
from virtiomem.discard import Section
from virtiomem.runs import Run

_ADVICE = "Keep the guest's addresses of the region free for it"


def map_section(space: AddressSpace, section: Section, granularity: int) -> None:
    """Map all of section, in blocks of granularity bytes. Raises what map_dma() raises."""
    assert isinstance(section.memory, Memory)
    space.map_dma(
        section.offset_within_address_space,
        section.memory,
        section.offset_within_region,
        section.size,
        _access(section),
        granularity=granularity,
    )


def take_up_section(space: AddressSpace, section: Section, granularity: int, operation: str) -> None:
    """Find what a process before this one has mapped of section. Raises what take_up() raises, and InvalidArgument for
    an address space that cannot."""
    assert isinstance(section.memory, Memory)
    if not isinstance(space, TakesUp):
        meaning = "no mappings of another process are found in such an address space"
        raise InvalidArgument(errno.EOPNOTSUPP, operation, meaning=meaning)
    iova, offset = section.offset_within_address_space, section.offset_within_region
    space.take_up(iova, section.memory, offset, section.size, _access(section), granularity=granularity)


def require_free(space: AddressSpace, section: Section, operation: str) -> None:
    """Raises AlreadyMapped if anything is mapped at section's addresses."""
    iova, size = section.offset_within_address_space, section.size
    if there := space.mappings_in(iova, size):
        meaning = f"{there[0].iova:#_x}-{there[0].end - 1:#_x} is mapped already, by somebody else"
        raise AlreadyMapped(errno.EEXIST, operation, {"iova": iova, "size": size}, meaning, _ADVICE)


def require_ours(name: str, section: Section, memory: Sequence[Run], addresses: Sequence[Run]) -> None:
    """Raises AlreadyMapped if there is anything: memory, bytes of section's own memory, or other addresses.

    name: of whose they are not.
    """
    moved = section.offset_within_address_space - section.offset_within_region
    foreign = [*addresses, *(Run(run.start + moved, run.size) for run in memory)]
    if foreign:
        meaning = f"something else is mapped at {foreign[0].start:#_x}-{foreign[0].end - 1:#_x}"
        raise AlreadyMapped(errno.EEXIST, name, {"section": str(section)}, meaning, _ADVICE)


def _access(section: Section) -> Access:
    return Access.READ if section.readonly else Access.READ_WRITE
