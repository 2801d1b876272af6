"""ManagedSpace: an address space of a server, as it goes over the control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from virtiomem.control.said import Said


@dataclass(frozen=True, slots=True)
class ManagedPassed:
    """A device that a guest drives, at one moment.

    device: its PCI address. socket: where the guest's virtual machine monitor connects. connected: whether it has.
    memory: bytes of the guest's memory beside virtio-mem's that the devices of its address space reach. unmapped: bytes
    that the guest takes for reachable, and are not; the device does no DMA meanwhile.
    """

    device: str
    socket: str
    connected: bool
    memory: int
    unmapped: int

    @classmethod
    def from_said(cls, said: Said) -> Self:
        """Raises ValueError for what is none."""
        return cls(
            device=said.text("device"),
            socket=said.text("socket"),
            connected=said.flag("connected"),
            memory=said.number("memory"),
            unmapped=said.number("unmapped"),
        )


@dataclass(frozen=True, slots=True)
class ManagedSpace:
    """An address space at one moment.

    name: what the host calls it. kind: "container" or "iommufd". devices: the PCI addresses of those that the server
    has opened in it. ioas_id: the number of the IOAS in its iommufd; None for a container. lent: whether another
    process owns it. mappings: how many the server has made there. mappings_left: how many more the kernel would take;
    None if it sets no limit, or does not tell. passed: those of devices that a guest drives.
    """

    name: str
    kind: str
    devices: tuple[str, ...]
    ioas_id: int | None
    lent: bool
    mappings: int
    mappings_left: int | None
    passed: tuple[ManagedPassed, ...] = ()

    @classmethod
    def from_data(cls, data: Mapping[str, object]) -> Self:
        """What data() has made data from. Raises ValueError for anything else."""
        said = Said(data)
        return cls(
            name=said.text("name"),
            kind=said.text("kind"),
            devices=said.texts("devices"),
            ioas_id=said.number_or_none("ioas_id"),
            lent=said.flag("lent"),
            mappings=said.number("mappings"),
            mappings_left=said.number_or_none("mappings_left"),
            passed=tuple(ManagedPassed.from_said(each) for each in said.objects("passed")),
        )

    def data(self) -> dict[str, object]:
        """The same as JSON values."""
        return asdict(self)
