"""ManagedDevice: a device with the address spaces that map it and the guest that plugs it, for a control socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvfio.dma import AddressSpace
    from virtiomem.device import VirtioMem
    from virtiomem.mapping import TracksDirty


class Guest(Protocol):
    """Whoever answers a resize by plugging and unplugging."""

    @property
    def state(self) -> str:
        """What it does, in words for people: "stand-in: idle", "vhost-user: no front end"."""

    @property
    def waiting_for(self) -> str | None:
        """Why plugged is not what is requested, if something is in the way; None if nothing is known to be."""


@dataclass(frozen=True, slots=True)
class ManagedDevice:
    """A device as a control socket shows and resizes it.

    guest: who plugs its blocks. memory_kind: what its memory is, in a word for people. page_size: bytes of a page of
    its memory. address_spaces: returns those that it is mapped into just now. dma_counts: returns what a device has
    counted that does DMA to plugged blocks all the while; None if there is no such device. dirty_log: returns what logs
    the writes through one of address_spaces, None for one where nothing does; without it that is the address space
    itself, if it can: a Container. For an Ioas it is a page table of it. load: gives the device the state of another
    one, and tells the guest's driver, which goes on from there; without it that is the device's load(), and only while
    no driver runs.
    """

    device: VirtioMem
    guest: Guest
    memory_kind: str
    page_size: int
    address_spaces: Callable[[], Sequence[AddressSpace]] = field(default=tuple)
    dma_counts: Callable[[], Mapping[str, object]] | None = None
    dirty_log: Callable[[AddressSpace], TracksDirty | None] | None = None
    load: Callable[[bytes], object] | None = None

    @property
    def name(self) -> str:
        """The device's."""
        return self.device.name
