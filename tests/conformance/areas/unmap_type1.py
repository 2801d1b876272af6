"""VFIO_IOMMU_UNMAP_DMA of type1 (version 1): never a cut, but more than was asked for. Source: vfio_dma_do_unmap."""

from errno import EACCES, EINVAL, EOVERFLOW

from pyvfio.abi import vfio
from tests.conformance.areas.setups import READY_TYPE1
from tests.conformance.areas.unmap_dma import ALL, gone
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, dirty_pages, map_dma, unmap_dma
from tests.conformance.case import Case, ok, since

_FOUR = [*READY_TYPE1, map_dma(size=4 * PAGE)]
_TWICE_FOUR = [*_FOUR, map_dma(iova=IOVA + 4 * PAGE, size=4 * PAGE)]

CASES = [
    Case("the mapping", _FOUR, unmap_dma(size=4 * PAGE), gone(4)),
    Case("its head takes all of it", _FOUR, unmap_dma(), gone(4)),
    Case("into it takes all of it", _FOUR, unmap_dma(iova=IOVA - PAGE, size=2 * PAGE), gone(4)),
    Case("its middle takes nothing", _FOUR, unmap_dma(iova=IOVA + PAGE), ok(size=0)),
    Case("its tail takes nothing", _FOUR, unmap_dma(iova=IOVA + 3 * PAGE), ok(size=0)),
    Case(
        "from its middle on takes nothing behind it either",
        _TWICE_FOUR,
        unmap_dma(iova=IOVA + PAGE, size=7 * PAGE),
        ok(size=0),
    ),
    Case("up to the head of the second takes both", _TWICE_FOUR, unmap_dma(size=5 * PAGE), gone(8, 2)),
    Case("the first of two", _TWICE_FOUR, unmap_dma(size=4 * PAGE), gone(4)),
    Case("nothing there", READY_TYPE1, unmap_dma(), ok(size=0)),
    Case("all", _TWICE_FOUR, unmap_dma(iova=0, size=0, flags=ALL), gone(8, 2)),
    Case("all of nothing", READY_TYPE1, unmap_dma(iova=0, size=0, flags=ALL), ok(size=0)),
    Case("size 0", _FOUR, unmap_dma(size=0), EINVAL),
    Case("unaligned", _FOUR, unmap_dma(iova=IOVA + 1), EINVAL),
    Case("wraps", _FOUR, unmap_dma(iova=(1 << 64) - PAGE, size=2 * PAGE), since({(6, 1): EINVAL, (6, 18): EOVERFLOW})),
    Case("dirty tracking", _FOUR, dirty_pages(flags=vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START), EACCES),
    Case("dirty tracking is refused before anything is read", _FOUR, dirty_pages(flags=0, reach=0), EACCES),
    Case("dirty tracking, unknown flag", _FOUR, dirty_pages(flags=8, argsz=0), EACCES),
    Case("vaddr of its head", _FOUR, unmap_dma(flags=vfio.VFIO_DMA_UNMAP_FLAG_VADDR), ok(size=4 * PAGE)),
    Case("vaddr of its middle", _FOUR, unmap_dma(iova=IOVA + PAGE, flags=vfio.VFIO_DMA_UNMAP_FLAG_VADDR), ok(size=0)),
]
