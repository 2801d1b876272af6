"""PCI functions and IOMMU groups as sysfs shows them."""

from pyvfio.sysfs.attached import block_devices, character_device, device_nodes, interfaces, of_class, virtual_functions
from pyvfio.sysfs.iommus import VIRTIO_IOMMU, VT_D, iommu_kinds
from pyvfio.sysfs.named import named_address, named_device
from pyvfio.sysfs.pci import (
    DEVICES,
    GROUPS,
    GroupMember,
    PciDevice,
    blocking_members,
    direct_regions,
    full_address,
    group_members,
    group_node,
    is_address,
    is_noiommu,
    other_members,
    pci_device,
    pci_devices,
    vfio_device,
)

__all__ = [
    "DEVICES",
    "GROUPS",
    "VIRTIO_IOMMU",
    "VT_D",
    "GroupMember",
    "PciDevice",
    "block_devices",
    "blocking_members",
    "character_device",
    "device_nodes",
    "direct_regions",
    "full_address",
    "group_members",
    "group_node",
    "interfaces",
    "iommu_kinds",
    "is_address",
    "is_noiommu",
    "named_address",
    "named_device",
    "of_class",
    "other_members",
    "pci_device",
    "pci_devices",
    "vfio_device",
    "virtual_functions",
]
