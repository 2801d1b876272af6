"""Devices without an IOMMU, opened by their own nodes: Linux 7.3.

Source: drivers/iommu/iommufd/device.c, hwpt_noiommu.c, and io_pagetable.c, iopt_get_phys.
"""

from errno import EADDRINUSE, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM

from pyvfio.abi import iommufd as abi
from tests.conformance.areas.cdev import ATTACHED, BOUND, IOAS, OPEN
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA
from tests.conformance.calls.group import open_group
from tests.conformance.calls.iommufd import (
    FIXED,
    attach_pt,
    bind,
    destroy,
    detach_pt,
    get_node_info,
    hw_info,
    hwpt_alloc,
    ioas_alloc,
    ioas_map,
    ioas_unmap,
    iova_ranges,
    noiommu_get_pa,
    open_iommufd,
    open_node,
    option,
)
from tests.conformance.calls.process import allocate, discard, drop_raw_io, free
from tests.conformance.case import Case, Expected, ok
from tests.conformance.step import Step

LAST = (1 << 64) - 1
MAPPED = [*ATTACHED, ioas_map(ioas=2)]
SECOND = [*MAPPED, open_node(edu="1", name="second"), bind(node="second")]
"""A second device, which is 4; attached to nothing."""
HUGE, SET = abi.IOMMU_OPTION_HUGE_PAGES, abi.IOMMU_OPTION_OP_SET


def node_case(name: str, setup: list[Step], call: Step, answer: Expected, *after: tuple[Step, Expected]) -> Case:
    return Case(
        name, setup, call, answer, after=after, needs=("noiommu", "iommufd", "cdev"), versions=((7, 3), (99, 0))
    )


CASES = [
    node_case("nothing works before it is bound", OPEN, get_node_info(), EINVAL),
    node_case("bound", OPEN, bind(), ok(out_devid=1), (get_node_info(), ok(num_regions=9))),
    node_case("bound twice", BOUND, bind(), EINVAL),
    node_case("opened twice, bound once", [*BOUND, open_node(name="again")], bind(node="again"), EINVAL),
    node_case("its group is open", [*OPEN, open_group()], bind(), EBUSY),
    node_case("its group is opened", BOUND, open_group(), EBUSY),
    node_case("opened without the capability", [open_iommufd(), drop_raw_io()], open_node(), EPERM),
    node_case("bound without it", [*OPEN, drop_raw_io()], bind(), ok(out_devid=1)),
    node_case("a bound device is not destroyed", BOUND, destroy(id=1), EBUSY),
    # Attaching.
    node_case("attached", IOAS, attach_pt(pt_id=2), ok(pt_id=3)),
    node_case("attached to nothing", IOAS, attach_pt(pt_id=9), ENOENT),
    node_case("attached to itself", IOAS, attach_pt(pt_id=1), EINVAL),
    node_case("attached again", ATTACHED, attach_pt(pt_id=2), ok(pt_id=3)),
    node_case("attached elsewhere", [*ATTACHED, ioas_alloc()], attach_pt(pt_id=4), ok(pt_id=5)),
    node_case("attached with another", SECOND, attach_pt(node="second", pt_id=2), ok(pt_id=3)),
    node_case("attached to the page table of another", SECOND, attach_pt(node="second", pt_id=3), ok(pt_id=3)),
    node_case("detached", ATTACHED, detach_pt(), ok(), (destroy(id=2), ok())),
    node_case("detached from what is pinned", MAPPED, detach_pt(), ok(pinned=-1)),
    node_case("ranges", ATTACHED, iova_ranges(ioas=2), ok(num_iovas=1, out_iova_alignment=PAGE, ranges=[[0, LAST]])),
    node_case("what is mapped is pinned", [*IOAS, ioas_map(ioas=2)], attach_pt(pt_id=2), ok(pt_id=3, pinned=1)),
    node_case("what is mapped is no whole page", [*IOAS, ioas_map(ioas=2, size=7)], attach_pt(pt_id=2), EADDRINUSE),
    node_case("what is mapped is not there", [*IOAS, ioas_map(ioas=2, memory="hole")], attach_pt(pt_id=2), EFAULT),
    # Mapping.
    node_case("mapped", ATTACHED, ioas_map(ioas=2), ok(iova=IOVA, pinned=1), (ioas_unmap(ioas=2), ok(pinned=-1))),
    node_case("mapped twice", MAPPED, ioas_map(ioas=2), EEXIST),
    node_case("less than a page", ATTACHED, ioas_map(ioas=2, size=7), EINVAL),
    node_case("where an IOMMU has interrupts", ATTACHED, ioas_map(ioas=2, iova=0xFEE0_0000), ok(pinned=1)),
    node_case("near the end of all addresses", ATTACHED, ioas_map(ioas=2, iova=LAST - 0xFFFF), ok(pinned=1)),
    node_case("memory that is not there", ATTACHED, ioas_map(ioas=2, memory="hole"), EFAULT),
    node_case("memory to be read", ATTACHED, ioas_map(ioas=2, memory="readonly", flags=FIXED & ~2), ok(pinned=1)),
    node_case("huge pages in use", MAPPED, option(option_id=HUGE, op=SET, object_id=2, value=0), EINVAL),
    # Page tables of one's own.
    node_case("a page table", IOAS, hwpt_alloc(), ok(out_hwpt_id=3), (attach_pt(pt_id=3), ok(pt_id=3))),
    node_case("a page table to nest in", IOAS, hwpt_alloc(flags=abi.IOMMU_HWPT_ALLOC_NEST_PARENT), EOPNOTSUPP),
    node_case("a page table that tracks", IOAS, hwpt_alloc(flags=abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING), EOPNOTSUPP),
    node_case("hardware", BOUND, hw_info(), EOPNOTSUPP),
    node_case("hardware of nothing", BOUND, hw_info(device=9), ENOENT),
    # Physical addresses.
    node_case("the address", MAPPED, noiommu_get_pa(), ok(length=PAGE, in_page=0)),
    node_case("of a byte", MAPPED, noiommu_get_pa(iova=IOVA + 5, length=1), ok(length=1, in_page=5)),
    node_case("as far as the mapping goes", MAPPED, noiommu_get_pa(length=LAST), ok(length=PAGE, in_page=0)),
    node_case("and no further from within", MAPPED, noiommu_get_pa(iova=IOVA + 5, length=LAST), ok(length=PAGE - 5)),
    node_case(
        "of one of two mappings",
        [*MAPPED, ioas_map(ioas=2, iova=IOVA + PAGE, offset=PAGE)],
        noiommu_get_pa(length=2 * PAGE),
        ok(length=PAGE),
    ),
    node_case("of a hole", MAPPED, noiommu_get_pa(iova=IOVA + PAGE), ENOENT),
    node_case("of nothing", MAPPED, noiommu_get_pa(length=0), EINVAL),
    node_case("beyond all addresses", MAPPED, noiommu_get_pa(iova=LAST), EOVERFLOW),
    node_case("of the last address there is", MAPPED, noiommu_get_pa(iova=LAST - 1), ENOENT),
    node_case("in no address space", MAPPED, noiommu_get_pa(ioas=9), ENOENT),
    node_case("in a page table", MAPPED, noiommu_get_pa(ioas=3), ENOENT),
    node_case("of nothing in no address space", MAPPED, noiommu_get_pa(ioas=9, length=0), EINVAL),
    node_case("beyond all in no address space", MAPPED, noiommu_get_pa(ioas=9, iova=LAST), EOVERFLOW),
    node_case("flags it does not know", MAPPED, noiommu_get_pa(flags=1), EOPNOTSUPP),
    node_case("flags of nothing", MAPPED, noiommu_get_pa(flags=1, length=0), EOPNOTSUPP),
    node_case("what is reserved", MAPPED, noiommu_get_pa(reserved=1), EOPNOTSUPP),
    node_case("a struct that is too small", MAPPED, noiommu_get_pa(argsz=39), EINVAL),
    node_case("without the capability", [*MAPPED, drop_raw_io()], noiommu_get_pa(), EPERM),
    node_case("flags without the capability", [*MAPPED, drop_raw_io()], noiommu_get_pa(flags=1), EPERM),
    node_case("a small struct without it", [*MAPPED, drop_raw_io()], noiommu_get_pa(argsz=39), EINVAL),
    node_case("without a device", [*IOAS, ioas_map(ioas=2)], noiommu_get_pa(), EOPNOTSUPP),
    node_case("of a hole without a device", IOAS, noiommu_get_pa(), ENOENT),
    node_case("when the device is detached", [*MAPPED, detach_pt()], noiommu_get_pa(), EOPNOTSUPP),
    node_case(
        "when one of two is detached",
        [*SECOND, attach_pt(node="second", pt_id=2), detach_pt()],
        noiommu_get_pa(),
        ok(length=PAGE),
    ),
    node_case(
        "of a page that was discarded",
        [*ATTACHED, allocate(pages=2, name="own"), ioas_map(ioas=2, memory="own"), discard(name="own", pages=1)],
        noiommu_get_pa(),
        ok(length=PAGE, in_page=0),
    ),
    node_case(
        "of a page that is no longer there",
        [*ATTACHED, allocate(pages=2, name="own"), ioas_map(ioas=2, memory="own"), free(name="own")],
        noiommu_get_pa(),
        ok(length=PAGE, in_page=0),
    ),
    node_case("when it is unmapped", [*MAPPED, ioas_unmap(ioas=2)], noiommu_get_pa(), ENOENT),
]
