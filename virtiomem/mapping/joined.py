"""An address space that has joined a region, from the mapper's registration to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyvfio.dma import AddressSpace
from pyvfio.errors import VfioError
from virtiomem.discard import DiscardCoordination, RamDiscardManager, Section
from virtiomem.mapping.dma import DmaMapper


def join(
    space: AddressSpace,
    discards: RamDiscardManager,
    section: Section,
    coordination: DiscardCoordination | None = None,
) -> DmaMapper:
    """Keep what is populated of section mapped into space, until part() of what this returns. space stays the caller's.

    Raises what DmaMapper and RamDiscardManager.register raise, with nothing mapped.
    """
    mapper = DmaMapper(space, coordination)
    try:
        discards.register(mapper, section)
    except BaseException:
        # Where undoing has failed, too, it stays registered until the manager has repaired that.
        with suppress(VfioError):
            mapper.close()
        raise
    return mapper


def part(mapper: DmaMapper, discards: RamDiscardManager) -> None:
    """Unmap what join() keeps mapped. Raises what unregister raises, with all as before: it can be tried again."""
    discards.unregister(mapper)
    mapper.close()


@contextmanager
def joined(
    space: AddressSpace,
    discards: RamDiscardManager,
    section: Section,
    coordination: DiscardCoordination | None = None,
) -> Iterator[DmaMapper]:
    """join() for the length of a with block, and part() at its end. Raises what they raise."""
    mapper = join(space, discards, section, coordination)
    try:
        yield mapper
    finally:
        part(mapper, discards)
