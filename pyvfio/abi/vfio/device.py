"""linux/vfio.h: devices, interrupts, PCI hot reset, graphics planes, ioeventfds, iommufd attachment."""

import ctypes
from typing import Final

from pyvfio.abi.types import _IO, Argsz, FlexibleArray, Overlay, s32, struct, u8, u16, u32, u64
from pyvfio.abi.vfio.container import VFIO_BASE, VFIO_TYPE, vfio_info_cap_header


@struct
class vfio_device_info(Argsz):
    """linux/vfio.h. Out: counts of region and interrupt indexes; cap_offset: bytes from the start,
    0 for none.
    """

    argsz: u32
    flags: u32
    num_regions: u32
    num_irqs: u32
    cap_offset: u32
    pad: u32


VFIO_DEVICE_FLAGS_RESET: Final = 1 << 0
VFIO_DEVICE_FLAGS_PCI: Final = 1 << 1
VFIO_DEVICE_FLAGS_PLATFORM: Final = 1 << 2
VFIO_DEVICE_FLAGS_AMBA: Final = 1 << 3
VFIO_DEVICE_FLAGS_CCW: Final = 1 << 4
VFIO_DEVICE_FLAGS_AP: Final = 1 << 5
VFIO_DEVICE_FLAGS_FSL_MC: Final = 1 << 6
VFIO_DEVICE_FLAGS_CAPS: Final = 1 << 7
VFIO_DEVICE_FLAGS_CDX: Final = 1 << 8

VFIO_DEVICE_GET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 7)

VFIO_DEVICE_API_PCI_STRING: Final = "vfio-pci"
VFIO_DEVICE_API_PLATFORM_STRING: Final = "vfio-platform"
VFIO_DEVICE_API_AMBA_STRING: Final = "vfio-amba"
VFIO_DEVICE_API_CCW_STRING: Final = "vfio-ccw"
VFIO_DEVICE_API_AP_STRING: Final = "vfio-ap"

VFIO_DEVICE_INFO_CAP_ZPCI_BASE: Final = 1
VFIO_DEVICE_INFO_CAP_ZPCI_GROUP: Final = 2
VFIO_DEVICE_INFO_CAP_ZPCI_UTIL: Final = 3
VFIO_DEVICE_INFO_CAP_ZPCI_PFIP: Final = 4
VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP: Final = 5


@struct
class vfio_device_info_cap_pci_atomic_comp(ctypes.Structure):
    """linux/vfio.h. Widths of AtomicOps the root complex completes for the device."""

    header: vfio_info_cap_header
    flags: u32
    reserved: u32


VFIO_PCI_ATOMIC_COMP32: Final = 1 << 0
VFIO_PCI_ATOMIC_COMP64: Final = 1 << 1
VFIO_PCI_ATOMIC_COMP128: Final = 1 << 2


@struct
class vfio_irq_info(Argsz):
    """linux/vfio.h. In: index. Out: flags, count of the index's interrupts."""

    argsz: u32
    flags: u32
    index: u32
    count: u32


VFIO_IRQ_INFO_EVENTFD: Final = 1 << 0
VFIO_IRQ_INFO_MASKABLE: Final = 1 << 1
VFIO_IRQ_INFO_AUTOMASKED: Final = 1 << 2
VFIO_IRQ_INFO_NORESIZE: Final = 1 << 3

VFIO_DEVICE_GET_IRQ_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 9)


@struct
class vfio_irq_set(Argsz):
    """linux/vfio.h. data: nothing, one u8 or one s32 eventfd for each of count interrupts from
    start; argsz counts it.
    """

    argsz: u32
    flags: u32
    index: u32
    start: u32
    count: u32
    data: FlexibleArray[ctypes.c_uint8]


VFIO_IRQ_SET_DATA_NONE: Final = 1 << 0
VFIO_IRQ_SET_DATA_BOOL: Final = 1 << 1
VFIO_IRQ_SET_DATA_EVENTFD: Final = 1 << 2
VFIO_IRQ_SET_ACTION_MASK: Final = 1 << 3
VFIO_IRQ_SET_ACTION_UNMASK: Final = 1 << 4
VFIO_IRQ_SET_ACTION_TRIGGER: Final = 1 << 5

VFIO_DEVICE_SET_IRQS: Final = _IO(VFIO_TYPE, VFIO_BASE + 10)

VFIO_IRQ_SET_DATA_TYPE_MASK: Final = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD
VFIO_IRQ_SET_ACTION_TYPE_MASK: Final = (
    VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER
)

VFIO_DEVICE_RESET: Final = _IO(VFIO_TYPE, VFIO_BASE + 11)

VFIO_PCI_INTX_IRQ_INDEX: Final = 0
VFIO_PCI_MSI_IRQ_INDEX: Final = 1
VFIO_PCI_MSIX_IRQ_INDEX: Final = 2
VFIO_PCI_ERR_IRQ_INDEX: Final = 3
VFIO_PCI_REQ_IRQ_INDEX: Final = 4
VFIO_PCI_NUM_IRQS: Final = 5

VFIO_CCW_IO_IRQ_INDEX: Final = 0
VFIO_CCW_CRW_IRQ_INDEX: Final = 1
VFIO_CCW_REQ_IRQ_INDEX: Final = 2
VFIO_CCW_NUM_IRQS: Final = 3

VFIO_AP_REQ_IRQ_INDEX: Final = 0
VFIO_AP_CFG_CHG_IRQ_INDEX: Final = 1
VFIO_AP_NUM_IRQS: Final = 2


@struct
class vfio_pci_dependent_device(ctypes.Structure):
    """linux/vfio.h. One function a hot reset affects; devid instead of group_id if
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID.
    """

    group_id: u32
    devid: Overlay[u32]
    segment: u16
    bus: u8
    devfn: u8


VFIO_PCI_DEVID_OWNED: Final = 0
VFIO_PCI_DEVID_NOT_OWNED: Final = 0xFFFF_FFFF


@struct
class vfio_pci_hot_reset_info(Argsz):
    """linux/vfio.h. Out: count, and as many devices as argsz has room for; count is also set by ENOSPC."""

    argsz: u32
    flags: u32
    count: u32
    devices: FlexibleArray[vfio_pci_dependent_device]


VFIO_PCI_HOT_RESET_FLAG_DEV_ID: Final = 1 << 0
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED: Final = 1 << 1

VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 12)


@struct
class vfio_pci_hot_reset(Argsz):
    """linux/vfio.h. group_fds: count descriptors, one of each affected group; none for a device
    opened by its cdev.
    """

    argsz: u32
    flags: u32
    count: u32
    group_fds: FlexibleArray[ctypes.c_int32]


VFIO_DEVICE_PCI_HOT_RESET: Final = _IO(VFIO_TYPE, VFIO_BASE + 13)


@struct
class vfio_device_gfx_plane_info(Argsz):
    """linux/vfio.h. In: flags, drm_plane_type. Out: the plane; stride and size: bytes; the rest of
    them: pixels.
    """

    argsz: u32
    flags: u32
    drm_plane_type: u32
    drm_format: u32
    drm_format_mod: u64
    width: u32
    height: u32
    stride: u32
    size: u32
    x_pos: u32
    y_pos: u32
    x_hot: u32
    y_hot: u32
    region_index: u32
    dmabuf_id: Overlay[u32]
    reserved: u32


VFIO_GFX_PLANE_TYPE_PROBE: Final = 1 << 0
VFIO_GFX_PLANE_TYPE_DMABUF: Final = 1 << 1
VFIO_GFX_PLANE_TYPE_REGION: Final = 1 << 2

VFIO_DEVICE_QUERY_GFX_PLANE: Final = _IO(VFIO_TYPE, VFIO_BASE + 14)
VFIO_DEVICE_GET_GFX_DMABUF: Final = _IO(VFIO_TYPE, VFIO_BASE + 15)


@struct
class vfio_device_ioeventfd(Argsz):
    """linux/vfio.h. On a signal of fd the kernel writes data at offset of the device fd; fd -1 removes."""

    argsz: u32
    flags: u32
    offset: u64
    data: u64
    fd: s32
    reserved: u32


VFIO_DEVICE_IOEVENTFD_8: Final = 1 << 0
VFIO_DEVICE_IOEVENTFD_16: Final = 1 << 1
VFIO_DEVICE_IOEVENTFD_32: Final = 1 << 2
VFIO_DEVICE_IOEVENTFD_64: Final = 1 << 3
VFIO_DEVICE_IOEVENTFD_SIZE_MASK: Final = 0xF

VFIO_DEVICE_IOEVENTFD: Final = _IO(VFIO_TYPE, VFIO_BASE + 16)


@struct
class vfio_device_bind_iommufd(Argsz):
    """linux/vfio.h. In: iommufd; token_uuid_ptr: address of 16 bytes. Out: out_devid, the device's
    id in iommufd.
    """

    argsz: u32
    flags: u32
    iommufd: s32
    out_devid: u32
    token_uuid_ptr: u64


VFIO_DEVICE_BIND_FLAG_TOKEN: Final = 1 << 0

VFIO_DEVICE_BIND_IOMMUFD: Final = _IO(VFIO_TYPE, VFIO_BASE + 18)


@struct
class vfio_device_attach_iommufd_pt(Argsz):
    """linux/vfio.h. pt_id, in: the IOAS or page table to attach to; out: the page table the device uses."""

    argsz: u32
    flags: u32
    pt_id: u32
    pasid: u32


VFIO_DEVICE_ATTACH_PASID: Final = 1 << 0

VFIO_DEVICE_ATTACH_IOMMUFD_PT: Final = _IO(VFIO_TYPE, VFIO_BASE + 19)


@struct
class vfio_device_detach_iommufd_pt(Argsz):
    """linux/vfio.h. pasid: read with VFIO_DEVICE_DETACH_PASID only."""

    argsz: u32
    flags: u32
    pasid: u32


VFIO_DEVICE_DETACH_PASID: Final = 1 << 0

VFIO_DEVICE_DETACH_IOMMUFD_PT: Final = _IO(VFIO_TYPE, VFIO_BASE + 20)
