"""DeviceStatus: a snapshot of a managed device, as it goes over the control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from pyvfio.errors import VfioError
from virtiomem.control.said import Said
from virtiomem.device import Feature
from virtiomem.runs import Run

if TYPE_CHECKING:
    from pyvfio.dma import AddressSpace
    from virtiomem.control.managed import ManagedDevice


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """An address space that a device is mapped into.

    name: for people. mappings: how many it holds. mappings_left: how many more the kernel would take; None if the
    kernel does not tell, and while no device is behind it.
    """

    name: str
    mappings: int
    mappings_left: int | None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device at one moment. Sizes are bytes, and addresses guest-physical bytes. While a request is carried out,
    blocks and divergences are those of before it, and mappings are counted as they come and go.

    name: the device's. address: where the region begins. usable_size: how much of the region, from its start, the guest
    may use. requested_size: how much it is asked to have plugged. node_id: the NUMA node; None if none is told.
    memory_kind: what the memory is, in a word. page_size: of the memory. plugged: the maximal plugged runs, ascending.
    address_spaces: those that the device is mapped into. guest: what the guest does, in words. waiting_for: why plugged
    is not what is requested, if something is known to be in the way. broken: whether the guest broke the protocol and
    has not reset the device. migrating: whether blocks must keep their state. divergences: in sentences, which listener
    holds what is not plugged, or lacks what is.
    """

    name: str
    address: int
    region_size: int
    block_size: int
    usable_size: int
    plugged_size: int
    requested_size: int
    node_id: int | None
    memory_kind: str
    page_size: int
    plugged: tuple[Run, ...]
    address_spaces: tuple[SpaceStatus, ...]
    guest: str
    waiting_for: str | None
    broken: bool
    migrating: bool
    divergences: tuple[str, ...]

    @classmethod
    def of(cls, managed: ManagedDevice) -> Self:
        """The status of a device now. It does not wait for a request that is being carried out."""
        device = managed.device
        config, plugged = device.config, device.plugged_runs
        plugged_size = sum(run.size for run in plugged)
        reached = plugged_size == config.requested_size
        return cls(
            name=device.name,
            address=config.addr,
            region_size=config.region_size,
            block_size=config.block_size,
            usable_size=config.usable_region_size,
            plugged_size=plugged_size,
            requested_size=config.requested_size,
            node_id=config.node_id if device.features & Feature.ACPI_PXM else None,
            memory_kind=managed.memory_kind,
            page_size=managed.page_size,
            plugged=plugged,
            address_spaces=tuple(
                SpaceStatus(space.name, space.mapping_count, _mappings_left(space))
                for space in managed.address_spaces()
            ),
            guest=managed.guest.state,
            waiting_for=None if reached else managed.guest.waiting_for,
            broken=device.broken,
            migrating=device.migrating,
            divergences=tuple(str(divergence) for divergence in device.discards.known_divergences),
        )

    @classmethod
    def from_data(cls, data: Mapping[str, object]) -> Self:
        """The status that data() has made data from. Raises ValueError for anything else."""
        said = Said(data)
        size, block = said.number("region_size"), said.number("block_size")
        address, usable = said.number("address"), said.number("usable_size")
        if not block or not size or size % block or usable > size or address + size > 1 << 64:
            raise ValueError("no region is like that")
        plugged = tuple(Run(run.number("start"), run.number("size")) for run in said.objects("plugged"))
        edges = [address, *(edge for run in plugged for edge in (run.start, run.end)), address + size]
        if edges != sorted(edges):
            raise ValueError("no region has such blocks")
        return cls(
            name=said.text("name"),
            address=address,
            region_size=size,
            block_size=block,
            usable_size=usable,
            plugged_size=said.number("plugged_size"),
            requested_size=said.number("requested_size"),
            node_id=said.number_or_none("node_id"),
            memory_kind=said.text("memory_kind"),
            page_size=said.number("page_size"),
            plugged=plugged,
            address_spaces=tuple(
                SpaceStatus(space.text("name"), space.number("mappings"), space.number_or_none("mappings_left"))
                for space in said.objects("address_spaces")
            ),
            guest=said.text("guest"),
            waiting_for=said.text_or_none("waiting_for"),
            broken=said.flag("broken"),
            migrating=said.flag("migrating"),
            divergences=said.texts("divergences"),
        )

    def data(self) -> dict[str, object]:
        """The status as JSON values."""
        return asdict(self)


def _mappings_left(space: AddressSpace) -> int | None:
    try:
        return space.mappings_left
    except VfioError:
        # It was closed, or its last group has left it: a device may go while all else goes on.
        return None
