"""Calls on a container, and on the IOMMU behind it."""

from __future__ import annotations

import ctypes
import os

from pyvfio.abi import vfio
from tests.conformance.bench import PAGE, Bench
from tests.conformance.step import Reply, call

IOVA = 0x10_0000
LARGEST = 512 * PAGE
_INFO_ROOM = 1024


@call
def open_container(bench: Bench, *, name: str = "container") -> Reply:
    return bench.open(name, lambda: bench.kernel.open("/dev/vfio/vfio", os.O_RDWR))


@call
def get_api_version(bench: Bench, *, container: str = "container") -> Reply:
    return bench.ioctl(container, vfio.VFIO_GET_API_VERSION)


@call
def check_extension(bench: Bench, *, extension: int, container: str = "container") -> Reply:
    return bench.ioctl(container, vfio.VFIO_CHECK_EXTENSION, extension)


@call
def set_iommu(bench: Bench, *, kind: int = vfio.VFIO_TYPE1v2_IOMMU, container: str = "container") -> Reply:
    return bench.ioctl(container, vfio.VFIO_SET_IOMMU, kind)


@call
def unknown_container_ioctl(bench: Bench, *, number: int, container: str = "container") -> Reply:
    """number: what is added to VFIO_BASE."""
    return bench.ioctl(container, vfio.VFIO_GET_API_VERSION + number)


@call
def get_iommu_info(
    bench: Bench, *, argsz: int = _INFO_ROOM, reach: int | None = None, container: str = "container"
) -> Reply:
    """The chain of capabilities comes back as out: what each holds, and where it lies."""
    reply = bench.ioctl(
        container,
        vfio.VFIO_IOMMU_GET_INFO,
        vfio.vfio_iommu_type1_info(argsz=argsz, flags=0, cap_offset=0xAAAA, pad=0xBBBB),
        bytes(_INFO_ROOM - ctypes.sizeof(vfio.vfio_iommu_type1_info)) if reach is None else b"",
        reach=reach,
    )
    out = dict(reply.out)
    tail = bytes.fromhex(str(out.pop("data", "")))
    content = bytes(ctypes.sizeof(vfio.vfio_iommu_type1_info)) + tail
    position = out.get("cap_offset", 0)
    if reply.error is None and reach is None and argsz == _INFO_ROOM and isinstance(position, int):
        out["chain"] = _chain(content, position)
    return Reply(reply.error, reply.value, out)


@call
def map_dma(
    bench: Bench,
    *,
    iova: int = IOVA,
    size: int = PAGE,
    memory: str = "anon",
    offset: int = 0,
    vaddr: int | None = None,
    flags: int = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE,
    argsz: int = 32,
    reach: int | None = None,
    container: str = "container",
) -> Reply:
    """vaddr: instead of an offset in memory."""
    argument = vfio.vfio_iommu_type1_dma_map(
        argsz=argsz,
        flags=flags,
        vaddr=bench.address(memory, offset) if vaddr is None else vaddr,
        iova=iova,
        size=size,
    )
    return bench.ioctl(container, vfio.VFIO_IOMMU_MAP_DMA, argument, reach=reach)


@call
def unmap_dma(
    bench: Bench,
    *,
    iova: int = IOVA,
    size: int = PAGE,
    flags: int = 0,
    argsz: int = 24,
    reach: int | None = None,
    container: str = "container",
) -> Reply:
    argument = vfio.vfio_iommu_type1_dma_unmap(argsz=argsz, flags=flags, iova=iova, size=size)
    return bench.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, argument, reach=reach)


@call
def unmap_dma_dirty(
    bench: Bench,
    *,
    iova: int = IOVA,
    size: int = PAGE,
    flags: int = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    argsz: int = 48,
    reach: int | None = None,
    pgsize: int = PAGE,
    bitmap_size: int = 8,
    bitmap: str = "bitmap",
    fill: int = 0,
    container: str = "container",
) -> Reply:
    """bitmap: the memory it is in. fill: every byte of it before the call."""
    argument = vfio.vfio_iommu_type1_dma_unmap(argsz=argsz, flags=flags, iova=iova, size=size)
    data = bytes(_prepared(bench, pgsize, bitmap_size, bitmap, fill))
    reply = bench.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, argument, data, reach=reach)
    return _with_bitmap(bench, reply, bitmap, bitmap_size)


@call
def dirty_pages(
    bench: Bench, *, flags: int, argsz: int = 8, reach: int | None = None, container: str = "container"
) -> Reply:
    argument = vfio.vfio_iommu_type1_dirty_bitmap(argsz=argsz, flags=flags)
    return bench.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, argument, reach=reach)


@call
def get_dirty_bitmap(
    bench: Bench,
    *,
    iova: int = IOVA,
    size: int = PAGE,
    argsz: int = 48,
    reach: int | None = None,
    pgsize: int = PAGE,
    bitmap_size: int = 8,
    bitmap: str = "bitmap",
    fill: int = 0,
    container: str = "container",
) -> Reply:
    """bitmap: the memory it is in. fill: every byte of it before the call."""
    argument = vfio.vfio_iommu_type1_dirty_bitmap(argsz=argsz, flags=vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
    wanted = vfio.vfio_iommu_type1_dirty_bitmap_get(
        iova=iova, size=size, bitmap=_prepared(bench, pgsize, bitmap_size, bitmap, fill)
    )
    reply = bench.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, argument, bytes(wanted), reach=reach)
    return _with_bitmap(bench, reply, bitmap, bitmap_size)


def _prepared(bench: Bench, pgsize: int, size: int, memory: str, fill: int) -> vfio.vfio_bitmap:
    if memory == "bitmap":
        ctypes.memset(bench.address("bitmap", 0), fill, 16 * PAGE)
    return vfio.vfio_bitmap(pgsize=pgsize, size=size, data=bench.address(memory, 0))


def _with_bitmap(bench: Bench, reply: Reply, memory: str, size: int) -> Reply:
    out = dict(reply.out)
    out.pop("data", None)
    if memory == "bitmap":
        # Beyond what was offered too: nothing may have been written there.
        content = ctypes.string_at(bench.address("bitmap", 0), min(size, 8 * PAGE) + 64)
        out["bits"] = f"{int.from_bytes(content, 'little'):#x}"
    return Reply(reply.error, reply.value, out)


def _chain(content: bytes, position: int) -> list[list[object]]:
    """Of each capability: where it lies, its number, and what is in it."""
    chain: list[list[object]] = []
    while position:
        header = vfio.vfio_info_cap_header.from_buffer_copy(content, position)
        entry: list[object] = [position, header.id, header.version]
        match header.id:
            case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                ranges = vfio.vfio_iommu_type1_info_cap_iova_range.from_buffer_copy(content, position)
                kind = vfio.vfio_iova_range * ranges.nr_iovas
                entry += [[each.start, each.end] for each in kind.from_buffer_copy(content, position + 16)]
            case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
                migration = vfio.vfio_iommu_type1_info_cap_migration.from_buffer_copy(content, position)
                entry += [migration.flags, migration.pgsize_bitmap, migration.max_dirty_bitmap_size]
            case vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                entry += [vfio.vfio_iommu_type1_info_dma_avail.from_buffer_copy(content, position).avail]
        chain.append(entry)
        position = header.next
    return chain
