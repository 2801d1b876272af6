"""Which memory can be mapped for what. Source: vaddr_get_pfns and mm/gup.c."""

from errno import EFAULT

from pyvfio.abi import vfio
from tests.conformance.areas.setups import DEVICE, READY
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, map_dma, unmap_dma
from tests.conformance.calls.device import map_region
from tests.conformance.calls.process import allocate, discard, free
from tests.conformance.case import Case, ok, since

READ, WRITE = vfio.VFIO_DMA_MAP_FLAG_READ, vfio.VFIO_DMA_MAP_FLAG_WRITE
ONE = ok(mapped=1, locked=1)
# What was never written is the zero page; since 6.2 pinning it makes it a page of the process's own.
_ZERO_PAGES = since({(6, 1): ok(mapped=1), (6, 2): ok(mapped=1, locked=16)})
GONE = ok(size=PAGE, mapped=-1, locked=-1)

CASES = [
    Case("private memory", READY, map_dma(size=16 * PAGE), ok(mapped=1, locked=16)),
    Case(
        "private memory nobody has touched",
        [*READY, allocate(pages=16, name="own")],
        map_dma(memory="own", size=16 * PAGE),
        ok(mapped=1, locked=16),
    ),
    Case(
        "private memory nobody has touched, to be read",
        [*READY, allocate(pages=16, name="own")],
        map_dma(memory="own", size=16 * PAGE, flags=READ),
        _ZERO_PAGES,
    ),
    Case("a memfd", READY, map_dma(memory="memfd", size=64 * PAGE), ok(mapped=1, locked=64)),
    Case("a memfd, to be read", READY, map_dma(memory="memfd", flags=READ), ONE),
    Case("beyond a memfd", READY, map_dma(memory="memfd", offset=64 * PAGE - PAGE), ONE),
    Case("read-only memory, to be read", READY, map_dma(memory="readonly", size=16 * PAGE, flags=READ), _ZERO_PAGES),
    Case("read-only memory, to be written", READY, map_dma(memory="readonly"), EFAULT),
    Case("read-only memory, only to be written", READY, map_dma(memory="readonly", flags=WRITE), EFAULT),
    Case("forbidden memory, to be read", READY, map_dma(memory="none", flags=READ), EFAULT),
    Case("forbidden memory, to be written", READY, map_dma(memory="none"), EFAULT),
    Case("no memory", READY, map_dma(memory="hole"), EFAULT),
    Case("no memory, to be read", READY, map_dma(memory="hole", flags=READ), EFAULT),
    Case("address 0", READY, map_dma(memory="null"), EFAULT),
    Case("the kernel's memory", READY, map_dma(memory="kernel"), EFAULT),
    Case(
        "memory that ends too early",
        [*READY, allocate(pages=4, name="short")],
        map_dma(memory="readonly", offset=8 * PAGE, size=16 * PAGE, flags=READ | WRITE),
        EFAULT,
    ),
    Case(
        "memory that was discarded before",
        [*READY, allocate(pages=4, name="own"), discard(name="own", pages=4)],
        map_dma(memory="own", size=4 * PAGE),
        ok(mapped=1, locked=4),
    ),
    Case(
        "memory that was freed before",
        [*READY, allocate(pages=4, name="own"), free(name="own")],
        map_dma(memory="own", size=4 * PAGE),
        EFAULT,
    ),
    Case(
        "memory discarded under the mapping stays charged",
        [*READY, allocate(pages=4, name="own"), map_dma(memory="own", size=4 * PAGE)],
        discard(name="own", pages=4),
        ok(),
        after=[(unmap_dma(size=4 * PAGE), ok(size=4 * PAGE, mapped=-1, locked=-4))],
    ),
    Case(
        "memory freed under the mapping stays charged",
        [*READY, allocate(pages=4, name="own"), map_dma(memory="own", size=4 * PAGE)],
        free(name="own"),
        ok(),
        after=[(unmap_dma(size=4 * PAGE), ok(size=4 * PAGE, mapped=-1, locked=-4))],
    ),
    Case("a device's registers are not charged", [*DEVICE, map_region()], map_dma(memory="registers"), ok(mapped=1)),
    Case(
        "a device's registers are unmapped",
        [*DEVICE, map_region(), map_dma(memory="registers")],
        unmap_dma(),
        ok(size=PAGE, mapped=-1),
    ),
    Case(
        "a device's registers to the end",
        [*DEVICE, map_region(size=16 * PAGE)],
        map_dma(memory="registers", size=16 * PAGE),
        ok(mapped=1),
    ),
    Case(
        "write-only and read-only side by side",
        [*READY, map_dma(flags=READ)],
        map_dma(iova=IOVA + PAGE, flags=WRITE),
        ONE,
        after=[(unmap_dma(), GONE)],
    ),
    Case("a huge page", READY, map_dma(memory="hugetlb", size=512 * PAGE), ok(mapped=1, locked=512), needs=["hugetlb"]),
    Case(
        "a part of a huge page",
        READY,
        map_dma(memory="hugetlb", offset=7 * PAGE),
        ok(mapped=1, locked=1),
        needs=["hugetlb"],
    ),
    Case(
        "a huge page that was discarded before",
        [*READY, discard(name="hugetlb", pages=512)],
        map_dma(memory="hugetlb", size=512 * PAGE),
        ok(mapped=1, locked=512),
        needs=["hugetlb"],
    ),
    Case(
        "a huge page discarded under the mapping stays charged",
        [*READY, map_dma(memory="hugetlb", size=512 * PAGE)],
        discard(name="hugetlb", pages=512),
        ok(),
        after=[(unmap_dma(size=512 * PAGE), ok(size=512 * PAGE, mapped=-1, locked=-512))],
        needs=["hugetlb"],
    ),
]
