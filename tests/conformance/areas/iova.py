"""Which device addresses can be mapped, by IOMMU model. Source: vfio_iommu_iova_dma_valid and the IOMMU drivers."""

from errno import EEXIST, EFAULT, EINVAL

from tests.conformance.areas.setups import READY
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, dirty_pages, get_dirty_bitmap, map_dma, unmap_dma
from tests.conformance.case import Case, ok, since

ONE = ok(mapped=1, locked=1)
GONE = ok(size=PAGE, mapped=-1, locked=-1)
TOP = (1 << 64) - PAGE
HYPERTRANSPORT = 0xFD_0000_0000
_INTEL_END = 1 << 39
_ALL = ["amd", "virtio"]
_ALL_OF_IT, _VADDR = 2, 4
_BROKEN, _FIXED = ((0, 0), (6, 17)), ((6, 18), (99, 0))

CASES = [
    Case("before the MSI window", READY, map_dma(iova=0xFEDF_F000), ONE),
    Case("the MSI window's first page", READY, map_dma(iova=0xFEE0_0000), EINVAL),
    Case("the MSI window's last page", READY, map_dma(iova=0xFEEF_F000), EINVAL),
    Case("after the MSI window", READY, map_dma(iova=0xFEF0_0000), ONE),
    Case("into the MSI window", READY, map_dma(iova=0xFEDF_F000, size=2 * PAGE), EINVAL),
    Case("out of the MSI window", READY, map_dma(iova=0xFEEF_F000, size=2 * PAGE), EINVAL),
    Case("over the MSI window", READY, map_dma(iova=0xFEDF_F000, size=258 * PAGE), EINVAL),
    Case("HyperTransport", READY, map_dma(iova=HYPERTRANSPORT), EINVAL, models=["amd"]),
    Case("HyperTransport's last page", READY, map_dma(iova=0xFF_FFFF_F000), EINVAL, models=["amd"]),
    Case("before HyperTransport", READY, map_dma(iova=HYPERTRANSPORT - PAGE), ONE, models=["amd"]),
    Case("after HyperTransport", READY, map_dma(iova=0x100_0000_0000), ONE, models=["amd"]),
    Case("no HyperTransport", READY, map_dma(iova=HYPERTRANSPORT), ONE, models=["virtio"]),
    Case("the last page of 39 bits", READY, map_dma(iova=_INTEL_END - PAGE), ONE, models=["intel"]),
    Case("over the end of 39 bits", READY, map_dma(iova=_INTEL_END - PAGE, size=2 * PAGE), EINVAL, models=["intel"]),
    Case("beyond 39 bits", READY, map_dma(iova=_INTEL_END), EINVAL, models=["intel"]),
    Case("the last page of 48 bits", READY, map_dma(iova=(1 << 48) - PAGE), ONE, models=["amd", "virtio"]),
    Case("beyond 48 bits", READY, map_dma(iova=1 << 48), since({(6, 1): ONE, (6, 18): EINVAL}), models=["amd"]),
    Case("the last page of all", READY, map_dma(iova=TOP), EINVAL, models=["intel"]),
    Case("the last page of all, since 6.18", READY, map_dma(iova=TOP), EINVAL, models=["amd"], versions=_FIXED),
    Case(
        "the last page of all, since 6.18, behind virtio",
        READY,
        map_dma(iova=TOP),
        ONE,
        models=["virtio"],
        versions=_FIXED,
        after=[(map_dma(iova=TOP), EEXIST), (unmap_dma(iova=TOP), GONE)],
    ),
    Case(
        "before 6.18 the last page of all stays for ever",
        READY,
        map_dma(iova=TOP),
        ONE,
        models=_ALL,
        versions=_BROKEN,
        leaks=1,
    ),
    Case(
        "before 6.18 it is mapped twice",
        [*READY, map_dma(iova=TOP)],
        map_dma(iova=TOP),
        ONE,
        models=_ALL,
        versions=_BROKEN,
        leaks=2,
    ),
    Case(
        "before 6.18 it cannot be unmapped",
        [*READY, map_dma(iova=TOP)],
        unmap_dma(iova=TOP),
        ok(size=0),
        after=[(unmap_dma(iova=0, size=0, flags=2), ok(size=0))],
        models=_ALL,
        versions=_BROKEN,
        leaks=1,
    ),
    Case(
        "before 6.18 it hides what is mapped after it",
        [*READY, map_dma(iova=TOP), map_dma()],
        unmap_dma(),
        ok(size=0),
        after=[
            (map_dma(), EEXIST),
            (unmap_dma(iova=0, size=1 << 28), ok(size=0)),
            (unmap_dma(flags=_VADDR), ok(size=0)),
            (unmap_dma(iova=0, size=0, flags=_ALL_OF_IT), ok(size=0)),
        ],
        models=_ALL,
        versions=_BROKEN,
        leaks=1,
    ),
    Case(
        "before 6.18 it hides nothing from a look at dirty pages",
        [*READY, map_dma(iova=TOP), map_dma(), dirty_pages(flags=1)],
        get_dirty_bitmap(),
        ok(bits="0x1"),
        models=_ALL,
        versions=_BROKEN,
        leaks=1,
    ),
    Case(
        "before 6.18 it hides nothing where the tree has it below the others",
        [*READY, map_dma(), map_dma(iova=IOVA + PAGE), map_dma(iova=IOVA + 2 * PAGE), map_dma(iova=TOP)],
        unmap_dma(iova=IOVA + PAGE),
        GONE,
        after=[
            (unmap_dma(iova=0, size=0, flags=_ALL_OF_IT), ok(size=3 * PAGE, mapped=-3, locked=-2)),
            (map_dma(), ONE),
        ],
        models=_ALL,
        versions=_BROKEN,
        leaks=1,
    ),
    Case(
        "before 6.18 a mapping that fails leaves its mark in the tree",
        [*READY, map_dma(iova=TOP), map_dma(), map_dma(iova=IOVA + PAGE)],
        map_dma(iova=IOVA + 2 * PAGE, memory="hole"),
        EFAULT,
        after=[(unmap_dma(), GONE), (unmap_dma(iova=IOVA + PAGE), GONE)],
        models=_ALL,
        versions=_BROKEN,
        leaks=1,
    ),
    Case(
        "an overlap comes before reserved addresses",
        [*READY, map_dma(iova=0xFEDF_F000)],
        map_dma(iova=0xFEDF_F000, size=2 * PAGE),
        EEXIST,
    ),
    Case(
        "reserved addresses come before bad memory",
        READY,
        map_dma(iova=0xFEE0_0000, memory="hole"),
        EINVAL,
    ),
]
