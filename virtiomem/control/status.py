"""DeviceStatus: a snapshot of a managed device, as it goes over the control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pyvfio.dma import AddressSpace
from pyvfio.errors import VfioError
from pyvfio.texts import printable
from virtiomem.control.managed import ManagedDevice
from virtiomem.device import Feature
from virtiomem.runs import Run


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
        """The status that data() has made data from. Raises TypeError or KeyError for anything else."""
        fields: dict[str, Any] = {key: _shown(value) for key, value in data.items()}
        fields["plugged"] = tuple(Run(**run) for run in fields["plugged"])
        fields["address_spaces"] = tuple(
            SpaceStatus(**{key: _shown(value) for key, value in space.items()}) for space in fields["address_spaces"]
        )
        fields["divergences"] = tuple(map(_shown, fields["divergences"]))
        return cls(**fields)

    def data(self) -> dict[str, object]:
        """The status as JSON values."""
        return asdict(self)


def _shown(value: Any) -> Any:
    """value, which has come from outside, as it may be shown on a terminal."""
    return printable(value) if isinstance(value, str) else value


def _mappings_left(space: AddressSpace) -> int | None:
    try:
        return space.mappings_left
    except VfioError:
        # It was closed, or its last group has left it: a device may go while all else goes on.
        return None
