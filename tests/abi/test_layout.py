"""Sizes, offsets and numbers of the mirrored headers as data, true on any 64-bit Linux, compiler or not."""

import ctypes
from types import ModuleType

import pytest

from pyvfio.abi import iommufd, iommufd_test, vfio
from virtiomem import abi as virtio_mem

# module, struct, size and offsets in bytes
LAYOUTS: list[tuple[ModuleType, str, int, str]] = [
    (vfio, "vfio_info_cap_header", 8, "id 0, version 2, next 4"),
    (vfio, "vfio_group_status", 8, "argsz 0, flags 4"),
    (vfio, "vfio_iommu_type1_info", 24, "argsz 0, flags 4, iova_pgsizes 8, cap_offset 16, pad 20"),
    (vfio, "vfio_iommu_type1_info_cap_iova_range", 16, "header 0, nr_iovas 8, reserved 12, iova_ranges 16"),
    (vfio, "vfio_iova_range", 16, "start 0, end 8"),
    (vfio, "vfio_iommu_type1_info_cap_migration", 32, "flags 8, pgsize_bitmap 16, max_dirty_bitmap_size 24"),
    (vfio, "vfio_iommu_type1_info_dma_avail", 12, "avail 8"),
    (vfio, "vfio_iommu_type1_dma_map", 32, "argsz 0, flags 4, vaddr 8, iova 16, size 24"),
    (vfio, "vfio_iommu_type1_dma_unmap", 24, "argsz 0, flags 4, iova 8, size 16, data 24"),
    (vfio, "vfio_bitmap", 24, "pgsize 0, size 8, data 16"),
    (vfio, "vfio_iommu_type1_dirty_bitmap", 8, "argsz 0, flags 4, data 8"),
    (vfio, "vfio_iommu_type1_dirty_bitmap_get", 40, "iova 0, size 8, bitmap 16"),
    (vfio, "vfio_device_info", 24, "argsz 0, flags 4, num_regions 8, num_irqs 12, cap_offset 16, pad 20"),
    (vfio, "vfio_device_info_cap_pci_atomic_comp", 16, "header 0, flags 8"),
    (vfio, "vfio_region_info", 32, "argsz 0, flags 4, index 8, cap_offset 12, size 16, offset 24"),
    (vfio, "vfio_region_info_cap_sparse_mmap", 16, "header 0, nr_areas 8, areas 16"),
    (vfio, "vfio_region_sparse_mmap_area", 16, "offset 0, size 8"),
    (vfio, "vfio_region_info_cap_type", 16, "header 0, type 8, subtype 12"),
    (vfio, "vfio_irq_info", 16, "argsz 0, flags 4, index 8, count 12"),
    (vfio, "vfio_irq_set", 20, "argsz 0, flags 4, index 8, start 12, count 16, data 20"),
    (vfio, "vfio_pci_dependent_device", 8, "group_id 0, devid 0, segment 4, bus 6, devfn 7"),
    (vfio, "vfio_pci_hot_reset_info", 12, "flags 4, count 8, devices 12"),
    (vfio, "vfio_pci_hot_reset", 12, "flags 4, count 8, group_fds 12"),
    (vfio, "vfio_device_gfx_plane_info", 64, "drm_format_mod 16, region_index 56, dmabuf_id 56, reserved 60"),
    (vfio, "vfio_device_ioeventfd", 32, "flags 4, offset 8, data 16, fd 24, reserved 28"),
    (vfio, "vfio_device_feature", 8, "argsz 0, flags 4, data 8"),
    (vfio, "vfio_device_bind_iommufd", 24, "argsz 0, flags 4, iommufd 8, out_devid 12, token_uuid_ptr 16"),
    (vfio, "vfio_device_attach_iommufd_pt", 16, "flags 4, pt_id 8, pasid 12"),
    (vfio, "vfio_device_detach_iommufd_pt", 12, "flags 4, pasid 8"),
    (vfio, "vfio_precopy_info", 24, "flags 4, initial_bytes 8, dirty_bytes 16"),
    (vfio, "vfio_device_feature_migration", 8, "flags 0"),
    (vfio, "vfio_device_feature_mig_state", 8, "device_state 0, data_fd 4"),
    (vfio, "vfio_device_low_power_entry_with_wakeup", 8, "wakeup_eventfd 0, reserved 4"),
    (vfio, "vfio_device_feature_dma_logging_control", 24, "page_size 0, num_ranges 8, __reserved 12, ranges 16"),
    (vfio, "vfio_device_feature_dma_logging_range", 16, "iova 0, length 8"),
    (vfio, "vfio_device_feature_dma_logging_report", 32, "iova 0, length 8, page_size 16, bitmap 24"),
    (vfio, "vfio_device_feature_mig_data_size", 8, "stop_copy_length 0"),
    (vfio, "vfio_device_feature_bus_master", 4, "op 0"),
    (vfio, "vfio_device_feature_dma_buf", 16, "region_index 0, open_flags 4, flags 8, nr_ranges 12, dma_ranges 16"),
    (vfio, "vfio_region_dma_range", 16, "offset 0, length 8"),
    (iommufd, "iommu_destroy", 8, "size 0, id 4"),
    (
        iommufd_test,
        "iommu_test_cmd",
        72,
        "op 4, id 8, __reserved 12, add_reserved 16, dirty 16, pasid_check 16, last 64",
    ),
    (iommufd_test, "iommu_viommu_selftest", 24, "in_data 0, out_data 4, out_mmap_offset 8, out_mmap_length 16"),
    (iommufd_test, "iommu_viommu_invalidate_selftest", 12, "flags 0, vdev_id 4, cache_id 8"),
    (iommufd, "iommu_ioas_alloc", 12, "flags 4, out_ioas_id 8"),
    (iommufd, "iommu_ioas_allow_iovas", 24, "ioas_id 4, num_iovas 8, allowed_iovas 16"),
    (iommufd, "iommu_ioas_copy", 40, "dst_ioas_id 8, src_ioas_id 12, length 16, dst_iova 24, src_iova 32"),
    (iommufd, "iommu_ioas_iova_ranges", 32, "allowed_iovas 16, out_iova_alignment 24"),
    (iommufd, "iommu_ioas_map", 40, "flags 4, ioas_id 8, __reserved 12, user_va 16, length 24, iova 32"),
    (iommufd, "iommu_ioas_map_file", 40, "fd 12, start 16, length 24, iova 32"),
    (iommufd, "iommu_ioas_unmap", 24, "ioas_id 4, iova 8, length 16"),
    (iommufd, "iommu_option", 24, "option_id 4, op 8, __reserved 10, object_id 12, val64 16"),
    (iommufd, "iommu_vfio_ioas", 12, "ioas_id 4, op 8, __reserved 10"),
    (iommufd, "iommu_hwpt_alloc", 48, "data_type 24, data_uptr 32, fault_id 40"),
    (iommufd, "iommu_hw_info", 40, "data_uptr 16, in_data_type 24, out_data_type 24, out_capabilities 32"),
    (iommufd, "iommu_hwpt_set_dirty_tracking", 16, "flags 4, hwpt_id 8"),
    (iommufd, "iommu_hwpt_get_dirty_bitmap", 48, "iova 16, page_size 32, data 40"),
    (
        virtio_mem,
        "virtio_mem_config",
        56,
        (
            "block_size 0, node_id 8, padding 10, addr 16, region_size 24, "
            "usable_region_size 32, plugged_size 40, requested_size 48"
        ),
    ),
    (virtio_mem, "virtio_mem_req", 24, "type 0, padding 2, u 8"),
    (virtio_mem, "virtio_mem_req_plug", 16, "addr 0, nb_blocks 8, padding 10"),
    (virtio_mem, "virtio_mem_resp", 10, "type 0, padding 2, u 8"),
]

NUMBERS: list[tuple[ModuleType, str, int]] = [
    (vfio, "VFIO_GET_API_VERSION", 0x3B64),
    (vfio, "VFIO_CHECK_EXTENSION", 0x3B65),
    (vfio, "VFIO_SET_IOMMU", 0x3B66),
    (vfio, "VFIO_GROUP_GET_STATUS", 0x3B67),
    (vfio, "VFIO_GROUP_SET_CONTAINER", 0x3B68),
    (vfio, "VFIO_GROUP_UNSET_CONTAINER", 0x3B69),
    (vfio, "VFIO_GROUP_GET_DEVICE_FD", 0x3B6A),
    (vfio, "VFIO_DEVICE_GET_INFO", 0x3B6B),
    (vfio, "VFIO_DEVICE_GET_REGION_INFO", 0x3B6C),
    (vfio, "VFIO_DEVICE_GET_IRQ_INFO", 0x3B6D),
    (vfio, "VFIO_DEVICE_SET_IRQS", 0x3B6E),
    (vfio, "VFIO_DEVICE_RESET", 0x3B6F),
    (vfio, "VFIO_IOMMU_GET_INFO", 0x3B70),
    (vfio, "VFIO_IOMMU_MAP_DMA", 0x3B71),
    (vfio, "VFIO_IOMMU_UNMAP_DMA", 0x3B72),
    (vfio, "VFIO_IOMMU_DIRTY_PAGES", 0x3B75),
    (vfio, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", 0x3B70),
    (vfio, "VFIO_DEVICE_PCI_HOT_RESET", 0x3B71),
    (vfio, "VFIO_DEVICE_QUERY_GFX_PLANE", 0x3B72),
    (vfio, "VFIO_DEVICE_GET_GFX_DMABUF", 0x3B73),
    (vfio, "VFIO_DEVICE_IOEVENTFD", 0x3B74),
    (vfio, "VFIO_DEVICE_FEATURE", 0x3B75),
    (vfio, "VFIO_DEVICE_BIND_IOMMUFD", 0x3B76),
    (vfio, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", 0x3B77),
    (vfio, "VFIO_DEVICE_DETACH_IOMMUFD_PT", 0x3B78),
    (vfio, "VFIO_MIG_GET_PRECOPY_INFO", 0x3B79),
    (vfio, "VFIO_REGION_TYPE_PCI_VENDOR_TYPE", 0x8000_0000),
    (vfio, "VFIO_PCI_DEVID_NOT_OWNED", 0xFFFF_FFFF),
    (iommufd, "IOMMU_DESTROY", 0x3B80),
    (iommufd, "IOMMU_IOAS_ALLOC", 0x3B81),
    (iommufd, "IOMMU_IOAS_MAP", 0x3B85),
    (iommufd, "IOMMU_IOAS_UNMAP", 0x3B86),
    (iommufd, "IOMMU_HWPT_ALLOC", 0x3B89),
    (iommufd, "IOMMU_GET_HW_INFO", 0x3B8A),
    (iommufd, "IOMMU_IOAS_MAP_FILE", 0x3B8F),
    (iommufd, "IOMMU_HW_QUEUE_ALLOC", 0x3B94),
]


@pytest.mark.parametrize(("module", "name", "size", "offsets"), LAYOUTS, ids=[row[1] for row in LAYOUTS])
def test_size_and_offsets(module: ModuleType, name: str, size: int, offsets: str) -> None:
    struct = vars(module)[name]
    assert ctypes.sizeof(struct) == size
    fields = [row.split()[0] for row in offsets.split(", ")]
    assert ", ".join(f"{field} {getattr(struct, field).offset}" for field in fields) == offsets


@pytest.mark.parametrize(("module", "name", "value"), NUMBERS, ids=[row[1] for row in NUMBERS])
def test_number(module: ModuleType, name: str, value: int) -> None:
    assert vars(module)[name] == value


def test_virtio_mem_is_little_endian_on_the_wire() -> None:
    plug = virtio_mem.virtio_mem_req_plug(addr=0x1_2345_6789, nb_blocks=0x0102)
    request = virtio_mem.virtio_mem_req(type=virtio_mem.VIRTIO_MEM_REQ_UNPLUG)
    request.u.plug = plug
    assert bytes(request).hex() == "0100000000000000" + "8967452301000000" + "0201000000000000"
