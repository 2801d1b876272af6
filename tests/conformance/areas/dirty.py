"""Dirty tracking: with no hardware for it, every page of a mapping is dirty. Source: vfio_iommu_type1_dirty_pages."""

from errno import EFAULT, EINVAL

from pyvfio.abi import vfio
from tests.conformance.areas.setups import READY
from tests.conformance.areas.unmap_dma import WRAPS
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import (
    IOVA,
    dirty_pages,
    get_dirty_bitmap,
    map_dma,
    unmap_dma,
    unmap_dma_dirty,
)
from tests.conformance.case import Case, Ok, ok, since

START, STOP = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
GET = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
TOP = (1 << 64) - PAGE

_SIXTEEN = [*READY, map_dma(size=16 * PAGE)]
_TRACKED = [*_SIXTEEN, dirty_pages(flags=START)]
_get = get_dirty_bitmap(size=16 * PAGE)
_FROM_BEFORE = get_dirty_bitmap(iova=IOVA - 16 * PAGE, size=32 * PAGE)


def bits(value: int) -> Ok:
    return ok(bits=hex(value))


def _gone(pages: int, value: int, mappings: int = 1) -> Ok:
    return ok(size=pages * PAGE, bits=hex(value), mapped=-mappings, locked=-pages)


_unmap = unmap_dma_dirty(size=16 * PAGE)

CASES = [
    Case("start", _SIXTEEN, dirty_pages(flags=START), ok()),
    Case("start twice", _TRACKED, dirty_pages(flags=START), ok()),
    Case("start without a mapping", READY, dirty_pages(flags=START), ok()),
    Case("stop", _TRACKED, dirty_pages(flags=STOP), ok(), after=[(_get, EINVAL)]),
    Case("stop without a start", READY, dirty_pages(flags=STOP), ok()),
    Case("no flag", _TRACKED, dirty_pages(flags=0), EINVAL),
    Case("start and stop", _TRACKED, dirty_pages(flags=START | STOP), EINVAL),
    Case("start and get", _TRACKED, dirty_pages(flags=START | GET), EINVAL),
    Case("unknown flag", _TRACKED, dirty_pages(flags=8), EINVAL),
    Case("argsz one byte short", READY, dirty_pages(flags=START, argsz=7), EINVAL),
    Case("a larger argsz", READY, dirty_pages(flags=START, argsz=100), ok()),
    Case("struct one byte short", READY, dirty_pages(flags=START, reach=7), EFAULT),
    Case("no struct", READY, dirty_pages(flags=START, reach=0), EFAULT),
    Case("get: argsz without the range", _TRACKED, dirty_pages(flags=GET), EINVAL),
    Case("get: argsz one byte short", _TRACKED, get_dirty_bitmap(size=16 * PAGE, argsz=47), EINVAL),
    Case("get: argsz comes before the copy", _TRACKED, dirty_pages(flags=GET, reach=8), EINVAL),
    Case("get: a larger argsz", _TRACKED, get_dirty_bitmap(size=16 * PAGE, argsz=100), bits(0xFFFF)),
    Case("get: struct one byte short", _TRACKED, get_dirty_bitmap(size=16 * PAGE, reach=47), EFAULT),
    Case("get: exactly the struct", _TRACKED, get_dirty_bitmap(size=16 * PAGE, reach=48), bits(0xFFFF)),
    Case("get", _TRACKED, _get, bits(0xFFFF), after=[(_get, bits(0xFFFF))]),
    Case("get without a start", _SIXTEEN, _get, EINVAL),
    Case(
        "get of 512 pages",
        [*READY, map_dma(size=512 * PAGE), dirty_pages(flags=START)],
        get_dirty_bitmap(size=512 * PAGE, bitmap_size=64),
        bits((1 << 512) - 1),
    ),
    Case(
        "get of 65 pages",
        [*READY, map_dma(size=65 * PAGE), dirty_pages(flags=START)],
        get_dirty_bitmap(size=65 * PAGE, bitmap_size=16),
        bits((1 << 65) - 1),
    ),
    Case("a mapping made later", [*READY, dirty_pages(flags=START), map_dma(size=16 * PAGE)], _get, bits(0xFFFF)),
    Case("of nothing", [*READY, dirty_pages(flags=START)], _get, bits(0)),
    Case(
        "holes are left as they were",
        [*READY, dirty_pages(flags=START)],
        get_dirty_bitmap(size=16 * PAGE, fill=0xA5),
        bits(int.from_bytes(b"\xa5" * 72, "little")),
    ),
    Case("with a hole before", _TRACKED, _FROM_BEFORE, bits(0xFFFF_0000)),
    Case(
        "with a hole before, merged into what is there",
        _TRACKED,
        get_dirty_bitmap(iova=IOVA - 16 * PAGE, size=32 * PAGE, fill=0x11),
        bits(int.from_bytes(b"\x11\x11\xff\xff" + b"\x11" * 68, "little")),
    ),
    Case(
        "with a hole behind, written over",
        _TRACKED,
        get_dirty_bitmap(size=32 * PAGE, fill=0x11),
        bits(int.from_bytes(b"\xff\xff" + bytes(6) + b"\x11" * 64, "little")),
    ),
    Case(
        "bits of a mapping at a distance stay",
        _TRACKED,
        _FROM_BEFORE,
        bits(0xFFFF_0000),
        after=[(_get, bits(0xFFFF_FFFF))],
    ),
    Case(
        "a hole of a word before",
        _TRACKED,
        get_dirty_bitmap(iova=IOVA - 64 * PAGE, size=80 * PAGE, bitmap_size=16),
        bits(0xFFFF << 64),
    ),
    Case(
        "two with a hole between",
        [*_TRACKED, map_dma(iova=IOVA + 32 * PAGE, size=16 * PAGE)],
        get_dirty_bitmap(size=48 * PAGE),
        bits(0xFFFF_0000_FFFF),
    ),
    Case(
        "two that touch",
        [*_TRACKED, map_dma(iova=IOVA + 16 * PAGE, size=16 * PAGE)],
        get_dirty_bitmap(size=32 * PAGE),
        bits(0xFFFF_FFFF),
    ),
    Case(
        "only the second",
        [*_TRACKED, map_dma(iova=IOVA + 16 * PAGE, size=16 * PAGE)],
        get_dirty_bitmap(iova=IOVA + 16 * PAGE, size=16 * PAGE),
        bits(0xFFFF),
    ),
    Case("a range that cuts the head", _TRACKED, get_dirty_bitmap(size=8 * PAGE), EINVAL),
    Case("a range that cuts the tail", _TRACKED, get_dirty_bitmap(iova=IOVA + 8 * PAGE, size=8 * PAGE), EINVAL),
    Case("a range inside it", _TRACKED, get_dirty_bitmap(iova=IOVA + 4 * PAGE, size=4 * PAGE), EINVAL),
    Case("size 0", _TRACKED, get_dirty_bitmap(size=0), EINVAL),
    Case("size not in pages", _TRACKED, get_dirty_bitmap(size=16 * PAGE + 1), EINVAL),
    Case("iova not in pages", _TRACKED, get_dirty_bitmap(iova=IOVA + 1, size=16 * PAGE), EINVAL),
    Case("wraps", _TRACKED, get_dirty_bitmap(iova=TOP, size=2 * PAGE), WRAPS),
    Case("size 0 comes before wrapping", _TRACKED, get_dirty_bitmap(iova=TOP, size=0), EINVAL),
    Case(
        "wrapping comes before the bitmap's size",
        _TRACKED,
        get_dirty_bitmap(iova=TOP, size=2 * PAGE, bitmap_size=0),
        WRAPS,
    ),
    Case(
        "wrapping comes before the page size", _TRACKED, get_dirty_bitmap(iova=TOP, size=2 * PAGE, pgsize=8192), WRAPS
    ),
    Case("up to 2^64", _TRACKED, get_dirty_bitmap(iova=TOP, size=PAGE), since({(6, 1): EINVAL, (6, 18): bits(0)})),
    Case("page size 8 KiB", _TRACKED, get_dirty_bitmap(size=16 * PAGE, pgsize=8192), EINVAL),
    Case("page size 2 KiB", _TRACKED, get_dirty_bitmap(size=16 * PAGE, pgsize=2048), EINVAL),
    Case("a bitmap of no bytes", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap_size=0), EINVAL),
    Case("a bitmap of 7 bytes", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap_size=7), EINVAL),
    Case("a bitmap of a word too little", _TRACKED, get_dirty_bitmap(size=65 * PAGE, bitmap_size=15), EINVAL),
    Case("a larger bitmap", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap_size=16), bits(0xFFFF)),
    Case("the largest bitmap", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap_size=1 << 28), bits(0xFFFF)),
    Case("more than the largest bitmap", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap_size=(1 << 28) + 1), EINVAL),
    Case("a bitmap in no memory", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap="hole"), EFAULT),
    Case("a bitmap in read-only memory", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap="readonly"), EFAULT),
    Case("a bitmap in the kernel's memory", _TRACKED, get_dirty_bitmap(size=16 * PAGE, bitmap="kernel"), EINVAL),
    Case(
        "a bitmap in no memory, of nothing",
        [*READY, dirty_pages(flags=START)],
        get_dirty_bitmap(size=16 * PAGE, bitmap="hole"),
        ok(),
    ),
    Case("unmap with the bitmap", _TRACKED, _unmap, _gone(16, 0xFFFF)),
    Case("unmap with the bitmap without a start", _SIXTEEN, _unmap, EINVAL),
    Case(
        "unmap with the bitmap of two",
        [*_TRACKED, map_dma(iova=IOVA + 32 * PAGE, size=16 * PAGE)],
        unmap_dma_dirty(size=48 * PAGE),
        _gone(32, 0xFFFF_0000_FFFF, 2),
    ),
    Case("unmap with the bitmap of nothing", [*READY, dirty_pages(flags=START)], _unmap, ok(size=0, bits="0x0")),
    Case("unmap with the bitmap, head", _TRACKED, unmap_dma_dirty(size=8 * PAGE), EINVAL),
    Case("unmap with the bitmap, argsz one byte short", _TRACKED, unmap_dma_dirty(size=16 * PAGE, argsz=47), EINVAL),
    Case("unmap with the bitmap, struct one byte short", _TRACKED, unmap_dma_dirty(size=16 * PAGE, reach=47), EFAULT),
    Case("unmap with the bitmap and ALL", _TRACKED, unmap_dma_dirty(size=16 * PAGE, flags=3), EINVAL),
    Case("unmap with the bitmap, of no bytes", _TRACKED, unmap_dma_dirty(size=16 * PAGE, bitmap_size=0), EINVAL),
    Case("unmap with the bitmap, page size 8 KiB", _TRACKED, unmap_dma_dirty(size=16 * PAGE, pgsize=8192), EINVAL),
    Case(
        "unmap with the bitmap in the kernel's memory",
        _TRACKED,
        unmap_dma_dirty(size=16 * PAGE, bitmap="kernel"),
        EINVAL,
    ),
    Case(
        "unmap with the bitmap in no memory takes nothing",
        _TRACKED,
        unmap_dma_dirty(size=16 * PAGE, bitmap="hole"),
        EFAULT,
    ),
    Case("unmap with the bitmap, size 0", _TRACKED, unmap_dma_dirty(size=0), EINVAL),
    Case("unmap with the bitmap, wrapping", _TRACKED, unmap_dma_dirty(iova=TOP, size=2 * PAGE), WRAPS),
    Case(
        "the bitmap's size comes before wrapping",
        _TRACKED,
        unmap_dma_dirty(iova=TOP, size=2 * PAGE, bitmap_size=0),
        EINVAL,
    ),
    Case(
        "unmap without the bitmap while tracking",
        _TRACKED,
        unmap_dma(size=16 * PAGE),
        ok(size=16 * PAGE, mapped=-1, locked=-16),
    ),
    Case(
        "tracking survives an unmap",
        [*_TRACKED, unmap_dma(size=16 * PAGE), map_dma(size=16 * PAGE)],
        _get,
        bits(0xFFFF),
    ),
]
