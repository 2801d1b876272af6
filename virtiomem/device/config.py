"""virtio-mem's config space, features, and the rules for sizes and addresses."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Final, Self

from pyvfio.errors import InvalidArgument
from virtiomem import abi
from virtiomem.device.errors import FeaturesRefused

MINIMUM_BLOCK_SIZE: Final = 1 << 20
USABLE_EXTENT: Final = 256 << 20
"""Bytes by which the usable region exceeds the requested size, so that a guest finds aligned room. QEMU's on x86."""

_ADDRESS_LIMIT: Final = 1 << 64
_DEVICE_FEATURES: Final = (1 << 24) - 1


class Feature(enum.IntFlag):
    """virtio-mem's own feature bits. Those from 24 on are virtio's, and the transport's to negotiate.

    ACPI_PXM: the config has a node id. UNPLUGGED_INACCESSIBLE: the driver must not read unplugged blocks.
    PERSISTENT_SUSPEND: blocks stay plugged when the guest wakes up from suspend to RAM.
    """

    ACPI_PXM = 1 << abi.VIRTIO_MEM_F_ACPI_PXM
    UNPLUGGED_INACCESSIBLE = 1 << abi.VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE
    PERSISTENT_SUSPEND = 1 << abi.VIRTIO_MEM_F_PERSISTENT_SUSPEND


def offered_features(*, node: bool, unplugged_inaccessible: bool, persistent_suspend: bool) -> Feature:
    """The features of a device. node: whether it tells the NUMA node of its region."""
    return (
        (Feature.ACPI_PXM if node else Feature(0))
        | (Feature.UNPLUGGED_INACCESSIBLE if unplugged_inaccessible else Feature(0))
        | (Feature.PERSISTENT_SUSPEND if persistent_suspend else Feature(0))
    )


def accepted_features(features: int, offered: Feature) -> Feature:
    """Those of features, which a driver has accepted, that are virtio-mem's own.

    Raises FeaturesRefused for one that was not offered, and without UNPLUGGED_INACCESSIBLE where it was.
    """
    accepted = features & _DEVICE_FEATURES
    if unknown := accepted & ~int(offered):
        raise _features_refused(features, f"{unknown:#x} was not offered")
    if offered & Feature.UNPLUGGED_INACCESSIBLE & ~accepted:
        meaning = "the driver may read unplugged memory, for which there may be no pages: it does not accept"
        raise _features_refused(features, f"{meaning} VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE, as Linux 6.1 does")
    return Feature(accepted)


@dataclass(frozen=True, slots=True)
class Config:
    """The config space as the guest reads it; bytes() of it is the wire format, struct virtio_mem_config.

    node_id: the NUMA node of the region, if ACPI_PXM is offered. addr: where the region begins, guest-physical.
    usable_region_size: how much of the region, from its start, the guest may use. plugged_size: how much is plugged.
    requested_size: how much the host wants plugged. All but node_id are bytes and multiples of block_size.
    """

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
        """Read the config space from data, which has just its size."""
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

    page_size: bytes of a page of the memory; thp_size: bytes of a transparent huge page, None where there are none;
    host_page_size: bytes of the host's smallest page.
    Source: QEMU, hw/virtio/virtio-mem.c, virtio_mem_default_block_size.
    """
    thp_size = thp_size if page_size == host_page_size else None
    return max(page_size, thp_size or 0, MINIMUM_BLOCK_SIZE)


def usable_region_size(region_size: int, requested_size: int, block_size: int, extent: int) -> int:
    """How much of the region the guest may use to reach requested_size. extent: how far that reaches beyond it. Bytes.

    Source: QEMU, hw/virtio/virtio-mem.c, virtio_mem_resize_usable_region.
    """
    return _round_up(min(region_size, requested_size + extent), block_size) if requested_size else 0


def check_block_size(block_size: int, page_size: int) -> None:
    """Raises InvalidArgument unless memory in pages of page_size bytes can be plugged in blocks of block_size bytes."""
    smallest = max(MINIMUM_BLOCK_SIZE, page_size)
    if block_size < smallest or block_size & (block_size - 1):
        fitting = max(smallest, 1 << max(block_size - 1, 0).bit_length())
        raise _refused(
            {"block size": block_size},
            f"not a power of two of at least {smallest:#_x} (1 MiB, and a page of the memory)",
            f"{fitting:#_x} would fit",
        )


def check_region(address: int, offset: int, size: int, block_size: int, memory_size: int) -> None:
    """Raises InvalidArgument unless size bytes of memory, from offset, are whole blocks at the guest-physical address.

    memory_size: bytes of memory there are.
    """
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
    """Raises InvalidArgument unless node_id is None or fits the config space's 16 bits."""
    if node_id is not None and not 0 <= node_id <= 0xFFFF:
        raise _refused({"node id": node_id}, "not in 0 to 0xffff")


def check_accessible(unplugged_inaccessible: bool, page_size: int, host_page_size: int) -> None:
    """Raises InvalidArgument where a driver may read unplugged blocks, and could end the whole process by doing so."""
    if not unplugged_inaccessible and page_size > host_page_size:
        raise _refused(
            {"page size": page_size},
            "a guest that reads unplugged memory of huge pages takes one, or SIGBUS if the host has none left",
            "Leave UNPLUGGED_INACCESSIBLE on, or take memory of ordinary pages",
        )


def _refused(arguments: dict[str, object], meaning: str, advice: str = "") -> InvalidArgument:
    return InvalidArgument(errno.EINVAL, "virtio-mem", arguments, meaning, advice)


def _features_refused(features: int, meaning: str) -> FeaturesRefused:
    return FeaturesRefused(errno.EINVAL, "negotiate", {"features": features}, meaning)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
