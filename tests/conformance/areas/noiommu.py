"""Groups without an IOMMU: their devices work, nothing can be mapped. Source: vfio_noiommu_ops in container.c."""

from errno import EBUSY, EINVAL, ENODEV, ENOTTY

from pyvfio.abi import vfio
from tests.conformance.calls.container import (
    check_extension,
    dirty_pages,
    get_api_version,
    get_iommu_info,
    map_dma,
    open_container,
    set_iommu,
    unknown_container_ioctl,
    unmap_dma,
)
from tests.conformance.calls.device import get_info, map_region, read_region
from tests.conformance.calls.group import get_device_fd, get_status, open_group, set_container, unset_container
from tests.conformance.calls.process import close
from tests.conformance.case import Case, Expected, ok
from tests.conformance.step import Step

NOIOMMU = vfio.VFIO_NOIOMMU_IOMMU

_GROUP = [open_container(), open_group()]
_JOINED = [*_GROUP, set_container()]
_READY = [*_JOINED, set_iommu(kind=NOIOMMU)]
_DEVICE = [*_READY, get_device_fd()]

_ROWS: list[tuple[str, list[Step], Step, Expected]] = [
    ("open twice", _GROUP, open_group(name="again"), EBUSY),
    ("status", _GROUP, get_status(), ok(flags=1)),
    ("status in a container", _JOINED, get_status(), ok(flags=3)),
    ("API version", _READY, get_api_version(), ok(value=0)),
    ("extension without a group", _GROUP, check_extension(extension=NOIOMMU), ok(value=1)),
    ("extension type1v2 without a group", _GROUP, check_extension(extension=vfio.VFIO_TYPE1v2_IOMMU), ok(value=1)),
    ("extension", _JOINED, check_extension(extension=NOIOMMU), ok(value=1)),
    ("extension type1", _JOINED, check_extension(extension=vfio.VFIO_TYPE1_IOMMU), ok(value=0)),
    ("extension type1v2", _JOINED, check_extension(extension=vfio.VFIO_TYPE1v2_IOMMU), ok(value=0)),
    ("extension UNMAP_ALL", _JOINED, check_extension(extension=vfio.VFIO_UNMAP_ALL), ok(value=0)),
    ("extension with it", _READY, check_extension(extension=NOIOMMU), ok(value=1)),
    ("extension type1 with it", _READY, check_extension(extension=vfio.VFIO_TYPE1_IOMMU), ok(value=0)),
    ("SET_IOMMU type1", _JOINED, set_iommu(kind=vfio.VFIO_TYPE1_IOMMU), ENODEV),
    ("SET_IOMMU type1v2", _JOINED, set_iommu(), ENODEV),
    ("SET_IOMMU", _JOINED, set_iommu(kind=NOIOMMU), ok()),
    ("SET_IOMMU twice", _READY, set_iommu(kind=NOIOMMU), EINVAL),
    ("SET_IOMMU without a group", _GROUP, set_iommu(kind=NOIOMMU), EINVAL),
    ("map before SET_IOMMU", _JOINED, map_dma(), EINVAL),
    ("map", _READY, map_dma(), ENOTTY),
    ("map, no struct", _READY, map_dma(reach=0), ENOTTY),
    ("unmap", _READY, unmap_dma(), ENOTTY),
    ("info", _READY, get_iommu_info(), ENOTTY),
    ("dirty pages", _READY, dirty_pages(flags=1), ENOTTY),
    ("an ioctl that is none", _READY, unknown_container_ioctl(number=99), ENOTTY),
    ("device without SET_IOMMU", _JOINED, get_device_fd(), EINVAL),
    ("device", _READY, get_device_fd(), ok()),
    ("device info", _DEVICE, get_info(), ok(flags=2, num_regions=9, num_irqs=5)),
    ("read its config space", _DEVICE, read_region(region=7), ok(data="3412e811")),
    ("map its registers", _DEVICE, map_region(), ok()),
    ("leave with a device open", _DEVICE, unset_container(), EBUSY),
    ("leave", _READY, unset_container(), ok()),
    ("a second group", [*_READY, open_group(device="1", name="second")], set_container(group="second"), ok()),
    ("after the last group", [*_READY, close(name="group")], map_dma(), EINVAL),
]

CASES = [Case(*row, needs=["noiommu"]) for row in _ROWS]
