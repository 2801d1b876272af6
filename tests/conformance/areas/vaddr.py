"""Live update: mappings whose memory moves. Source: VFIO_DMA_UNMAP_FLAG_VADDR, VFIO_DMA_MAP_FLAG_VADDR."""

from errno import EEXIST, EFAULT, EINVAL, ENOENT, EOVERFLOW

from pyvfio.abi import vfio
from tests.conformance.areas.setups import READY
from tests.conformance.areas.unmap_dma import gone
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, dirty_pages, map_dma, unmap_dma
from tests.conformance.case import Case, ok, since

VADDR, ALL = vfio.VFIO_DMA_UNMAP_FLAG_VADDR, vfio.VFIO_DMA_UNMAP_FLAG_ALL
NEW = vfio.VFIO_DMA_MAP_FLAG_VADDR
WRAPS = since({(6, 1): EINVAL, (6, 18): EOVERFLOW})

_FOUR = [*READY, map_dma(size=4 * PAGE)]
_TWO = [*READY, map_dma(), map_dma(iova=IOVA + PAGE)]
_INVALID = [*_FOUR, unmap_dma(size=4 * PAGE, flags=VADDR)]

CASES = [
    Case("a mapping stays", _FOUR, unmap_dma(size=4 * PAGE, flags=VADDR), ok(size=4 * PAGE)),
    Case("several", _TWO, unmap_dma(size=2 * PAGE, flags=VADDR), ok(size=2 * PAGE)),
    Case("all", _TWO, unmap_dma(iova=0, size=0, flags=VADDR | ALL), ok(size=2 * PAGE)),
    Case("all of nothing", READY, unmap_dma(iova=0, size=0, flags=VADDR | ALL), ok(size=0)),
    Case("nothing there", READY, unmap_dma(flags=VADDR), ok(size=0)),
    Case("its head", _FOUR, unmap_dma(flags=VADDR), EINVAL),
    Case("its tail", _FOUR, unmap_dma(iova=IOVA + 3 * PAGE, flags=VADDR), EINVAL),
    Case("twice", _INVALID, unmap_dma(size=4 * PAGE, flags=VADDR), EINVAL),
    Case(
        "one of several is invalid already: the others stay valid",
        [*_TWO, unmap_dma(iova=IOVA + PAGE, flags=VADDR)],
        unmap_dma(size=2 * PAGE, flags=VADDR),
        EINVAL,
        after=[(unmap_dma(flags=VADDR), ok(size=PAGE)), (map_dma(iova=IOVA + PAGE, flags=NEW), ok())],
    ),
    Case("a new address", _INVALID, map_dma(size=4 * PAGE, offset=8 * PAGE, flags=NEW), ok()),
    Case("the same address", _INVALID, map_dma(size=4 * PAGE, flags=NEW), ok()),
    Case(
        "twice a new address", [*_INVALID, map_dma(size=4 * PAGE, flags=NEW)], map_dma(size=4 * PAGE, flags=NEW), EINVAL
    ),
    Case(
        "invalid again after a new address",
        [*_INVALID, map_dma(size=4 * PAGE, flags=NEW)],
        unmap_dma(size=4 * PAGE, flags=VADDR),
        ok(size=4 * PAGE),
    ),
    Case("a new address for a valid mapping", _FOUR, map_dma(size=4 * PAGE, flags=NEW), EINVAL),
    Case("a new address for nothing", READY, map_dma(flags=NEW), ENOENT),
    Case("a new address beside it", _INVALID, map_dma(iova=IOVA + 4 * PAGE, flags=NEW), ENOENT),
    Case("a new address for its head", _INVALID, map_dma(flags=NEW), EINVAL),
    Case("a new address for its tail", _INVALID, map_dma(iova=IOVA + 3 * PAGE, flags=NEW), EINVAL),
    Case("a new address for more than it", _INVALID, map_dma(size=5 * PAGE, flags=NEW), EINVAL),
    Case("a new address, size 0", _INVALID, map_dma(size=0, flags=NEW), EINVAL),
    Case("a new address, unaligned", _INVALID, map_dma(size=4 * PAGE, offset=1, flags=NEW), EINVAL),
    Case("a new address, wrapping", _INVALID, map_dma(iova=(1 << 64) - PAGE, size=4 * PAGE, flags=NEW), WRAPS),
    Case("a new address where there is no memory", _INVALID, map_dma(size=4 * PAGE, memory="hole", flags=NEW), ok()),
    Case("a new address in reserved addresses", READY, map_dma(iova=0xFEE0_0000, flags=NEW), ENOENT),
    Case("an overlap with an invalid mapping", _INVALID, map_dma(size=4 * PAGE), EEXIST),
    Case("unmap an invalid mapping", _INVALID, unmap_dma(size=4 * PAGE), gone(4)),
    Case("map beside an invalid mapping", _INVALID, map_dma(iova=IOVA + 4 * PAGE), ok(mapped=1, locked=1)),
    Case(
        "invalid and unmapped may be mapped anew",
        [*_INVALID, unmap_dma(size=4 * PAGE)],
        map_dma(),
        ok(mapped=1, locked=1),
    ),
    Case("dirty tracking of an invalid mapping", _INVALID, dirty_pages(flags=1), ok()),
    Case("size 0", _FOUR, unmap_dma(size=0, flags=VADDR), EINVAL),
    Case("wraps", _FOUR, unmap_dma(iova=(1 << 64) - PAGE, size=2 * PAGE, flags=VADDR), WRAPS),
    Case("all with an iova", _FOUR, unmap_dma(size=0, flags=VADDR | ALL), EINVAL),
    Case("struct one byte short", _FOUR, unmap_dma(size=4 * PAGE, flags=VADDR, reach=23), EFAULT),
]
