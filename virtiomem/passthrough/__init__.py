"""Devices that a guest itself drives, beside the memory that it plugs: served over vfio-user to its virtual machine
monitor, which needs no right to anything."""

from virtiomem.passthrough.identity import IdentityListener, OutsideRegions, Regions
from virtiomem.passthrough.options import KEYS, PassthroughOptions
from virtiomem.passthrough.passed_device import PassedDevice
from virtiomem.passthrough.qemu import qemu_option

__all__ = [
    "KEYS",
    "IdentityListener",
    "OutsideRegions",
    "PassedDevice",
    "PassthroughOptions",
    "Regions",
    "qemu_option",
]
