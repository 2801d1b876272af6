"""Names of ioctls, for messages and logs: a number means different things on different descriptors."""

from enum import StrEnum

from pyvfio.abi import iommufd, vfio


class FdKind(StrEnum):
    """What a descriptor was opened as."""

    CONTAINER = "container"
    SPAPR_CONTAINER = "sPAPR container"
    GROUP = "group"
    DEVICE = "device"
    MIGRATION_DATA = "migration data"
    IOMMUFD = "iommufd"


def ioctl_name(kind: FdKind, request: int) -> str:
    """The header's name of an ioctl on a descriptor of this kind, or the number in hex if it has none."""
    for name in _NAMES[kind]:
        if getattr(iommufd if name.startswith("IOMMU_") else vfio, name) == request:
            return name
    return f"ioctl {request:#x}"


def ioctl_names(kind: FdKind) -> tuple[str, ...]:
    """The header's names of the ioctls that a descriptor of this kind takes."""
    return _NAMES[kind]


_ANY_CONTAINER = ("VFIO_GET_API_VERSION", "VFIO_CHECK_EXTENSION", "VFIO_SET_IOMMU")
_CONTAINER = (
    *_ANY_CONTAINER,
    "VFIO_IOMMU_GET_INFO",
    "VFIO_IOMMU_MAP_DMA",
    "VFIO_IOMMU_UNMAP_DMA",
    "VFIO_IOMMU_DIRTY_PAGES",
)
_SPAPR_CONTAINER = (
    *_ANY_CONTAINER,
    "VFIO_IOMMU_SPAPR_TCE_GET_INFO",
    "VFIO_IOMMU_MAP_DMA",
    "VFIO_IOMMU_UNMAP_DMA",
    "VFIO_IOMMU_ENABLE",
    "VFIO_IOMMU_DISABLE",
    "VFIO_IOMMU_SPAPR_REGISTER_MEMORY",
    "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY",
    "VFIO_IOMMU_SPAPR_TCE_CREATE",
    "VFIO_IOMMU_SPAPR_TCE_REMOVE",
    "VFIO_EEH_PE_OP",
)
_GROUP = (
    "VFIO_GROUP_GET_STATUS",
    "VFIO_GROUP_SET_CONTAINER",
    "VFIO_GROUP_UNSET_CONTAINER",
    "VFIO_GROUP_GET_DEVICE_FD",
)
_DEVICE = (
    "VFIO_DEVICE_GET_INFO",
    "VFIO_DEVICE_GET_REGION_INFO",
    "VFIO_DEVICE_GET_IRQ_INFO",
    "VFIO_DEVICE_SET_IRQS",
    "VFIO_DEVICE_RESET",
    "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
    "VFIO_DEVICE_PCI_HOT_RESET",
    "VFIO_DEVICE_QUERY_GFX_PLANE",
    "VFIO_DEVICE_GET_GFX_DMABUF",
    "VFIO_DEVICE_IOEVENTFD",
    "VFIO_DEVICE_FEATURE",
    "VFIO_DEVICE_BIND_IOMMUFD",
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
)
_IOMMUFD = (
    "IOMMU_DESTROY",
    "IOMMU_IOAS_ALLOC",
    "IOMMU_IOAS_ALLOW_IOVAS",
    "IOMMU_IOAS_COPY",
    "IOMMU_IOAS_IOVA_RANGES",
    "IOMMU_IOAS_MAP",
    "IOMMU_IOAS_UNMAP",
    "IOMMU_OPTION",
    "IOMMU_VFIO_IOAS",
    "IOMMU_HWPT_ALLOC",
    "IOMMU_GET_HW_INFO",
    "IOMMU_HWPT_SET_DIRTY_TRACKING",
    "IOMMU_HWPT_GET_DIRTY_BITMAP",
    "IOMMU_HWPT_INVALIDATE",
    "IOMMU_FAULT_QUEUE_ALLOC",
    "IOMMU_IOAS_MAP_FILE",
    "IOMMU_VIOMMU_ALLOC",
    "IOMMU_VDEVICE_ALLOC",
    "IOMMU_IOAS_CHANGE_PROCESS",
    "IOMMU_VEVENTQ_ALLOC",
    "IOMMU_HW_QUEUE_ALLOC",
    "IOMMU_IOAS_NOIOMMU_GET_PA",
)
_NAMES = {
    FdKind.CONTAINER: _CONTAINER,
    FdKind.SPAPR_CONTAINER: _SPAPR_CONTAINER,
    FdKind.GROUP: _GROUP,
    FdKind.DEVICE: _DEVICE,
    FdKind.MIGRATION_DATA: ("VFIO_MIG_GET_PRECOPY_INFO",),
    # An iommufd also takes the ioctls of a container.
    FdKind.IOMMUFD: (*_IOMMUFD, *_CONTAINER),
}
