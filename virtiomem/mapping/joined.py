"""An address space that has joined a region, from the mapper's registration to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyvfio.dma import AddressSpace
from pyvfio.errors import VfioError
from virtiomem.discard import DiscardCoordination, RamDiscardManager, Section
from virtiomem.mapping.dma import DmaMapper


@contextmanager
def joined(
    space: AddressSpace,
    discards: RamDiscardManager,
    section: Section,
    coordination: DiscardCoordination | None = None,
) -> Iterator[DmaMapper]:
    """Keep what is populated of section mapped into space for the length of a with block. space stays the caller's.

    Raises what DmaMapper and RamDiscardManager.register raise, with nothing mapped; and at the end of the block what
    unregister raises, with everything mapped as before, and the mapper registered as before.
    """
    mapper = DmaMapper(space, coordination)
    try:
        discards.register(mapper, section)
    except BaseException:
        # Where undoing has failed, too, it stays registered until the manager has repaired that.
        with suppress(VfioError):
            mapper.close()
        raise
    try:
        yield mapper
    finally:
        discards.unregister(mapper)
        mapper.close()
