"""Containers and groups: VFIO's own way to a device and its DMA mappings (type1)."""

from pyvfio.container.container import Container
from pyvfio.container.dirty import ContainerDirtyTracking
from pyvfio.container.group import Group
from pyvfio.container.info import IommuInfo, IommuType
from pyvfio.container.shared_container import SharedContainer

__all__ = [
    "Container",
    "ContainerDirtyTracking",
    "Group",
    "IommuInfo",
    "IommuType",
    "SharedContainer",
]
