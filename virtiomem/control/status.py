"""A snapshot of a managed device, as it goes over the control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from virtiomem.control.managed import ManagedDevice
from virtiomem.device import Feature
from virtiomem.runs import Run


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """mappings_left: how many more the kernel would take; None if it does not tell."""

    name: str
    mappings: int
    mappings_left: int | None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """Sizes and addresses (guest-physical) in bytes. plugged: the maximal plugged runs, ascending.

    guest, waiting_for: see Guest. divergences: what listeners hold that is not plugged, or do not hold that is.
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
        """All at one moment."""
        device = managed.device
        with device.discards.lock:
            config = device.config
            reached = config.plugged_size == config.requested_size
            return cls(
                name=device.name,
                address=config.addr,
                region_size=config.region_size,
                block_size=config.block_size,
                usable_size=config.usable_region_size,
                plugged_size=config.plugged_size,
                requested_size=config.requested_size,
                node_id=config.node_id if device.features & Feature.ACPI_PXM else None,
                memory_kind=managed.memory_kind,
                page_size=managed.page_size,
                plugged=device.plugged_runs,
                address_spaces=tuple(
                    SpaceStatus(space.name, space.mapping_count, space.mappings_left)
                    for space in managed.address_spaces()
                ),
                guest=managed.guest.state,
                waiting_for=None if reached else managed.guest.waiting_for,
                broken=device.broken,
                migrating=device.migrating,
                divergences=tuple(str(divergence) for divergence in device.discards.divergences),
            )

    @classmethod
    def from_data(cls, data: Mapping[str, object]) -> Self:
        """Of what data() makes. Raises TypeError and KeyError for anything else."""
        fields: dict[str, Any] = dict(data)
        fields["plugged"] = tuple(Run(**run) for run in fields["plugged"])
        fields["address_spaces"] = tuple(SpaceStatus(**space) for space in fields["address_spaces"])
        fields["divergences"] = tuple(fields["divergences"])
        return cls(**fields)

    def data(self) -> dict[str, object]:
        """As JSON values."""
        return asdict(self)
