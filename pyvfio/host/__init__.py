"""The host around VFIO: its PCI devices, their drivers, groups and users, and how a driver is changed."""

from pyvfio.host.addresses import DeviceAddresses, ReservedRegion, device_addresses
from pyvfio.host.binding import Binding, Write, bind, group_addresses, restore, unbind
from pyvfio.host.foreseen import lacks_iommu, require_probe, require_usable_groups, warnings_about
from pyvfio.host.host import Host
from pyvfio.host.inspect import DeviceDetails, device_details
from pyvfio.host.inventory import Entry, inventory
from pyvfio.host.network import InterfaceUse, LinuxNetwork
from pyvfio.host.nodes import give_nodes, give_nodes_script, owned_nodes, owners_of, wait_for_nodes
from pyvfio.host.rebind import (
    Change,
    entries_to_restore,
    owner_by_another,
    owners_to_restore,
    perform,
    perform_restore,
    plan_bind,
    plan_restore,
    plan_unbind,
    require_expected,
    require_not_needed,
)
from pyvfio.host.rules import Owner, Rule, RuleDirectories, writes_of
from pyvfio.host.selection import Selection, parse_ids
from pyvfio.host.uevents import LinuxUevents, Uevent, Uevents, wait_for_node
from pyvfio.host.undo import DEFAULT, UndoFile

__all__ = [
    "DEFAULT",
    "Binding",
    "Change",
    "DeviceAddresses",
    "DeviceDetails",
    "Entry",
    "Host",
    "InterfaceUse",
    "LinuxNetwork",
    "LinuxUevents",
    "Owner",
    "ReservedRegion",
    "Rule",
    "RuleDirectories",
    "Selection",
    "Uevent",
    "Uevents",
    "UndoFile",
    "Write",
    "bind",
    "device_addresses",
    "device_details",
    "entries_to_restore",
    "give_nodes",
    "give_nodes_script",
    "group_addresses",
    "inventory",
    "lacks_iommu",
    "owned_nodes",
    "owner_by_another",
    "owners_of",
    "owners_to_restore",
    "parse_ids",
    "perform",
    "perform_restore",
    "plan_bind",
    "plan_restore",
    "plan_unbind",
    "require_expected",
    "require_not_needed",
    "require_probe",
    "require_usable_groups",
    "restore",
    "unbind",
    "wait_for_node",
    "wait_for_nodes",
    "warnings_about",
    "writes_of",
]
