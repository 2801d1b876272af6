"""virtio-mem's config space, features, and the rules for sizes and addresses."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Final, Self

from pyvfio.errors import InvalidArgument
from virtiomem import abi

MINIMUM_BLOCK_SIZE: Final = 1 << 20
USABLE_EXTENT: Final = 256 << 20
"""How far beyond requested_size the usable region reaches, so that a guest finds aligned room. QEMU's value for x86."""

_ADDRESS_LIMIT: Final = 1 << 64


class Feature(enum.IntFlag):
    """The device's own feature bits; those of virtio itself (24 and up) are the transport's."""

    ACPI_PXM = 1 << abi.VIRTIO_MEM_F_ACPI_PXM
    UNPLUGGED_INACCESSIBLE = 1 << abi.VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE
    PERSISTENT_SUSPEND = 1 << abi.VIRTIO_MEM_F_PERSISTENT_SUSPEND


@dataclass(frozen=True, slots=True)
class Config:
    """struct virtio_mem_config. Sizes and addr (guest-physical) in bytes; all but node_id multiples of block_size."""

    block_size: int
    node_id: int
    addr: int
    region_size: int
    usable_region_size: int
    plugged_size: int
    requested_size: int

    def __bytes__(self) -> bytes:
        return bytes(
            abi.virtio_mem_config(
                block_size=self.block_size,
                node_id=self.node_id,
                addr=self.addr,
                region_size=self.region_size,
                usable_region_size=self.usable_region_size,
                plugged_size=self.plugged_size,
                requested_size=self.requested_size,
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The config space in data, which is of its size."""
        config = abi.virtio_mem_config.from_buffer_copy(data)
        return cls(
            config.block_size,
            config.node_id,
            config.addr,
            config.region_size,
            config.usable_region_size,
            config.plugged_size,
            config.requested_size,
        )


def default_block_size(page_size: int, thp_size: int | None, host_page_size: int = 4096) -> int:
    """The smallest block worth having, in bytes: a transparent huge page, or a page of hugetlb memory.

    page_size: of the memory; thp_size: of a transparent huge page, None without. Source: QEMU,
    hw/virtio/virtio-mem.c, virtio_mem_default_block_size.
    """
    thp_size = thp_size if page_size == host_page_size else None
    return max(page_size, thp_size or 0, MINIMUM_BLOCK_SIZE)


def usable_region_size(region_size: int, requested_size: int, block_size: int, extent: int) -> int:
    """What the guest may use of the region to reach requested_size; all in bytes.

    Source: QEMU, hw/virtio/virtio-mem.c, virtio_mem_resize_usable_region.
    """
    return _round_up(min(region_size, requested_size + extent), block_size) if requested_size else 0


def check_block_size(block_size: int, page_size: int) -> None:
    """Raises InvalidArgument unless blocks of this size can be plugged one by one in memory of such pages."""
    smallest = max(MINIMUM_BLOCK_SIZE, page_size)
    if block_size < smallest or block_size & (block_size - 1):
        fitting = max(smallest, 1 << max(block_size - 1, 0).bit_length())
        raise _refused(
            {"block size": block_size},
            f"not a power of two of at least {smallest:#_x} (1 MiB, and a page of the memory)",
            f"{fitting:#_x} would fit",
        )


def check_region(address: int, offset: int, size: int, block_size: int, memory_size: int) -> None:
    """Raises InvalidArgument unless size bytes of the memory, from offset, make blocks at guest-physical address."""
    if address < 0 or address % block_size:
        raise _refused(
            {"address": address},
            f"not a multiple of the block size {block_size:#_x}",
            f"{_round_up(max(address, 0), block_size):#_x} would fit",
        )
    if offset < 0 or offset % block_size:
        raise _refused(
            {"region offset": offset},
            f"not a multiple of the block size {block_size:#_x}",
            f"{_round_up(max(offset, 0), block_size):#_x} would fit",
        )
    room = min(memory_size - offset, _ADDRESS_LIMIT - address)
    if size <= 0 or size % block_size or size > room:
        fitting = min(_round_up(max(size, 1), block_size), room // block_size * block_size)
        raise _refused(
            {"region size": size, "address": address},
            f"not a multiple of the block size {block_size:#_x}, or more than the {max(room, 0):#_x} bytes there are",
            f"{fitting:#_x} would fit" if fitting > 0 else "",
        )


def check_requested_size(requested_size: int, region_size: int, block_size: int) -> None:
    """Raises InvalidArgument unless a guest could reach requested_size."""
    if requested_size < 0 or requested_size % block_size or requested_size > region_size:
        fitting = min(_round_up(max(requested_size, 0), block_size), region_size)
        raise _refused(
            {"requested size": requested_size},
            f"not a multiple of the block size {block_size:#_x} from 0 to the region's {region_size:#_x}",
            f"{fitting:#_x} would fit",
        )


def check_node_id(node_id: int | None) -> None:
    if node_id is not None and not 0 <= node_id <= 0xFFFF:
        raise _refused({"node id": node_id}, "not in 0 to 0xffff")


def check_accessible(unplugged_inaccessible: bool, page_size: int, host_page_size: int) -> None:
    """Raises InvalidArgument where a driver that reads unplugged blocks could end the whole process."""
    if not unplugged_inaccessible and page_size > host_page_size:
        raise _refused(
            {"page size": page_size},
            "a guest that reads unplugged memory of huge pages takes one, or SIGBUS if the host has none left",
            "Leave UNPLUGGED_INACCESSIBLE on, or take memory of ordinary pages",
        )


def _refused(arguments: dict[str, object], meaning: str, advice: str = "") -> InvalidArgument:
    return InvalidArgument(errno.EINVAL, "virtio-mem", arguments, meaning, advice)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
