"""Groups without an IOMMU: their devices work, nothing can be mapped. Source: vfio_noiommu_ops in container.c."""

from errno import EBADF, EBUSY, EINVAL, ENODEV, ENOTTY, EPERM

from pyvfio.abi import iommufd as abi
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
from tests.conformance.calls.iommufd import ioas_alloc, open_iommufd, vfio_ioas
from tests.conformance.calls.process import close, drop_raw_io, tainted_by_user
from tests.conformance.case import Case, Expected, ok
from tests.conformance.step import Step

NOIOMMU = vfio.VFIO_NOIOMMU_IOMMU

_GROUP = [open_container(), open_group()]
_JOINED = [*_GROUP, set_container()]
_READY = [*_JOINED, set_iommu(kind=NOIOMMU)]
_DEVICE = [*_READY, get_device_fd()]

_MDEV = open_group(device="mdev", name="mdev")
_MEDIATED = [open_container(), _MDEV, set_container(group="mdev"), set_iommu()]

# An iommufd in a container's place, which takes note that there is no IOMMU.
_COMPAT = [open_iommufd(name="container"), open_group()]
_COMPAT_JOINED = [*_COMPAT, set_container()]
_COMPAT_READY = [*_COMPAT_JOINED, set_iommu(kind=NOIOMMU)]
_COMPAT_IOAS = [open_iommufd(), ioas_alloc(), vfio_ioas(op=abi.IOMMU_VFIO_IOAS_SET, ioas=1), open_group()]

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
    # A mediated device has the IOMMU of its driver, so to speak.
    ("a mediated device beside it", [*_READY, _MDEV], set_container(group="mdev"), EPERM),
    ("a mediated device beside it, before SET_IOMMU", [*_JOINED, _MDEV], set_container(group="mdev"), EPERM),
    ("beside a mediated device", [*_MEDIATED, open_group()], set_container(), EPERM),
    ("beside a mediated device, before SET_IOMMU", [*_MEDIATED[:-1], open_group()], set_container(), EPERM),
    ("a mediated device", _MEDIATED, map_dma(), ok(mapped=1)),
    ("extension with a mediated device", _MEDIATED[:-1], check_extension(extension=NOIOMMU), ok(value=0)),
    ("a mediated device, SET_IOMMU", _MEDIATED[:-1], set_iommu(kind=NOIOMMU), ENODEV),
    ("the kernel is tainted", [], tainted_by_user(), ok(value=1)),
    # What takes CAP_SYS_RAWIO, and what goes first.
    ("open without the capability", [open_container(), drop_raw_io()], open_group(), EPERM),
    ("open twice without it", [*_GROUP, drop_raw_io()], open_group(name="again"), EPERM),
    ("status without it", [*_GROUP, drop_raw_io()], get_status(), ok(flags=1)),
    ("join without it", [*_GROUP, drop_raw_io()], set_container(), EPERM),
    ("join no container without it", [*_GROUP, drop_raw_io()], set_container(container=4095), EBADF),
    ("join twice without it", [*_JOINED, drop_raw_io()], set_container(), EINVAL),
    ("SET_IOMMU without it", [*_JOINED, drop_raw_io()], set_iommu(kind=NOIOMMU), EPERM),
    ("SET_IOMMU type1 without it", [*_JOINED, drop_raw_io()], set_iommu(), ENODEV),
    ("device without it", [*_READY, drop_raw_io()], get_device_fd(), EPERM),
    ("device again without it", [*_DEVICE, drop_raw_io()], get_device_fd(name="again"), ok()),
    ("device without it and SET_IOMMU", [*_JOINED, drop_raw_io()], get_device_fd(), EINVAL),
    ("device that is not there without it", [*_READY, drop_raw_io()], get_device_fd(text="0000:ff:1f.7"), ENODEV),
    ("leave without it", [*_READY, drop_raw_io()], unset_container(), ok()),
]

_COMPAT_ROWS: list[tuple[str, list[Step], Step, Expected]] = [
    ("iommufd: extension", _COMPAT, check_extension(extension=NOIOMMU), ok(value=1)),
    ("iommufd: extension type1v2", _COMPAT, check_extension(extension=vfio.VFIO_TYPE1v2_IOMMU), ok(value=1)),
    ("iommufd: join", _COMPAT, set_container(), ok()),
    ("iommufd: join twice", _COMPAT_JOINED, set_container(), EINVAL),
    ("iommufd: status", _COMPAT_JOINED, get_status(), ok(flags=3)),
    ("iommufd: extension with a group", _COMPAT_JOINED, check_extension(extension=NOIOMMU), ok(value=1)),
    *(
        (f"iommufd: extension {name} with a group", _COMPAT_JOINED, check_extension(extension=extension), ok(value=0))
        for name, extension in (
            ("type1", vfio.VFIO_TYPE1_IOMMU),
            ("type1v2", vfio.VFIO_TYPE1v2_IOMMU),
            ("UNMAP_ALL", vfio.VFIO_UNMAP_ALL),
        )
    ),
    ("iommufd: SET_IOMMU without a group", _COMPAT, set_iommu(kind=NOIOMMU), EINVAL),
    ("iommufd: SET_IOMMU", _COMPAT_JOINED, set_iommu(kind=NOIOMMU), ok()),
    ("iommufd: SET_IOMMU twice", _COMPAT_READY, set_iommu(kind=NOIOMMU), ok()),
    ("iommufd: SET_IOMMU type1v2", _COMPAT_JOINED, set_iommu(), EINVAL),
    ("iommufd: SET_IOMMU without the capability", [*_COMPAT_JOINED, drop_raw_io()], set_iommu(kind=NOIOMMU), EPERM),
    ("iommufd: join without it", [*_COMPAT, drop_raw_io()], set_container(), ok()),
    ("iommufd: device", _COMPAT_READY, get_device_fd(), ok()),
    ("iommufd: device without SET_IOMMU", _COMPAT_JOINED, get_device_fd(), ok()),
    ("iommufd: device without the capability", [*_COMPAT_READY, drop_raw_io()], get_device_fd(), EPERM),
    ("iommufd: device info", [*_COMPAT_READY, get_device_fd()], get_info(), ok(flags=2, num_regions=9, num_irqs=5)),
    ("iommufd: info", _COMPAT_READY, get_iommu_info(), ENODEV),
    ("iommufd: map", _COMPAT_READY, map_dma(), ENODEV),
    ("iommufd: unmap", _COMPAT_READY, unmap_dma(), ENODEV),
    ("iommufd: join with an address space", _COMPAT_IOAS, set_container(container="iommufd"), EINVAL),
    ("iommufd: leave with a device open", [*_COMPAT_READY, get_device_fd()], unset_container(), ok()),
    ("iommufd: leave", _COMPAT_READY, unset_container(), ok()),
    ("iommufd: again", [*_COMPAT_READY, unset_container()], set_container(), ok()),
]

CASES = [Case(*row, needs=["noiommu"]) for row in _ROWS]
CASES += [Case(*row, needs=["noiommu", "iommufd"]) for row in _COMPAT_ROWS]
