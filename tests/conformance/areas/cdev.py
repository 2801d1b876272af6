"""Devices opened by their own nodes. Source: drivers/vfio/device_cdev.c, drivers/iommu/iommufd/device.c."""

from errno import (
    E2BIG,
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
from pyvfio.abi import vfio
from tests.conformance.areas.setups import DEVICE, holed
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA
from tests.conformance.calls.device import get_hot_reset_info, hot_reset, map_region, read_region, write_region
from tests.conformance.calls.group import open_group
from tests.conformance.calls.iommufd import (
    FIXED,
    allow_iovas,
    attach_pt,
    bind,
    destroy,
    detach_pt,
    get_node_info,
    hw_info,
    hwpt_alloc,
    ioas_alloc,
    ioas_map,
    ioas_map_file,
    ioas_unmap,
    iova_ranges,
    open_iommufd,
    open_node,
    option,
    set_dirty_tracking,
)
from tests.conformance.calls.process import limit_memlock, open_memfd
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


TOKEN = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN
DEV_ID, OWNED = vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID, vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
_OTHER = [open_node(edu="pair1", name="second"), bind(node="second")]


def file_case(name: str, setup: list[Step], call: Step, answer: Expected) -> Case:
    """Of a file of four pages, and an address space with a device; since 6.13."""
    steps = [*ATTACHED, open_memfd(pages=4), *setup]
    return Case(name, steps, call, answer, needs=("iommufd", "cdev"), versions=((6, 13), (99, 0)))


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
    node_case("a struct that is not there", OPEN, bind(reach=0), EFAULT),
    node_case("a struct that ends too early", OPEN, bind(reach=15), EFAULT),
    # Since 6.17 there is a token, and what is not known must be zero.
    node_case("a longer struct with nothing in it", OPEN, bind(argsz=32, tail="00" * 8), ok(out_devid=1)),
    node_case(
        "a longer struct with something in it",
        OPEN,
        bind(argsz=32, tail="01" + "00" * 7),
        since({(6, 6): ok(out_devid=1), (6, 17): E2BIG}),
    ),
    node_case("a token for a device without", OPEN, bind(argsz=24, flags=TOKEN, token=bytes(16)), EINVAL),
    node_case("a token that is nowhere", OPEN, bind(argsz=24, flags=TOKEN), since({(6, 6): EINVAL, (6, 17): EFAULT})),
    node_case("reading before it is bound", OPEN, read_region(region=0, device="node"), EINVAL),
    node_case("writing before it is bound", OPEN, write_region(region=0, data=bytes(4), device="node"), EINVAL),
    node_case("mmap before it is bound", OPEN, map_region(device="node"), EINVAL),
    node_case("reading after it was bound", BOUND, read_region(region=0, device="node"), ok(data="ed000001")),
    node_case("mmap after it was bound", BOUND, map_region(device="node"), ok()),
    node_case("a group's descriptor is not bound", [*DEVICE, open_iommufd()], bind(node="device"), EINVAL),
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
    node_case("detached twice", [*ATTACHED, detach_pt()], detach_pt(), ok()),
    node_case("detached without being attached", IOAS, detach_pt(), ok()),
    node_case(
        "a process address space without its number",
        IOAS,
        attach_pt(pt_id=2, flags=vfio.VFIO_DEVICE_ATTACH_PASID),
        EINVAL,
    ),
    node_case("to detach, likewise", ATTACHED, detach_pt(flags=vfio.VFIO_DEVICE_DETACH_PASID), EINVAL),
    node_case(
        "reserved addresses are not allowed",
        ATTACHED,
        allow_iovas(ioas=2, ranges=[[0xFED0_0000, 0xFEE0_0FFF]]),
        EADDRINUSE,
        models=("intel", "amd"),
    ),
    node_case(
        "a device that reserves what is allowed",
        [*IOAS, allow_iovas(ioas=2, ranges=[[0xFED0_0000, 0xFEE0_0FFF]])],
        attach_pt(pt_id=2),
        EADDRINUSE,
        models=("intel", "amd"),
    ),
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
    # Files.
    file_case("a file", [], ioas_map_file(ioas=2), ok(iova=IOVA, pinned=1)),
    file_case("twice the same file", [ioas_map_file(ioas=2)], ioas_map_file(ioas=2, iova=0), ok(iova=0, pinned=1)),
    file_case("beyond its end", [], ioas_map_file(ioas=2, start=3 * PAGE, size=2 * PAGE), EINVAL),
    file_case("a file that is none", [], ioas_map_file(ioas=2, file="node"), EINVAL),
    file_case("less than a page of it", [], ioas_map_file(ioas=2, size=7), EINVAL),
    file_case("of it from an odd place", [], ioas_map_file(ioas=2, start=1), EINVAL),
    # Resets.
    *(
        Case(
            name,
            [open_iommufd(), open_node(edu="pair0"), bind(), *others],
            call,
            answer,
            needs=("iommufd", "cdev", "pair"),
        )
        for name, others, call, answer in (
            # The other one is in the same group, which is this iommufd's.
            (
                "hot reset info with one of them",
                [],
                get_hot_reset_info(device="node"),
                ok(count=2, flags=DEV_ID | OWNED),
            ),
            ("hot reset info with both", _OTHER, get_hot_reset_info(device="node"), ok(count=2, flags=DEV_ID | OWNED)),
            ("hot reset with one of them", [], hot_reset(groups=(), device="node"), ok()),
            ("hot reset with both", _OTHER, hot_reset(groups=(), device="node"), ok()),
            ("hot reset with descriptors", _OTHER, hot_reset(groups=("node",), device="node"), EINVAL),
        )
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
