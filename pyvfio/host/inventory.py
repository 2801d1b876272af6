"""Entry: all that a person wants to know of a PCI function before changing its driver."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyvfio.host.names import PciNames, kind, names_of_host
from pyvfio.host.network import InterfaceUse, Network
from pyvfio.kernel import Kernel, text_or_empty
from pyvfio.sysfs import (
    DEVICES,
    VIRTIO_IOMMU,
    GroupMember,
    PciDevice,
    block_devices,
    blocking_members,
    character_device,
    direct_regions,
    group_node,
    interfaces,
    iommu_kinds,
    is_noiommu,
    pci_devices,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A PCI function and its place on the host.

    device: the function. kind: a word for what it is, "Ethernet". name: vendor and model, in full. short_name: vendor
    and model as people call them. blocked_by: the other members of its group that keep the group from being used.
    direct: the addresses, "0x7ba1e000-0x7ba26fff", that firmware claims for its group, so that nobody may use it.
    group_node, device_node: the nodes that programs open for it; None if there is none, for example because no VFIO
    driver has it. interfaces: its network interfaces. disks: its disks and partitions. override: what its
    driver_override names; None for nothing. is_noiommu: whether it is bound to a VFIO driver although there is no IOMMU
    behind it, which is unsafe. awaits_group: whether it has had no driver yet on a host with a virtio-iommu, which
    makes a group only then.
    """

    device: PciDevice
    kind: str
    name: str
    short_name: str
    blocked_by: tuple[PciDevice | GroupMember, ...]
    direct: tuple[str, ...]
    group_node: str | None
    device_node: str | None
    interfaces: tuple[InterfaceUse, ...]
    disks: tuple[str, ...]
    override: str | None
    is_noiommu: bool
    awaits_group: bool

    @property
    def viable(self) -> bool:
        """Whether its group can be used through VFIO once it is bound to a VFIO driver itself.

        False for a bridge, and where that is not known yet.
        """
        return not (self.device.group is None or self.blocked_by or self.direct or self.device.is_bridge)

    @property
    def viability(self) -> str:
        """The same in words, with what has to be done or who is in the way."""
        if self.device.is_bridge:
            return "bridge"
        if self.device.group is None:
            return "not known yet" if self.awaits_group else "no IOMMU"
        if self.direct:
            return f"no: firmware claims {', '.join(self.direct)}"
        if self.blocked_by:
            return f"no: {', '.join(f'{member.address} {member.driver}' for member in self.blocked_by)}"
        if self.device.blocks_group:
            return "once bound"
        return "yes, without IOMMU" if self.is_noiommu else "yes"


def inventory(kernel: Kernel, network: Network, devices: Iterable[PciDevice] | None = None) -> list[Entry]:
    """The entries of devices, by default of every PCI function of the host by address. Raises OSError."""
    names = names_of_host(kernel)
    makes_groups = VIRTIO_IOMMU in iommu_kinds(kernel)
    devices = pci_devices(kernel) if devices is None else devices
    return [_entry(kernel, network, names, device, makes_groups=makes_groups) for device in devices]


def _entry(kernel: Kernel, network: Network, names: PciNames, device: PciDevice, *, makes_groups: bool) -> Entry:
    override = text_or_empty(kernel, f"{DEVICES}/{device.address}/driver_override")
    group = device.group
    return Entry(
        device,
        kind(device.class_code),
        names.name(device.vendor_id, device.device_id),
        names.short_name(device.vendor_id, device.device_id),
        () if group is None else tuple(each for each in blocking_members(kernel, group) if each != device),
        () if group is None else tuple(direct_regions(kernel, group)),
        group_node(kernel, group) if device.has_vfio_driver and group is not None else None,
        character_device(kernel, device.address),
        tuple(network.use(name) for name in interfaces(kernel, device.address)),
        tuple(block_devices(kernel, device.address)),
        None if override in ("", "(null)") else override,
        group is not None and is_noiommu(kernel, group),
        makes_groups and group is None and device.driver is None and not device.is_bridge,
    )
