"""A device and its parts: regions, interrupts, config space, features, reset, migration."""

from pyvfio.device.bar_memory import BarMemory
from pyvfio.device.config_space import ConfigSpace, PciCommand, PciStatus, no_answer
from pyvfio.device.device import Device
from pyvfio.device.display import Display, DrmPlaneType, GfxPlane, GfxPlaneType
from pyvfio.device.dma_logging import DmaLogging
from pyvfio.device.edid import Edid
from pyvfio.device.features import Feature, FeatureAccess, Features
from pyvfio.device.ioeventfd import IoEventFd
from pyvfio.device.irq import InterruptFlags, InterruptIndex, InterruptInfo, Interrupts
from pyvfio.device.migration import Migration, MigrationKinds, MigrationState, MigrationStream, PrecopyInfo
from pyvfio.device.open_device import DeviceFlags, DeviceGroup, DeviceInfo, OpenDevice, PciAtomics
from pyvfio.device.pci_capabilities import Msi, Msix, PciCapability, PciExpress, PowerManagement, Sriov
from pyvfio.device.region import Region, RegionIndex
from pyvfio.device.region_info import MmapArea, RegionFlags, RegionInfo, RegionType
from pyvfio.device.registers import Field, Register, Registers
from pyvfio.device.reset import AffectedDevice

__all__ = [
    "AffectedDevice",
    "BarMemory",
    "ConfigSpace",
    "Device",
    "DeviceFlags",
    "DeviceGroup",
    "DeviceInfo",
    "Display",
    "DmaLogging",
    "DrmPlaneType",
    "Edid",
    "Feature",
    "FeatureAccess",
    "Features",
    "Field",
    "GfxPlane",
    "GfxPlaneType",
    "InterruptFlags",
    "InterruptIndex",
    "InterruptInfo",
    "Interrupts",
    "IoEventFd",
    "Migration",
    "MigrationKinds",
    "MigrationState",
    "MigrationStream",
    "MmapArea",
    "Msi",
    "Msix",
    "OpenDevice",
    "PciAtomics",
    "PciCapability",
    "PciCommand",
    "PciExpress",
    "PciStatus",
    "PowerManagement",
    "PrecopyInfo",
    "Region",
    "RegionFlags",
    "RegionIndex",
    "RegionInfo",
    "RegionType",
    "Register",
    "Registers",
    "Sriov",
    "no_answer",
]
