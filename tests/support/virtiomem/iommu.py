"""A guest IOMMU over a device, with address spaces that fail when told to."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from pyvfio.dma import Access, MappedRun
from pyvfio.errors import ShortUnmap
from pyvfio.memory import DmaTarget, Memory, MemoryKind
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, Faults, failure
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import DiscardCoordination, Section
from virtiomem.mapping import GuestDomain, GuestIommu, GuestMapping, GuestMappingRefused, Refusal
from virtiomem.trace import DmaLog

ACK, NACK, BUSY, ERROR = ResponseType
BLOCKS = 16


class FaultySpace(RecordingAddressSpace):
    """Each map and unmap is a step that may fail; an unmap that fails may have unmapped nevertheless (short)."""

    def __init__(self, number: int, faults: Faults, *, short: bool = False) -> None:
        super().__init__(number, DmaLog())
        self.faults = faults
        self.short = short

    def map_dma(self, iova: int, memory: DmaTarget, *arguments: Any, **options: Any) -> None:
        if self.faults.step(f"{self.name}.map"):
            raise failure("map_dma")
        super().map_dma(iova, memory, *arguments, **options)

    def unmap_dma(self, iova: int, size: int) -> int:
        fails = self.faults.step(f"{self.name}.unmap")
        if fails and not self.short:
            raise failure("unmap_dma")
        unmapped = super().unmap_dma(iova, size)
        if fails:
            raise ShortUnmap(errno.EIO, "unmap_dma", meaning="injected")
        return unmapped

    def held(self) -> tuple[GuestMapping, ...]:
        """What it holds of the region."""
        return tuple(GuestMapping(run.iova, ADDRESS + run.offset, run.size, run.access) for run in self.mappings())

    def unmaps(self) -> int:
        """How many calls to unmap there were since the faults were armed."""
        return self.faults.steps.count(f"{self.name}.unmap")


def expected_of(domain: GuestDomain) -> tuple[MappedRun, ...]:
    """What an address space of the domain has to hold."""
    return tuple(run for mapping in domain.mappings for run in mapping.mapped_runs())


class World:
    """A device of 16 blocks, blocks 0 to 3 plugged, with a guest's IOMMU and a domain that address spaces have joined.

    gone: the mappings that were revoked. boot: memory that is always there, just below the region.
    """

    def __init__(
        self, stack: ExitStack, spaces: int = 2, *, short: bool = False, boot_blocks: int = 0, **limits: Any
    ) -> None:
        self.faults = Faults()
        self.memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, BLOCKS * BLOCK))
        self.coordination = DiscardCoordination()
        self.device = stack.enter_context(
            VirtioMem(
                self.memory,
                address=ADDRESS,
                block_size=BLOCK,
                requested_size=BLOCKS * BLOCK,
                prealloc=False,
                coordination=self.coordination,
            )
        )
        self.gone: list[GuestMapping] = []
        self.boot = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, max(boot_blocks, 1) * BLOCK))
        boot_size = boot_blocks * BLOCK
        sections = [Section(self.boot, 0, ADDRESS - boot_size, boot_size)] if boot_blocks else []
        self.iommu = stack.enter_context(
            GuestIommu(
                self.device.discards,
                *sections,
                self.device.section,
                coordination=self.coordination,
                revoked=lambda _, mappings: self.gone.extend(mappings),
                **{"max_bytes": BLOCKS * BLOCK, "max_mappings": 64, **limits},
            )
        )
        self.domain = self.iommu.open_domain()
        self.spaces = [FaultySpace(number, self.faults, short=short) for number in range(spaces)]
        for space in self.spaces:
            self.domain.join(space)
        stack.callback(self.faults.disarm)
        assert self.ask(RequestType.PLUG, 0, 4) is ACK
        self.faults.disarm()

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        return Response.parse(self.device.handle(bytes(Request(kind, ADDRESS + block * BLOCK, count)))).type

    def map(self, iova: int, offset: int, size: int, access: Access = Access.READ_WRITE) -> None:
        """Map memory of the region, from offset in it, in the domain."""
        self.domain.map(iova, ADDRESS + offset, size, access)

    def unplug(self, block: int, count: int = 1) -> ResponseType:
        return self.ask(RequestType.UNPLUG, block, count)

    def refused(self, act: Callable[[], object]) -> Refusal:
        with pytest.raises(GuestMappingRefused) as caught:
            act()
        return caught.value.reason
