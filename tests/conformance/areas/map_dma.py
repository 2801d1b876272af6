"""VFIO_IOMMU_MAP_DMA: what is refused, in which order, and what a mapping is. Source: vfio_dma_do_map."""

from errno import EEXIST, EFAULT, EINVAL, ENOSPC, EOVERFLOW

from pyvfio.abi import vfio
from tests.conformance.areas.setups import READY, READY_TYPE1
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, map_dma, unmap_dma
from tests.conformance.calls.process import set_type1_parameter
from tests.conformance.case import Case, ok, since

READ, WRITE, VADDR = vfio.VFIO_DMA_MAP_FLAG_READ, vfio.VFIO_DMA_MAP_FLAG_WRITE, vfio.VFIO_DMA_MAP_FLAG_VADDR
MSI = 0xFEE0_0000
TOP = (1 << 64) - PAGE
WRAPS = since({(6, 1): EINVAL, (6, 18): EOVERFLOW})
ONE = ok(mapped=1, locked=1)

_LIMITED_TO_TWO = [
    set_type1_parameter(name="dma_entry_limit", value="2"),
    *READY,
    map_dma(),
    map_dma(iova=IOVA + PAGE),
]

CASES = [
    Case("one page", READY, map_dma(), ok(mapped=1, locked=1, size=PAGE, iova=IOVA)),
    Case("one page, type1", READY_TYPE1, map_dma(), ONE),
    Case("two MiB are one mapping", READY, map_dma(size=512 * PAGE), ok(mapped=1, locked=512)),
    Case("iova 0", READY, map_dma(iova=0), ONE),
    Case("read only", READY, map_dma(flags=READ), ONE),
    Case("write only", READY, map_dma(flags=WRITE), ONE),
    Case("adjacent mappings do not coalesce", [*READY, map_dma()], map_dma(iova=IOVA + PAGE, offset=PAGE), ONE),
    Case("the same memory twice is charged twice", [*READY, map_dma()], map_dma(iova=IOVA + PAGE), ONE),
    Case("a larger argsz", READY, map_dma(argsz=4096), ONE),
    Case("exactly the struct can be read", READY, map_dma(reach=32), ONE),
    Case("struct one byte short", READY, map_dma(reach=31), EFAULT),
    Case("no struct", READY, map_dma(reach=0), EFAULT),
    Case("argsz one byte short", READY, map_dma(argsz=31), EINVAL),
    Case("argsz 0", READY, map_dma(argsz=0), EINVAL),
    Case("the copy comes before argsz", READY, map_dma(argsz=0, reach=31), EFAULT),
    Case("unknown flag", READY, map_dma(flags=READ | 8), EINVAL),
    Case("the highest flag", READY, map_dma(flags=READ | 1 << 31), EINVAL),
    Case("no flags", READY, map_dma(flags=0), EINVAL),
    Case("VADDR and READ", READY, map_dma(flags=READ | VADDR), EINVAL),
    Case("VADDR and WRITE", READY, map_dma(flags=WRITE | VADDR), EINVAL),
    Case("size 0", READY, map_dma(size=0), EINVAL),
    Case("size not in pages", READY, map_dma(size=PAGE + 1), EINVAL),
    Case("size less than a page", READY, map_dma(size=PAGE - 1), EINVAL),
    Case("iova not in pages", READY, map_dma(iova=IOVA + 1), EINVAL),
    Case("iova by half a page", READY, map_dma(iova=IOVA + PAGE // 2), EINVAL),
    Case("vaddr not in pages", READY, map_dma(offset=1), EINVAL),
    Case("vaddr by half a page", READY, map_dma(offset=PAGE // 2), EINVAL),
    Case("size 0 and no flags", READY, map_dma(size=0, flags=0), EINVAL),
    Case("iova wraps", READY, map_dma(iova=TOP, size=2 * PAGE), WRAPS),
    Case("iova wraps by far", READY, map_dma(iova=TOP, size=1 << 63), WRAPS),
    Case("vaddr wraps", READY, map_dma(vaddr=TOP, size=2 * PAGE), WRAPS),
    Case("wrapping comes before no flags", READY, map_dma(iova=TOP, size=2 * PAGE, flags=0), WRAPS),
    Case("unknown flag comes before wrapping", READY, map_dma(iova=TOP, size=2 * PAGE, flags=8), EINVAL),
    Case("argsz comes before wrapping", READY, map_dma(iova=TOP, size=2 * PAGE, argsz=31), EINVAL),
    Case("size 0 comes before wrapping", READY, map_dma(iova=TOP, size=0), EINVAL),
    Case("wrapping comes before alignment of the size", READY, map_dma(iova=TOP, size=2 * PAGE + 1), WRAPS),
    Case("an unaligned size may wrap by itself", READY, map_dma(iova=TOP, size=PAGE + 1), WRAPS),
    Case("wrapping comes before alignment of vaddr", READY, map_dma(vaddr=TOP + 1, size=2 * PAGE), WRAPS),
    Case("size of all ones", READY, map_dma(size=(1 << 64) - 1), WRAPS),
    Case("wrapping comes before an overlap", [*READY, map_dma()], map_dma(size=(1 << 64) - PAGE), WRAPS),
    Case("the same again", [*READY, map_dma()], map_dma(), EEXIST),
    Case("its first page", [*READY, map_dma(size=2 * PAGE)], map_dma(), EEXIST),
    Case("its last page", [*READY, map_dma(size=2 * PAGE)], map_dma(iova=IOVA + PAGE), EEXIST),
    Case("over its beginning", [*READY, map_dma(size=2 * PAGE)], map_dma(iova=IOVA - PAGE, size=2 * PAGE), EEXIST),
    Case("over its end", [*READY, map_dma(size=2 * PAGE)], map_dma(iova=IOVA + PAGE, size=2 * PAGE), EEXIST),
    Case("around it", [*READY, map_dma()], map_dma(iova=IOVA - PAGE, size=3 * PAGE), EEXIST),
    Case("inside it", [*READY, map_dma(size=3 * PAGE)], map_dma(iova=IOVA + PAGE), EEXIST),
    Case("right before it", [*READY, map_dma()], map_dma(iova=IOVA - PAGE), ONE),
    Case("right after it", [*READY, map_dma()], map_dma(iova=IOVA + PAGE), ONE),
    Case("between two", [*READY, map_dma(), map_dma(iova=IOVA + 2 * PAGE)], map_dma(iova=IOVA + PAGE), ONE),
    Case(
        "over two and the hole between",
        [*READY, map_dma(), map_dma(iova=IOVA + 2 * PAGE)],
        map_dma(size=3 * PAGE),
        EEXIST,
    ),
    Case("an overlap, type1", [*READY_TYPE1, map_dma()], map_dma(), EEXIST),
    Case("again after it was unmapped", [*READY, map_dma(), unmap_dma()], map_dma(), ONE),
    Case("alignment comes before an overlap", [*READY, map_dma()], map_dma(offset=1), EINVAL),
    Case("no flags comes before an overlap", [*READY, map_dma()], map_dma(flags=0), EINVAL),
    Case("an overlap comes before bad memory", [*READY, map_dma()], map_dma(memory="hole"), EEXIST),
    Case("one more than the limit", _LIMITED_TO_TWO, map_dma(iova=0), ENOSPC),
    Case("an overlap comes before the limit", _LIMITED_TO_TWO, map_dma(), EEXIST),
    Case("alignment comes before the limit", _LIMITED_TO_TWO, map_dma(iova=1), EINVAL),
    Case(
        "the limit comes before reserved addresses", _LIMITED_TO_TWO, map_dma(iova=MSI), ENOSPC, models=["intel", "amd"]
    ),
    Case("the limit comes before bad memory", _LIMITED_TO_TWO, map_dma(iova=0, memory="hole"), ENOSPC),
    Case("an unmap makes room", [*_LIMITED_TO_TWO, unmap_dma()], map_dma(iova=0), ONE),
    Case(
        "the limit is what it was at SET_IOMMU",
        [*_LIMITED_TO_TWO, set_type1_parameter(name="dma_entry_limit", value="65535")],
        map_dma(iova=0),
        ENOSPC,
    ),
    Case(
        "a lower limit is for new containers",
        [*READY, set_type1_parameter(name="dma_entry_limit", value="0")],
        map_dma(),
        ONE,
    ),
    Case("a limit of 0", [set_type1_parameter(name="dma_entry_limit", value="0"), *READY], map_dma(), ENOSPC),
    Case(
        "a failure leaves the place free",
        READY,
        map_dma(memory="hole"),
        EFAULT,
        after=[(map_dma(), ONE), (unmap_dma(), ok(size=PAGE, mapped=-1, locked=-1))],
    ),
    Case(
        "a failure in the middle leaves nothing",
        READY,
        map_dma(memory="readonly", offset=15 * PAGE, size=3 * PAGE),
        EFAULT,
        after=[(unmap_dma(size=4 * PAGE), ok(size=0))],
    ),
]
