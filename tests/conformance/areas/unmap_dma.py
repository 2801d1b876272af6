"""VFIO_IOMMU_UNMAP_DMA of type1v2. Source: vfio_iommu_type1_unmap_dma, vfio_dma_do_unmap."""

from errno import EFAULT, EINVAL, EOVERFLOW

from pyvfio.abi import vfio
from tests.conformance.areas.setups import READY
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, get_iommu_info, map_dma, unmap_dma
from tests.conformance.case import Case, Ok, ok, since

ALL = vfio.VFIO_DMA_UNMAP_FLAG_ALL
DIRTY, VADDR = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, vfio.VFIO_DMA_UNMAP_FLAG_VADDR
TOP = (1 << 64) - PAGE
WRAPS = since({(6, 1): EINVAL, (6, 18): EOVERFLOW})

_ONE = [*READY, map_dma()]
_FOUR = [*READY, map_dma(size=4 * PAGE)]
_FOUR_SINGLE = [*READY, *(map_dma(iova=IOVA + number * PAGE) for number in range(4))]
_TWO_AND_A_HOLE = [*READY, map_dma(), map_dma(iova=IOVA + 2 * PAGE)]


def gone(pages: int, mappings: int = 1) -> Ok:
    return ok(size=pages * PAGE, mapped=-mappings, locked=-pages)


CASES = [
    Case("the mapping", _ONE, unmap_dma(), gone(1)),
    Case("and again", [*_ONE, unmap_dma()], unmap_dma(), ok(size=0)),
    Case("nothing there", READY, unmap_dma(), ok(size=0)),
    Case("several at once", _FOUR_SINGLE, unmap_dma(size=4 * PAGE), gone(4, 4)),
    Case("two of four", _FOUR_SINGLE, unmap_dma(iova=IOVA + PAGE, size=2 * PAGE), gone(2, 2)),
    Case("two and the hole between", _TWO_AND_A_HOLE, unmap_dma(size=3 * PAGE), gone(2, 2)),
    Case("only the hole", _TWO_AND_A_HOLE, unmap_dma(iova=IOVA + PAGE), ok(size=0)),
    Case("far around it", _ONE, unmap_dma(iova=0, size=1 << 32), gone(1)),
    Case("beyond what can be mapped", READY, unmap_dma(iova=1 << 62, size=PAGE), ok(size=0)),
    Case("around it by a page", _ONE, unmap_dma(iova=IOVA - PAGE, size=3 * PAGE), gone(1)),
    Case(
        "up to 2^64, which takes nothing before 6.18",
        _ONE,
        unmap_dma(size=(1 << 64) - IOVA),
        since({(6, 1): ok(size=0), (6, 18): gone(1)}),
    ),
    Case("up to 2^64, cutting the head", _FOUR, unmap_dma(iova=IOVA + PAGE, size=(1 << 64) - IOVA - PAGE), EINVAL),
    Case("its head", _FOUR, unmap_dma(), EINVAL, after=[(unmap_dma(size=4 * PAGE), gone(4))]),
    Case("its tail", _FOUR, unmap_dma(iova=IOVA + 3 * PAGE), EINVAL),
    Case("its middle", _FOUR, unmap_dma(iova=IOVA + PAGE, size=2 * PAGE), EINVAL),
    Case("into it", _FOUR, unmap_dma(iova=IOVA - PAGE, size=2 * PAGE), EINVAL),
    Case("out of it", _FOUR, unmap_dma(iova=IOVA + 3 * PAGE, size=2 * PAGE), EINVAL),
    Case(
        "whole ones and the head of another",
        [*_FOUR, map_dma(iova=IOVA - PAGE)],
        unmap_dma(iova=IOVA - PAGE, size=2 * PAGE),
        EINVAL,
        after=[(unmap_dma(iova=IOVA - PAGE), gone(1)), (unmap_dma(size=4 * PAGE), gone(4))],
    ),
    Case(
        "the tail of one and whole ones",
        [*_FOUR, map_dma(iova=IOVA + 4 * PAGE)],
        unmap_dma(iova=IOVA + 3 * PAGE, size=2 * PAGE),
        EINVAL,
    ),
    Case("size 0", _ONE, unmap_dma(size=0), EINVAL),
    Case("size not in pages", _ONE, unmap_dma(size=PAGE + 1), EINVAL),
    Case("size less than a page", _ONE, unmap_dma(size=1), EINVAL),
    Case("iova not in pages", _ONE, unmap_dma(iova=IOVA + 1), EINVAL),
    Case("wraps", _ONE, unmap_dma(iova=TOP, size=2 * PAGE), WRAPS),
    Case("wraps and comes back over it", _ONE, unmap_dma(iova=IOVA + PAGE, size=(1 << 64) - PAGE), WRAPS),
    Case("unaligned comes before wrapping", _ONE, unmap_dma(iova=TOP + 1, size=2 * PAGE), EINVAL),
    Case("an unaligned size comes before wrapping", _ONE, unmap_dma(iova=TOP, size=2 * PAGE + 1), EINVAL),
    Case("size of all ones", _ONE, unmap_dma(size=(1 << 64) - 1), EINVAL),
    Case("argsz one byte short", _ONE, unmap_dma(argsz=23), EINVAL),
    Case("a larger argsz", _ONE, unmap_dma(argsz=100), gone(1)),
    Case("exactly the struct can be read", _ONE, unmap_dma(reach=24), gone(1)),
    Case("struct one byte short", _ONE, unmap_dma(reach=23), EFAULT),
    Case("no struct", _ONE, unmap_dma(reach=0), EFAULT),
    Case("the copy comes before argsz", _ONE, unmap_dma(reach=23, argsz=0), EFAULT),
    Case("unknown flag", _ONE, unmap_dma(flags=8), EINVAL),
    Case("the highest flag", _ONE, unmap_dma(flags=1 << 31), EINVAL),
    Case("all", _FOUR_SINGLE, unmap_dma(iova=0, size=0, flags=ALL), gone(4, 4)),
    Case("all of nothing", READY, unmap_dma(iova=0, size=0, flags=ALL), ok(size=0)),
    Case("all, with an iova", _ONE, unmap_dma(size=0, flags=ALL), EINVAL),
    Case("all, with a size", _ONE, unmap_dma(iova=0, flags=ALL), EINVAL),
    Case("all, with an unaligned iova", _ONE, unmap_dma(iova=1, size=0, flags=ALL), EINVAL),
    Case("all and the dirty bitmap", _ONE, unmap_dma(iova=0, size=0, flags=ALL | DIRTY), EINVAL),
    Case("vaddr and the dirty bitmap", _ONE, unmap_dma(flags=VADDR | DIRTY), EINVAL),
    Case("every flag", _ONE, unmap_dma(iova=0, size=0, flags=7), EINVAL),
    Case("iova 0 of size 0 is not all", _ONE, unmap_dma(iova=0, size=0), EINVAL),
    Case(
        "a failure leaves size as it was passed",
        _FOUR,
        unmap_dma(size=2 * PAGE),
        EINVAL,
        after=[(get_iommu_info(argsz=16), ok())],
    ),
]
