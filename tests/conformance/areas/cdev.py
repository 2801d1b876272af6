"""Devices opened by their own nodes. Source: drivers/vfio/device_cdev.c, drivers/iommu/iommufd/device.c."""

from errno import (
    EADDRINUSE,
    EBADF,
    EBADFD,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENOENT,
    ENOTTY,
    EOPNOTSUPP,
)

from pyvfio.abi import iommufd as abi
from tests.conformance.areas.setups import holed
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
    open_iommufd,
    open_node,
    option,
    set_dirty_tracking,
)
from tests.conformance.calls.process import limit_memlock
from tests.conformance.case import Case, Expected, ok, since
from tests.conformance.step import Step

OPEN = [open_iommufd(), open_node()]
BOUND = [*OPEN, bind()]
"""The device is object 1."""
IOAS = [*BOUND, ioas_alloc()]
"""The address space is 2."""
ATTACHED = [*IOAS, attach_pt(pt_id=2)]
"""Its page table is 3."""
NO_TRACKING = since({(0, 0): ENOTTY, (6, 7): EOPNOTSUPP})
HUGE, SET = abi.IOMMU_OPTION_HUGE_PAGES, abi.IOMMU_OPTION_OP_SET


def node_case(
    name: str,
    setup: list[Step],
    call: Step,
    answer: Expected,
    *after: tuple[Step, Expected],
    models: tuple[str, ...] = (),
) -> Case:
    return Case(name, setup, call, answer, after=after, needs=("iommufd", "cdev"), models=models)


CASES = [
    node_case("nothing works before it is bound", OPEN, get_node_info(), EINVAL),
    node_case("not even attaching", OPEN, attach_pt(pt_id=1), EINVAL),
    node_case("bound", OPEN, bind(), ok(out_devid=1), (get_node_info(), ok(num_regions=9))),
    node_case("bound twice", BOUND, bind(), EINVAL),
    node_case("opened twice, bound once", [*BOUND, open_node(name="again")], bind(node="again"), EINVAL),
    node_case("bound to a number", OPEN, bind(iommufd=-1), EINVAL),
    node_case("bound to no descriptor", OPEN, bind(iommufd=4095), EBADF),
    node_case("bound to another kind of descriptor", OPEN, bind(iommufd="node"), EBADFD),
    node_case("flags it does not know", OPEN, bind(flags=1 << 31), EINVAL),
    node_case("a struct that is too small", OPEN, bind(argsz=12), EINVAL),
    node_case("its group is open", [*OPEN, open_group()], bind(), EBUSY),
    node_case("its group is opened", BOUND, open_group(), EBUSY),
    node_case("a bound device is not destroyed", BOUND, destroy(id=1), EBUSY),
    # Attaching.
    node_case("attached", IOAS, attach_pt(pt_id=2), ok(pt_id=3)),
    node_case("attached to nothing", IOAS, attach_pt(pt_id=9), ENOENT),
    node_case("attached to itself", IOAS, attach_pt(pt_id=1), EINVAL),
    node_case("attached again", ATTACHED, attach_pt(pt_id=2), ok(pt_id=3)),
    node_case("attached elsewhere", [*ATTACHED, ioas_alloc()], attach_pt(pt_id=4), ok(pt_id=5)),
    node_case("an address space in use is not destroyed", ATTACHED, destroy(id=2), EBUSY),
    node_case("nor its page table", ATTACHED, destroy(id=3), EBUSY),
    node_case("detached", ATTACHED, detach_pt(), ok(), (destroy(id=2), ok())),
    node_case("a struct to attach that is too small", IOAS, attach_pt(pt_id=2, argsz=8), EINVAL),
    node_case("a struct to detach that is too small", ATTACHED, detach_pt(argsz=4), EINVAL),
    node_case("flags to attach that it does not know", IOAS, attach_pt(pt_id=2, flags=1 << 31), EINVAL),
    node_case(
        "ranges with a device",
        ATTACHED,
        iova_ranges(ioas=2),
        ok(
            num_iovas=2,
            out_iova_alignment=PAGE,
            ranges=[[0, 0xFEDF_FFFF], [0xFEF0_0000, (1 << 39) - 1]],
        ),
        models=("intel",),
    ),
    node_case("ranges without room for all", ATTACHED, iova_ranges(ioas=2, room=1), EMSGSIZE, models=("intel",)),
    node_case(
        "ranges without the device",
        [*ATTACHED, detach_pt()],
        iova_ranges(ioas=2),
        ok(num_iovas=1, out_iova_alignment=1),
    ),
    node_case(
        "what is mapped is reserved",
        [*IOAS, ioas_map(ioas=2, iova=0xFEE0_0000)],
        attach_pt(pt_id=2),
        EADDRINUSE,
        models=("intel", "amd"),
    ),
    node_case("what is mapped is no whole page", [*IOAS, ioas_map(ioas=2, size=7)], attach_pt(pt_id=2), EADDRINUSE),
    node_case("what is mapped is not there", [*IOAS, ioas_map(ioas=2, memory="hole")], attach_pt(pt_id=2), EFAULT),
    # Mapping for a device.
    node_case("mapped", ATTACHED, ioas_map(ioas=2), ok(iova=IOVA), (ioas_unmap(ioas=2), ok(length=PAGE))),
    node_case("mapped twice", [*ATTACHED, ioas_map(ioas=2)], ioas_map(ioas=2), EEXIST),
    node_case("less than a page", ATTACHED, ioas_map(ioas=2, size=7), EINVAL),
    node_case("an odd address", ATTACHED, ioas_map(ioas=2, iova=IOVA + 1), EINVAL),
    node_case("odd memory", ATTACHED, ioas_map(ioas=2, offset=1), EINVAL),
    node_case("a reserved address", ATTACHED, ioas_map(ioas=2, iova=0xFEE0_0000), EINVAL, models=("intel", "amd")),
    node_case("an address beyond all", ATTACHED, ioas_map(ioas=2, iova=1 << 40), EINVAL, models=("intel",)),
    node_case("memory that is not there", ATTACHED, ioas_map(ioas=2, memory="hole"), EFAULT),
    node_case("memory that may not be written", ATTACHED, ioas_map(ioas=2, memory="readonly"), EFAULT),
    node_case("and need not be", ATTACHED, ioas_map(ioas=2, memory="readonly", flags=FIXED & ~2), ok()),
    node_case("memory nobody may touch", ATTACHED, ioas_map(ioas=2, memory="none"), EFAULT),
    # A hole is found before anything is counted, unlike in a container.
    *(
        node_case(
            f"room for {room} pages, and a hole after {hole}",
            [
                *ATTACHED,
                *holed(hole),
                limit_memlock(pages=room),
            ],
            ioas_map(ioas=2, memory="holed", size=(hole + 2) * PAGE),
            answer,
        )
        for room, hole, answer in ((0, 0, EFAULT), (0, 1, EFAULT), (3, 4, EFAULT), (4, 4, EFAULT), (511, 512, EFAULT))
    ),
    node_case(
        "huge pages in use",
        [*ATTACHED, ioas_map(ioas=2)],
        option(option_id=HUGE, op=SET, object_id=2, value=0),
        EINVAL,
    ),
    # Page tables of one's own.
    node_case("a page table", IOAS, hwpt_alloc(), ok(out_hwpt_id=3), (attach_pt(pt_id=3), ok(pt_id=3))),
    node_case("a page table of a page table that is no parent", [*IOAS, hwpt_alloc()], hwpt_alloc(pt_id=3), EOPNOTSUPP),
    node_case("a page table of nothing", IOAS, hwpt_alloc(pt_id=9), EINVAL),
    node_case("a page table with data of no type", IOAS, hwpt_alloc(data_len=8), EINVAL),
    node_case("a page table with flags it does not know", IOAS, hwpt_alloc(flags=1 << 20), EOPNOTSUPP),
    node_case("a page table keeps its address space", [*IOAS, hwpt_alloc()], destroy(id=2), EBUSY),
    node_case("a page table is destroyed", [*IOAS, hwpt_alloc()], destroy(id=3), ok(), (destroy(id=2), ok())),
    node_case("tracking in a page table that cannot", [*IOAS, hwpt_alloc()], set_dirty_tracking(hwpt=3), NO_TRACKING),
    node_case("tracking with flags it does not know", IOAS, set_dirty_tracking(hwpt=3, flags=2), NO_TRACKING),
    node_case("hardware", BOUND, hw_info(), ok(data_len=24), models=("intel",)),
]
