"""The host around VFIO: its PCI devices, their drivers, groups and users, and how a driver is changed."""

from pyvfio.host.binding import Binding, Write, bind, group_addresses, restore, unbind
from pyvfio.host.details import DeviceDetails, device_details
from pyvfio.host.inventory import Entry, inventory
from pyvfio.host.network import InterfaceUse, LinuxNetwork, Network
from pyvfio.host.rebind import (
    Change,
    perform,
    perform_restore,
    plan_bind,
    plan_restore,
    plan_unbind,
    require_expected,
    require_not_needed,
)
from pyvfio.host.uevents import LinuxUevents, Uevent, Uevents, wait_for_node
from pyvfio.host.undo import DEFAULT, UndoFile

__all__ = [
    "DEFAULT",
    "Binding",
    "Change",
    "DeviceDetails",
    "Entry",
    "InterfaceUse",
    "LinuxNetwork",
    "LinuxUevents",
    "Network",
    "Uevent",
    "Uevents",
    "UndoFile",
    "Write",
    "bind",
    "device_details",
    "group_addresses",
    "inventory",
    "perform",
    "perform_restore",
    "plan_bind",
    "plan_restore",
    "plan_unbind",
    "require_expected",
    "require_not_needed",
    "restore",
    "unbind",
    "wait_for_node",
]
