"""drivers/iommu/iommufd/iommufd_test.h: iommufd's test device (CONFIG_IOMMUFD_TEST), as of Linux 7.3.

Not a uapi header: it is not installed, and a later kernel may change it.
"""

import ctypes
from typing import Final

from pyvfio.abi.iommufd.ioas import IOMMUFD_CMD_BASE, IOMMUFD_TYPE
from pyvfio.abi.types import _IO, Overlay, Size, s32, struct, u32, u64

IOMMU_TEST_OP_ADD_RESERVED: Final = 1
IOMMU_TEST_OP_MOCK_DOMAIN: Final = 2
IOMMU_TEST_OP_MD_CHECK_MAP: Final = 3
IOMMU_TEST_OP_MD_CHECK_REFS: Final = 4
IOMMU_TEST_OP_CREATE_ACCESS: Final = 5
IOMMU_TEST_OP_DESTROY_ACCESS_PAGES: Final = 6
IOMMU_TEST_OP_ACCESS_PAGES: Final = 7
IOMMU_TEST_OP_ACCESS_RW: Final = 8
IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT: Final = 9
IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE: Final = 10
IOMMU_TEST_OP_ACCESS_REPLACE_IOAS: Final = 11
IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS: Final = 12
IOMMU_TEST_OP_DIRTY: Final = 13
IOMMU_TEST_OP_MD_CHECK_IOTLB: Final = 14
IOMMU_TEST_OP_TRIGGER_IOPF: Final = 15
IOMMU_TEST_OP_DEV_CHECK_CACHE: Final = 16
IOMMU_TEST_OP_TRIGGER_VEVENT: Final = 17
IOMMU_TEST_OP_PASID_ATTACH: Final = 18
IOMMU_TEST_OP_PASID_REPLACE: Final = 19
IOMMU_TEST_OP_PASID_DETACH: Final = 20
IOMMU_TEST_OP_PASID_CHECK_HWPT: Final = 21
IOMMU_TEST_OP_DMABUF_GET: Final = 22
IOMMU_TEST_OP_DMABUF_REVOKE: Final = 23

MOCK_IOMMUPT_DEFAULT: Final = 0
MOCK_IOMMUPT_HUGE: Final = 1

# Of MOCK_IOMMUPT_DEFAULT.
MOCK_APERTURE_START: Final = 1 << 24
MOCK_APERTURE_LAST: Final = (1 << 31) - 1
MOCK_PAGE_SIZE: Final = 2048
MOCK_HUGE_PAGE_SIZE: Final = 512 * MOCK_PAGE_SIZE

MOCK_FLAGS_ACCESS_WRITE: Final = 1 << 0
MOCK_FLAGS_ACCESS_SYZ: Final = 1 << 16

MOCK_ACCESS_RW_WRITE: Final = 1 << 0
MOCK_ACCESS_RW_SLOW_PATH: Final = 1 << 2

MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES: Final = 1 << 0

MOCK_FLAGS_DEVICE_NO_DIRTY: Final = 1 << 0
MOCK_FLAGS_DEVICE_PASID: Final = 1 << 2

MOCK_NESTED_DOMAIN_IOTLB_ID_MAX: Final = 3
MOCK_NESTED_DOMAIN_IOTLB_NUM: Final = 4

MOCK_DEV_CACHE_ID_MAX: Final = 3
MOCK_DEV_CACHE_NUM: Final = 4

IOMMU_TEST_PASID_RESERVED: Final = 1024

MOCK_PASID_WIDTH: Final = 20


@struct
class _add_reserved(ctypes.Structure):
    start: u64
    length: u64


@struct
class _mock_domain(ctypes.Structure):
    out_stdev_id: u32
    out_hwpt_id: u32
    out_idev_id: u32


@struct
class _mock_domain_flags(ctypes.Structure):
    out_stdev_id: u32
    out_hwpt_id: u32
    out_idev_id: u32
    dev_flags: u32


@struct
class _mock_domain_replace(ctypes.Structure):
    pt_id: u32


@struct
class _check_map(ctypes.Structure):
    iova: u64
    length: u64
    uptr: u64


@struct
class _check_refs(ctypes.Structure):
    length: u64
    uptr: u64
    refs: u32


@struct
class _create_access(ctypes.Structure):
    out_access_fd: u32
    flags: u32


@struct
class _destroy_access_pages(ctypes.Structure):
    access_pages_id: u32


@struct
class _access_pages(ctypes.Structure):
    flags: u32
    out_access_pages_id: u32
    iova: u64
    length: u64
    uptr: u64


@struct
class _access_rw(ctypes.Structure):
    iova: u64
    length: u64
    uptr: u64
    flags: u32


@struct
class _memory_limit(ctypes.Structure):
    limit: u32


@struct
class _access_replace_ioas(ctypes.Structure):
    ioas_id: u32


@struct
class _dirty(ctypes.Structure):
    flags: u32
    iova: u64
    length: u64
    page_size: u64
    uptr: u64
    out_nr_dirty: u64


@struct
class _check_iotlb(ctypes.Structure):
    id: u32
    iotlb: u32


@struct
class _trigger_iopf(ctypes.Structure):
    dev_id: u32
    pasid: u32
    grpid: u32
    perm: u32
    addr: u64


@struct
class _check_dev_cache(ctypes.Structure):
    id: u32
    cache: u32


@struct
class _trigger_vevent(ctypes.Structure):
    dev_id: u32


@struct
class _pasid(ctypes.Structure):
    """pasid_attach, pasid_replace, pasid_detach (pasid alone) and pasid_check (hwpt_id)."""

    pasid: u32
    pt_id: u32
    hwpt_id: Overlay[u32]


@struct
class _dmabuf_get(ctypes.Structure):
    length: u32
    open_flags: u32


@struct
class _dmabuf_revoke(ctypes.Structure):
    dmabuf_fd: s32
    revoked: u32


@struct
class iommu_test_cmd(Size):
    """iommufd_test.h. op: IOMMU_TEST_OP_*, which says what id is of, and which member of the union is read."""

    size: u32
    op: u32
    id: u32
    __reserved: u32
    add_reserved: _add_reserved
    mock_domain: Overlay[_mock_domain]
    mock_domain_flags: Overlay[_mock_domain_flags]
    mock_domain_replace: Overlay[_mock_domain_replace]
    check_map: Overlay[_check_map]
    check_refs: Overlay[_check_refs]
    create_access: Overlay[_create_access]
    destroy_access_pages: Overlay[_destroy_access_pages]
    access_pages: Overlay[_access_pages]
    access_rw: Overlay[_access_rw]
    memory_limit: Overlay[_memory_limit]
    access_replace_ioas: Overlay[_access_replace_ioas]
    dirty: Overlay[_dirty]
    check_iotlb: Overlay[_check_iotlb]
    trigger_iopf: Overlay[_trigger_iopf]
    check_dev_cache: Overlay[_check_dev_cache]
    trigger_vevent: Overlay[_trigger_vevent]
    pasid_attach: Overlay[_pasid]
    pasid_replace: Overlay[_pasid]
    pasid_detach: Overlay[_pasid]
    pasid_check: Overlay[_pasid]
    dmabuf_get: Overlay[_dmabuf_get]
    dmabuf_revoke: Overlay[_dmabuf_revoke]
    last: u32


IOMMU_TEST_CMD: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32)

IOMMU_HW_INFO_TYPE_SELFTEST: Final = 0xFEED_BEEF
IOMMU_HW_INFO_SELFTEST_REGVAL: Final = 0xDEAD_BEEF


@struct
class iommu_test_hw_info(ctypes.Structure):
    """iommufd_test.h. test_reg: IOMMU_HW_INFO_SELFTEST_REGVAL."""

    flags: u32
    test_reg: u32


IOMMU_HWPT_DATA_SELFTEST: Final = 0xDEAD
IOMMU_TEST_IOTLB_DEFAULT: Final = 0xBAD_BEEF
IOMMU_TEST_DEV_CACHE_DEFAULT: Final = 0xBADDAD


@struct
class iommu_hwpt_selftest(ctypes.Structure):
    """iommufd_test.h. iotlb: what all entries hold at first; pagetable_type: MOCK_IOMMUPT_*."""

    iotlb: u32
    pagetable_type: u32


IOMMU_HWPT_INVALIDATE_DATA_SELFTEST: Final = 0xDEAD_BEEF
IOMMU_HWPT_INVALIDATE_DATA_SELFTEST_INVALID: Final = 0xDAD_BEEF
IOMMU_TEST_INVALIDATE_FLAG_ALL: Final = 1 << 0


@struct
class iommu_hwpt_invalidate_selftest(ctypes.Structure):
    """iommufd_test.h. iotlb_id: the entry that becomes 0; with IOMMU_TEST_INVALIDATE_FLAG_ALL in flags all do."""

    flags: u32
    iotlb_id: u32


IOMMU_VIOMMU_TYPE_SELFTEST: Final = 0xDEAD_BEEF


@struct
class iommu_viommu_selftest(ctypes.Structure):
    """iommufd_test.h. out_data: in_data, which also begins the pages at out_mmap_offset of the iommufd."""

    in_data: u32
    out_data: u32
    out_mmap_offset: u64
    out_mmap_length: u64


IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST: Final = 0xDEAD_BEEF
IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID: Final = 0xDAD_BEEF


@struct
class iommu_viommu_invalidate_selftest(ctypes.Structure):
    """iommufd_test.h. vdev_id: which device's entry cache_id becomes 0; as iommu_hwpt_invalidate_selftest."""

    flags: u32
    vdev_id: u32
    cache_id: u32


IOMMU_VEVENTQ_TYPE_SELFTEST: Final = 0xBEEF_BEEF


@struct
class iommu_viommu_event_selftest(ctypes.Structure):
    """iommufd_test.h. virt_id: of the device that had the event."""

    virt_id: u32


IOMMU_HW_QUEUE_TYPE_SELFTEST: Final = 0xDEAD_BEEF
IOMMU_TEST_HW_QUEUE_MAX: Final = 2
