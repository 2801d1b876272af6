"""Mediated devices: no IOMMU, so mappings are only recorded, until a group with an IOMMU joins.

Source: vfio_iommu_type1.c, emulated_iommu_groups.
"""

from errno import EBUSY, EEXIST, EFAULT, EINVAL, ENOSPC

from pyvfio.abi import vfio
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import (
    IOVA,
    check_extension,
    dirty_pages,
    get_dirty_bitmap,
    get_iommu_info,
    map_dma,
    open_container,
    set_iommu,
    unmap_dma,
    unmap_dma_dirty,
)
from tests.conformance.calls.group import get_device_fd, get_status, open_group, set_container, unset_container
from tests.conformance.calls.process import limit_memlock, set_type1_parameter
from tests.conformance.case import Case, by_iommu, ok

VADDR = vfio.VFIO_DMA_UNMAP_FLAG_VADDR
_START = dirty_pages(flags=vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START)
_UNTRACKED = 1 << 43
_GROUP = [open_container(), open_group(device="mdev")]
_READY = [*_GROUP, set_container(), set_iommu()]
_REAL = open_group(name="real")
_JOIN = set_container(group="real")
_MIXED = [*_READY, _REAL, _JOIN]
_ONE = [*_READY, map_dma()]
_FOUR = [*_READY, map_dma(size=4 * PAGE)]
_TRACKED = [*_READY, map_dma(size=16 * PAGE), _START]
RECORDED = ok(mapped=1)

CASES = [
    Case("status", _GROUP, get_status(), ok(flags=1)),
    Case("a container", _GROUP, set_container(), ok(), after=[(set_iommu(), ok())]),
    Case("type1", [*_GROUP, set_container()], set_iommu(kind=vfio.VFIO_TYPE1_IOMMU), ok()),
    Case(
        "unsafe interrupts are no matter",
        [set_type1_parameter(name="allow_unsafe_interrupts", value="0"), *_GROUP, set_container()],
        set_iommu(),
        ok(),
    ),
    Case("the device, by its UUID", _READY, get_device_fd(device="mdev"), ok()),
    Case("map", _READY, map_dma(), RECORDED),
    Case("map no memory", _READY, map_dma(memory="hole"), RECORDED),
    Case("map read-only memory to be written", _READY, map_dma(memory="readonly"), RECORDED),
    Case("map the MSI window", _READY, map_dma(iova=0xFEE0_0000), RECORDED),
    Case("map beyond any IOMMU", _READY, map_dma(iova=1 << 60), RECORDED),
    Case("map without room to lock", [*_READY, limit_memlock(pages=0)], map_dma(size=16 * PAGE), RECORDED),
    Case("map twice", _ONE, map_dma(), EEXIST),
    Case("map, size 0", _READY, map_dma(size=0), EINVAL),
    Case("map, unaligned", _READY, map_dma(iova=IOVA + 1), EINVAL),
    Case(
        "map beyond the limit",
        [set_type1_parameter(name="dma_entry_limit", value="1"), *_READY, map_dma()],
        map_dma(iova=0),
        ENOSPC,
    ),
    Case("unmap", _ONE, unmap_dma(), ok(size=PAGE, mapped=-1)),
    Case("unmap the head", _FOUR, unmap_dma(), EINVAL),
    Case("unmap nothing", _READY, unmap_dma(), ok(size=0)),
    Case("addresses cannot be updated", _ONE, unmap_dma(flags=VADDR), EBUSY),
    Case("addresses cannot be updated, of nothing", _READY, unmap_dma(flags=VADDR), EBUSY),
    Case("alignment comes after that", _ONE, unmap_dma(iova=1, flags=VADDR), EBUSY),
    Case("argsz comes before that", _ONE, unmap_dma(argsz=23, flags=VADDR), EINVAL),
    Case("extension UPDATE_VADDR", _READY, check_extension(extension=vfio.VFIO_UPDATE_VADDR), ok(value=0)),
    Case("extension cache coherency", _READY, check_extension(extension=vfio.VFIO_DMA_CC_IOMMU), ok(value=1)),
    Case("page sizes", _READY, get_iommu_info(), ok(iova_pgsizes=0xFFFF_FFFF_FFFF_F000)),
    Case("no ranges", _READY, get_iommu_info(argsz=24), ok(cap_offset=0, flags=3)),
    Case(
        "nothing is dirty", [*_READY, map_dma(size=16 * PAGE), _START], get_dirty_bitmap(size=16 * PAGE), ok(bits="0x0")
    ),
    Case(
        "nothing is dirty at an unmap",
        [*_READY, map_dma(size=16 * PAGE), _START],
        unmap_dma_dirty(size=16 * PAGE),
        ok(size=16 * PAGE, bits="0x0", mapped=-1),
    ),
    # Eight TiB are 2^31 pages, and nothing is pinned: more than a bitmap may have bits.
    Case(
        "more than can be tracked",
        [*_READY, map_dma(size=_UNTRACKED)],
        _START,
        EINVAL,
        after=[(unmap_dma(size=_UNTRACKED), ok(size=_UNTRACKED, mapped=-1))],
    ),
    Case("as much as can be tracked", [*_READY, map_dma(size=_UNTRACKED - PAGE)], _START, ok()),
    Case(
        "more than can be tracked, while tracking",
        [*_READY, _START],
        map_dma(size=_UNTRACKED),
        EINVAL,
        after=[(map_dma(), RECORDED)],
    ),
    Case("a group with an IOMMU joins", [*_READY, _REAL], _JOIN, ok()),
    Case("and what was recorded is pinned", [*_FOUR, _REAL], _JOIN, ok(locked=4)),
    Case(
        "unless there is no memory",
        [*_READY, map_dma(), map_dma(iova=IOVA + PAGE, memory="hole"), _REAL],
        _JOIN,
        EFAULT,
        after=[(map_dma(iova=0), RECORDED)],
    ),
    Case(
        "or it was recorded in reserved addresses",
        [*_READY, map_dma(iova=0xFEE0_0000), _REAL],
        _JOIN,
        EINVAL,
        models=["intel", "amd"],
    ),
    Case("both: map", _MIXED, map_dma(), ok(mapped=1, locked=1)),
    Case("both: unmap", [*_MIXED, map_dma()], unmap_dma(), ok(size=PAGE, mapped=-1, locked=-1)),
    Case("both: addresses cannot be updated", [*_MIXED, map_dma()], unmap_dma(flags=VADDR), EBUSY),
    Case(
        "both: extension cache coherency",
        _MIXED,
        check_extension(extension=vfio.VFIO_DMA_CC_IOMMU),
        by_iommu(intel=ok(value=0), amd=ok(value=1), virtio=ok(value=0)),
    ),
    Case(
        "both: all is dirty",
        [*_MIXED, map_dma(size=16 * PAGE), _START],
        get_dirty_bitmap(size=16 * PAGE),
        ok(bits="0xffff"),
    ),
    Case(
        "the group with an IOMMU leaves",
        [*_MIXED, map_dma(size=4 * PAGE)],
        unset_container(group="real"),
        ok(locked=-4),
        after=[(unmap_dma(size=4 * PAGE), ok(size=4 * PAGE, mapped=-1))],
    ),
    Case(
        "the mediated device leaves",
        [*_MIXED, map_dma(size=4 * PAGE)],
        unset_container(),
        ok(),
        after=[(unmap_dma(size=4 * PAGE), ok(size=4 * PAGE, mapped=-1, locked=-4))],
    ),
]
