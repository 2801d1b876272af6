"""GuestMemory: what a guest has at its guest-physical addresses, boot RAM and regions whose blocks come and go."""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from pyvfio.errors import InvalidArgument
from pyvfio.memory import Memory
from virtiomem.discard import RamDiscardManager, Section
from virtiomem.runs import Run, union


class GuestMemory:
    """Sections at guest-physical addresses, ascending, none of which overlap.

    managed: those in the region of discards, which says what of them is populated. All of the others is, always.
    """

    def __init__(self, discards: RamDiscardManager, sections: Iterable[Section]) -> None:
        """Raises InvalidArgument for sections that overlap, that are empty, or that no address space can map."""
        self.sections = tuple(sorted(sections, key=lambda section: section.offset_within_address_space))
        self._discards = discards
        self._starts = [section.offset_within_address_space for section in self.sections]
        end = 0
        for section in self.sections:
            if not isinstance(section.memory, Memory):
                raise _unusable(section, "only a pyvfio.memory.Memory can be mapped for DMA")
            if section.size <= 0 or section.offset_within_address_space < end:
                raise _unusable(section, "it is empty, or lies over another section of the guest's memory")
            end = section.offset_within_address_space + section.size
        self.managed = tuple(section for section in self.sections if self._is_managed(section))
        if not self.managed:
            meaning = "none of the sections is in the region of the manager that it is registered with"
            raise InvalidArgument(errno.EINVAL, "memory of a guest", meaning=meaning)

    def parts(self, address: int, size: int) -> tuple[Section, ...] | None:
        """The parts of sections that size bytes from a guest-physical address are; None if some are no memory."""
        parts: list[Section] = []
        end = address + size
        index = bisect_right(self._starts, address) - 1
        while address < end:
            if not 0 <= index < len(self.sections):
                return None
            section = self.sections[index]
            within = Run(section.offset_within_region + address - section.offset_within_address_space, end - address)
            part = section.intersect(within)
            if part is None or part.offset_within_address_space != address:
                return None
            parts.append(part)
            address, index = address + part.size, index + 1
        return tuple(parts)

    def are_populated(self, parts: Sequence[Section]) -> bool:
        """Whether all bytes of parts can be mapped now."""
        return all(
            self._discards.is_populated(part.offset_within_region, part.size) for part in self.managed_parts(parts)
        )

    def managed_parts(self, parts: Iterable[Section]) -> list[Section]:
        """Those of parts that come and go."""
        return [part for part in parts if self._is_managed(part)]

    def joined(self, parts: Iterable[Section]) -> Iterator[Section]:
        """The same bytes of the sections in as few parts as possible, ascending."""
        spans = union(Run(part.offset_within_address_space, part.size) for part in parts)
        for section in self.sections:
            moved = section.offset_within_region - section.offset_within_address_space
            for span in spans:
                if part := section.intersect(Run(span.start + moved, span.size)):
                    yield part

    def _is_managed(self, section: Section) -> bool:
        region, run = self._discards.region, section.run
        return section.memory is self._discards.memory and run.start < region.end and region.start < run.end


def _unusable(section: Section, meaning: str) -> InvalidArgument:
    return InvalidArgument(errno.EINVAL, f"section {section} of a guest's memory", meaning=meaning)
