"""PCI functions as sysfs shows them."""

from pyvfio.sysfs.attached import block_devices, character_device, interfaces
from pyvfio.sysfs.named import named_address, named_device
from pyvfio.sysfs.pci import (
    DEVICES,
    GROUPS,
    PciDevice,
    blocking_members,
    full_address,
    group_members,
    group_node,
    is_address,
    is_noiommu,
    pci_device,
    pci_devices,
    vfio_device,
)

__all__ = [
    "DEVICES",
    "GROUPS",
    "PciDevice",
    "block_devices",
    "blocking_members",
    "character_device",
    "full_address",
    "group_members",
    "group_node",
    "interfaces",
    "is_address",
    "is_noiommu",
    "named_address",
    "named_device",
    "pci_device",
    "pci_devices",
    "vfio_device",
]
