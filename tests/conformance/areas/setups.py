"""How cases begin."""

from pyvfio.abi import vfio
from tests.conformance.calls.container import open_container, set_iommu
from tests.conformance.calls.group import get_device_fd, open_group, set_container
from tests.conformance.calls.process import allocate, punch
from tests.conformance.step import Step

OPEN = [open_container(), open_group()]
"""A container and a group that have nothing to do with each other yet."""

ATTACHED = [*OPEN, set_container()]
"""The group is in the container, which has no IOMMU."""

READY = [*ATTACHED, set_iommu()]
"""A type1v2 container."""

READY_TYPE1 = [*ATTACHED, set_iommu(kind=vfio.VFIO_TYPE1_IOMMU)]

DEVICE = [*READY, get_device_fd()]
"""An edu, open."""


def holed(hole: int) -> list[Step]:
    """Memory called "holed": pages, one that is not there, and another one."""
    return [allocate(name="holed", pages=hole + 2), punch(name="holed", first=hole)]
