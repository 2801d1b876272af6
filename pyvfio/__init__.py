"""VFIO for Python: containers, groups, devices, regions, interrupts and DMA mappings of the Linux kernel."""

from pyvfio.address_space import Access, AddressSpace, IovaRange, MappedRun
from pyvfio.container import Container, IommuInfo, IommuType
from pyvfio.device import Device, DeviceFlags, DeviceInfo
from pyvfio.errors import (
    AlreadyMapped,
    ClosedError,
    DeviceNotBound,
    GroupBusy,
    GroupNotViable,
    InvalidArgument,
    MappingLimitReached,
    MemlockExceeded,
    MemoryUnavailable,
    NoIommuError,
    NotMapped,
    OutsideIovaRanges,
    ShortUnmap,
    StillMapped,
    VfioError,
)
from pyvfio.group import Group
from pyvfio.irq import InterruptFlags, InterruptIndex, InterruptInfo, Interrupts
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.memory import Memory, MemoryKind
from pyvfio.pci import ConfigSpace, PciCapability
from pyvfio.region import MmapArea, Region, RegionFlags, RegionInfo

__all__ = [
    "Access",
    "AddressSpace",
    "AlreadyMapped",
    "ClosedError",
    "ConfigSpace",
    "Container",
    "Device",
    "DeviceFlags",
    "DeviceInfo",
    "DeviceNotBound",
    "Group",
    "GroupBusy",
    "GroupNotViable",
    "InterruptFlags",
    "InterruptIndex",
    "InterruptInfo",
    "Interrupts",
    "InvalidArgument",
    "IommuInfo",
    "IommuType",
    "IovaRange",
    "Kernel",
    "LinuxKernel",
    "MappedRun",
    "MappingLimitReached",
    "MemlockExceeded",
    "Memory",
    "MemoryKind",
    "MemoryUnavailable",
    "MmapArea",
    "NoIommuError",
    "NotMapped",
    "OutsideIovaRanges",
    "PciCapability",
    "Region",
    "RegionFlags",
    "RegionInfo",
    "ShortUnmap",
    "StillMapped",
    "VfioError",
]
