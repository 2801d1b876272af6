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


def compat_cases(opened: Step, feature: str) -> list[Case]:
    """opened: opens the container. feature: what the machine must have for that."""

    def compat_case(name: str, setup: list[Step], call: Step, answer: Expected, *after: tuple[Step, Expected]) -> Case:
        return Case(name, setup, call, answer, after=after, needs=(feature,))

    start = [opened, open_group()]
    attached = [*start, set_container()]
    ready = [*attached, set_iommu(), get_device_fd()]
    # type1 gives up huge pages so that it can cut.
    old = [*attached, set_iommu(kind=TYPE1), get_device_fd()]
    # By the IOMMU's driver, so not before a device is opened; virtio's takes it.
    refused = by_iommu(intel=EINVAL, amd=EINVAL, virtio=ok())
    return [
        compat_case("its version", start, get_api_version(), ok(value=0)),
        *(
            compat_case(f"extension {extension}", attached, check_extension(extension=extension), ok(value=value))
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
        compat_case("coherency without a group", start, check_extension(extension=vfio.VFIO_DMA_CC_IOMMU), ENODEV),
        compat_case(
            "coherency",
            ready,
            check_extension(extension=vfio.VFIO_DMA_CC_IOMMU),
            by_iommu(intel=ok(value=0), amd=ok(value=1), virtio=ok(value=0)),
        ),
        # Before there is an address space.
        compat_case("SET_IOMMU without a group", start, set_iommu(), ENODEV),
        compat_case("MAP_DMA without a group", start, map_dma(), ENODEV),
        compat_case("UNMAP_DMA without a group", start, unmap_dma(), ENODEV),
        compat_case("GET_INFO without a group", start, get_iommu_info(), ENODEV),
        compat_case("a struct that is too small comes first", start, map_dma(argsz=16), EINVAL),
        compat_case("SET_IOMMU of another kind", attached, set_iommu(kind=vfio.VFIO_SPAPR_TCE_IOMMU), EINVAL),
        compat_case("SET_IOMMU without an IOMMU", attached, set_iommu(kind=NOIOMMU), EINVAL),
        compat_case("SET_IOMMU twice", [*attached, set_iommu()], set_iommu(), ok()),
        compat_case("mapping needs no SET_IOMMU", attached, map_dma(), ok()),
        compat_case("nor does opening a device", attached, get_device_fd(), ok()),
        compat_case("a group that is attached twice", attached, set_container(), EINVAL),
        compat_case("a group that leaves", attached, unset_container(), ok(), (map_dma(), ok())),
        compat_case(
            "a group that leaves with a device open",
            ready,
            unset_container(),
            ok(),
            (map_dma(), ok()),
            (get_device_fd(name="again"), EINVAL),
            (set_container(), ok()),
            (get_device_fd(name="again"), ok()),
        ),
        compat_case("dirty pages", ready, dirty_pages(flags=vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START), ENOTTY),
        compat_case("an ioctl it does not know", ready, unknown_container_ioctl(number=18), ENOTTY),
        # Maps.
        compat_case("map", ready, map_dma(), ok()),
        compat_case("map twice", [*ready, map_dma()], map_dma(), EEXIST),
        compat_case("map with an address to come", ready, map_dma(flags=vfio.VFIO_DMA_MAP_FLAG_VADDR), EINVAL),
        compat_case("map nothing", ready, map_dma(size=0), EINVAL),
        compat_case("map less than a page", ready, map_dma(size=7), EINVAL),
        compat_case("map at an odd address", ready, map_dma(iova=IOVA + 1), EINVAL),
        compat_case("map what wraps", ready, map_dma(iova=(1 << 64) - PAGE, size=2 * PAGE), EOVERFLOW),
        compat_case("map what is not there", ready, map_dma(memory="hole"), EFAULT),
        compat_case("map what may not be written", ready, map_dma(memory="readonly"), EFAULT),
        compat_case("map for no access", ready, map_dma(flags=0), refused),
        compat_case(
            "map for no access, without a device", attached, map_dma(flags=0), ok(), (get_device_fd(), refused)
        ),
        compat_case("map what is not there for no access", ready, map_dma(flags=0, memory="hole"), EFAULT),
        # Unmaps.
        compat_case("unmap", [*ready, map_dma()], unmap_dma(), ok(size=PAGE), (unmap_dma(), ok(size=0))),
        compat_case("unmap nothing there", ready, unmap_dma(), ok(size=0)),
        compat_case("unmap no bytes", ready, unmap_dma(size=0), EINVAL),
        compat_case("unmap what wraps", ready, unmap_dma(iova=(1 << 64) - PAGE, size=2 * PAGE), EOVERFLOW),
        compat_case("unmap a head", [*ready, map_dma(size=4 * PAGE)], unmap_dma(), ENOENT),
        compat_case("unmap with an address to come", ready, unmap_dma(flags=VADDR), EINVAL),
        compat_case(
            "unmap all",
            [*ready, map_dma(), map_dma(iova=0)],
            unmap_dma(iova=0, size=0, flags=ALL),
            ok(size=2 * PAGE),
        ),
        compat_case("unmap all of nothing", ready, unmap_dma(iova=0, size=0, flags=ALL), ok(size=0)),
        compat_case("unmap all from an address", ready, unmap_dma(size=0, flags=ALL), EINVAL),
        compat_case(
            "type1 cuts",
            [*old, map_dma(size=4 * PAGE)],
            unmap_dma(iova=IOVA + PAGE, size=2 * PAGE),
            ok(size=2 * PAGE),
            (unmap_dma(size=4 * PAGE), ok(size=2 * PAGE)),
        ),
        compat_case("type1 is chosen too late", [*ready, map_dma()], set_iommu(kind=TYPE1), EINVAL),
    ]


CASES = compat_cases(open_iommufd(name="container"), "iommufd")
