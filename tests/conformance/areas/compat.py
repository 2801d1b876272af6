"""Container ioctls that an iommufd answers. Source: drivers/iommu/iommufd/vfio_compat.c, drivers/vfio/group.c."""

from errno import EEXIST, EFAULT, EINVAL, ENODEV, ENOENT, ENOTTY, EOVERFLOW

from pyvfio.abi import vfio
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import (
    IOVA,
    check_extension,
    dirty_pages,
    get_api_version,
    get_iommu_info,
    map_dma,
    set_iommu,
    unknown_container_ioctl,
    unmap_dma,
)
from tests.conformance.calls.group import get_device_fd, open_group, set_container, unset_container
from tests.conformance.calls.iommufd import open_iommufd
from tests.conformance.case import Case, Expected, by_iommu, ok
from tests.conformance.step import Step

TYPE1, TYPE1_V2, NOIOMMU = vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_NOIOMMU_IOMMU
ALL, VADDR = vfio.VFIO_DMA_UNMAP_FLAG_ALL, vfio.VFIO_DMA_UNMAP_FLAG_VADDR

OPEN = [open_iommufd(name="container"), open_group()]
ATTACHED = [*OPEN, set_container()]
READY = [*ATTACHED, set_iommu(), get_device_fd()]
OLD = [*ATTACHED, set_iommu(kind=TYPE1), get_device_fd()]
"""type1, which gives up huge pages so that it can cut."""


def compat_case(name: str, setup: list[Step], call: Step, answer: Expected, *after: tuple[Step, Expected]) -> Case:
    return Case(name, setup, call, answer, after=after, needs=("iommufd",))


CASES = [
    compat_case("its version", OPEN, get_api_version(), ok(value=0)),
    *(
        compat_case(f"extension {extension}", ATTACHED, check_extension(extension=extension), ok(value=value))
        for extension, value in (
            (TYPE1, 1),
            (TYPE1_V2, 1),
            (NOIOMMU, 1),
            (vfio.VFIO_UNMAP_ALL, 1),
            (vfio.VFIO_UPDATE_VADDR, 0),
            (vfio.VFIO_TYPE1_NESTING_IOMMU, 0),
            (vfio.VFIO_SPAPR_TCE_IOMMU, 0),
            (999, 0),
        )
    ),
    compat_case("coherency without a group", OPEN, check_extension(extension=vfio.VFIO_DMA_CC_IOMMU), ENODEV),
    compat_case(
        "coherency",
        READY,
        check_extension(extension=vfio.VFIO_DMA_CC_IOMMU),
        by_iommu(intel=ok(value=0), amd=ok(value=1), virtio=ok(value=0)),
    ),
    # Before there is an address space.
    compat_case("SET_IOMMU without a group", OPEN, set_iommu(), ENODEV),
    compat_case("MAP_DMA without a group", OPEN, map_dma(), ENODEV),
    compat_case("UNMAP_DMA without a group", OPEN, unmap_dma(), ENODEV),
    compat_case("GET_INFO without a group", OPEN, get_iommu_info(), ENODEV),
    compat_case("a struct that is too small comes first", OPEN, map_dma(argsz=16), EINVAL),
    compat_case("SET_IOMMU of another kind", ATTACHED, set_iommu(kind=vfio.VFIO_SPAPR_TCE_IOMMU), EINVAL),
    compat_case("SET_IOMMU without an IOMMU", ATTACHED, set_iommu(kind=NOIOMMU), EINVAL),
    compat_case("SET_IOMMU twice", [*ATTACHED, set_iommu()], set_iommu(), ok()),
    compat_case("mapping needs no SET_IOMMU", ATTACHED, map_dma(), ok()),
    compat_case("nor does opening a device", ATTACHED, get_device_fd(), ok()),
    compat_case("a group that is attached twice", ATTACHED, set_container(), EINVAL),
    compat_case("a group that leaves", ATTACHED, unset_container(), ok(), (map_dma(), ok())),
    compat_case(
        "a group that leaves with a device open",
        READY,
        unset_container(),
        ok(),
        (map_dma(), ok()),
        (get_device_fd(name="again"), EINVAL),
        (set_container(), ok()),
        (get_device_fd(name="again"), ok()),
    ),
    compat_case("dirty pages", READY, dirty_pages(flags=vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START), ENOTTY),
    compat_case("an ioctl it does not know", READY, unknown_container_ioctl(number=18), ENOTTY),
    # Maps.
    compat_case("map", READY, map_dma(), ok()),
    compat_case("map twice", [*READY, map_dma()], map_dma(), EEXIST),
    compat_case("map with an address to come", READY, map_dma(flags=vfio.VFIO_DMA_MAP_FLAG_VADDR), EINVAL),
    compat_case("map nothing", READY, map_dma(size=0), EINVAL),
    compat_case("map less than a page", READY, map_dma(size=7), EINVAL),
    compat_case("map at an odd address", READY, map_dma(iova=IOVA + 1), EINVAL),
    compat_case("map what wraps", READY, map_dma(iova=(1 << 64) - PAGE, size=2 * PAGE), EOVERFLOW),
    compat_case("map what is not there", READY, map_dma(memory="hole"), EFAULT),
    compat_case("map what may not be written", READY, map_dma(memory="readonly"), EFAULT),
    # Unmaps.
    compat_case("unmap", [*READY, map_dma()], unmap_dma(), ok(size=PAGE), (unmap_dma(), ok(size=0))),
    compat_case("unmap nothing there", READY, unmap_dma(), ok(size=0)),
    compat_case("unmap no bytes", READY, unmap_dma(size=0), EINVAL),
    compat_case("unmap what wraps", READY, unmap_dma(iova=(1 << 64) - PAGE, size=2 * PAGE), EOVERFLOW),
    compat_case("unmap a head", [*READY, map_dma(size=4 * PAGE)], unmap_dma(), ENOENT),
    compat_case("unmap with an address to come", READY, unmap_dma(flags=VADDR), EINVAL),
    compat_case(
        "unmap all",
        [*READY, map_dma(), map_dma(iova=0)],
        unmap_dma(iova=0, size=0, flags=ALL),
        ok(size=2 * PAGE),
    ),
    compat_case("unmap all of nothing", READY, unmap_dma(iova=0, size=0, flags=ALL), ok(size=0)),
    compat_case("unmap all from an address", READY, unmap_dma(size=0, flags=ALL), EINVAL),
    compat_case(
        "type1 cuts",
        [*OLD, map_dma(size=4 * PAGE)],
        unmap_dma(iova=IOVA + PAGE, size=2 * PAGE),
        ok(size=2 * PAGE),
        (unmap_dma(size=4 * PAGE), ok(size=2 * PAGE)),
    ),
    compat_case("type1 is chosen too late", [*READY, map_dma()], set_iommu(kind=TYPE1), EINVAL),
]
