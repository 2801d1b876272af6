"""Containers and groups: VFIO's own way to a device and its DMA mappings (type1)."""

from pyvfio.container.container import Container, IommuInfo, IommuType
from pyvfio.container.group import Group

__all__ = [
    "Container",
    "Group",
    "IommuInfo",
    "IommuType",
]
