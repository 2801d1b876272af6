"""What a control socket controls: a device, who maps it, and who plugs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pyvfio.dma import AddressSpace
from virtiomem.device import VirtioMem


class Guest(Protocol):
    """Who answers a resize by plugging and unplugging."""

    @property
    def state(self) -> str:
        """In words, for people: "stand-in: plugging", "vhost-user: no front end"."""

    @property
    def waiting_for(self) -> str | None:
        """Why plugged is not what is requested, if something is in the way; None if nothing is known to be."""


@dataclass(frozen=True, slots=True)
class ManagedDevice:
    """address_spaces: those it is mapped into just now. memory_kind, page_size: of its memory; bytes.

    dma_counts: what a device that does DMA to plugged blocks all the while has counted, if there is one.
    """

    device: VirtioMem
    guest: Guest
    memory_kind: str
    page_size: int
    address_spaces: Callable[[], Sequence[AddressSpace]] = field(default=tuple)
    dma_counts: Callable[[], Mapping[str, object]] | None = None

    @property
    def name(self) -> str:
        return self.device.name
