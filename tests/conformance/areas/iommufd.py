"""/dev/iommu: objects and address spaces. Source: drivers/iommu/iommufd/main.c, ioas.c, io_pagetable.c."""

from errno import (
    E2BIG,
    EBADF,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)

from pyvfio.abi import iommufd as abi
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA
from tests.conformance.calls.iommufd import (
    FIXED,
    READABLE,
    WRITEABLE,
    allow_iovas,
    destroy,
    hw_info,
    hwpt_alloc,
    ioas_alloc,
    ioas_copy,
    ioas_map,
    ioas_map_file,
    ioas_unmap,
    iova_ranges,
    open_iommufd,
    option,
    set_dirty_tracking,
    unknown_iommufd_ioctl,
    vfio_ioas,
)
from tests.conformance.calls.process import open_memfd
from tests.conformance.case import Case, Expected, ok, since
from tests.conformance.step import Step

LAST = (1 << 64) - 1
GET, SET = abi.IOMMU_OPTION_OP_GET, abi.IOMMU_OPTION_OP_SET
RLIMIT, HUGE = abi.IOMMU_OPTION_RLIMIT_MODE, abi.IOMMU_OPTION_HUGE_PAGES
VFIO_GET, VFIO_SET, VFIO_CLEAR = abi.IOMMU_VFIO_IOAS_GET, abi.IOMMU_VFIO_IOAS_SET, abi.IOMMU_VFIO_IOAS_CLEAR

EMPTY = [open_iommufd()]
IOAS = [*EMPTY, ioas_alloc()]
TWO = [*IOAS, ioas_alloc()]
MAPPED = [*IOAS, ioas_map(size=4 * PAGE)]
THREE = [*IOAS, *(ioas_map(iova=IOVA + number * PAGE) for number in range(3))]


def iommufd_case(name: str, setup: list[Step], call: Step, answer: Expected, *after: tuple[Step, Expected]) -> Case:
    return Case(name, setup, call, answer, after=after, needs=("iommufd",))


def file_case(name: str, call: Step, answer: Expected) -> Case:
    setup = [*IOAS, open_memfd(pages=4)]
    return Case(name, setup, call, answer, needs=("iommufd",), versions=((6, 13), (99, 0)))


CASES = [
    iommufd_case("the first object is 1", EMPTY, ioas_alloc(), ok(out_ioas_id=1), (ioas_alloc(), ok(out_ioas_id=2))),
    iommufd_case("a number that is free again", [*TWO, destroy(id=1)], ioas_alloc(), ok(out_ioas_id=1)),
    iommufd_case("a struct that is too small", EMPTY, ioas_alloc(size=8), EINVAL),
    iommufd_case("a struct that is not there", EMPTY, ioas_alloc(reach=0), EFAULT),
    iommufd_case("flags it does not know", EMPTY, ioas_alloc(flags=1), EOPNOTSUPP),
    iommufd_case("a longer struct with nothing in it", IOAS, destroy(id=1, size=16, data="00" * 8), ok()),
    iommufd_case("a longer struct with something in it", IOAS, destroy(id=1, size=16, data="01" + "00" * 7), E2BIG),
    iommufd_case("an ioctl it does not know", EMPTY, unknown_iommufd_ioctl(request=0x3BFE), ENOTTY),
    iommufd_case("no such object", EMPTY, destroy(id=7), ENOENT),
    iommufd_case("destroyed twice", [*IOAS, destroy(id=1)], destroy(id=1), ENOENT),
    iommufd_case("destroyed with what it maps", MAPPED, destroy(id=1), ok()),
    # Ranges.
    iommufd_case(
        "ranges without a device",
        IOAS,
        iova_ranges(),
        ok(num_iovas=1, out_iova_alignment=1, ranges=[[0, LAST]]),
    ),
    iommufd_case("ranges of nothing", EMPTY, iova_ranges(), ENOENT),
    iommufd_case("ranges without room", IOAS, iova_ranges(room=0), EMSGSIZE),
    iommufd_case("an empty range is not allowed", IOAS, allow_iovas(ranges=[[5, 5]]), EINVAL),
    iommufd_case("overlapping ranges are not allowed", IOAS, allow_iovas(ranges=[[0, 9], [5, 20]]), EINVAL),
    iommufd_case("ranges are allowed", IOAS, allow_iovas(ranges=[[0x10000, 0x1FFFF]]), ok()),
    # Maps.
    iommufd_case("map", IOAS, ioas_map(), ok(iova=IOVA)),
    iommufd_case("map in no address space", IOAS, ioas_map(ioas=9), ENOENT),
    iommufd_case("map with flags it does not know", IOAS, ioas_map(flags=FIXED | 8), EOPNOTSUPP),
    iommufd_case("map for no access", IOAS, ioas_map(flags=abi.IOMMU_IOAS_MAP_FIXED_IOVA), EINVAL),
    iommufd_case("map for no access in no address space", IOAS, ioas_map(ioas=9, flags=1), EINVAL),
    iommufd_case("map nothing", IOAS, ioas_map(size=0), EINVAL),
    iommufd_case("map all of memory", IOAS, ioas_map(size=LAST), EOVERFLOW),
    iommufd_case("map at the end of all", IOAS, ioas_map(iova=LAST), EOVERFLOW),
    iommufd_case("map memory that wraps", IOAS, ioas_map(user_va=LAST - PAGE + 1, size=2 * PAGE), EOVERFLOW),
    iommufd_case("map addresses that wrap", IOAS, ioas_map(iova=LAST - PAGE + 1, size=2 * PAGE), EOVERFLOW),
    iommufd_case("map the same twice", [*IOAS, ioas_map()], ioas_map(), EEXIST),
    iommufd_case("map over the tail", MAPPED, ioas_map(iova=IOVA + 3 * PAGE, size=2 * PAGE), EEXIST),
    iommufd_case("map less than a page without a device", IOAS, ioas_map(iova=100, offset=10, size=7), ok(iova=100)),
    iommufd_case("map what is not there without a device", IOAS, ioas_map(memory="hole"), ok()),
    iommufd_case("map where there is room", IOAS, ioas_map(flags=READABLE, iova=0), ok()),
    iommufd_case(
        "map where it is allowed",
        [*IOAS, allow_iovas(ranges=[[0x7000_0000, 0x7000_0FFF]])],
        ioas_map(flags=READABLE, iova=0),
        ok(iova=0x7000_0000),
    ),
    iommufd_case(
        "map where nothing more is allowed",
        [*IOAS, allow_iovas(ranges=[[0x7000_0000, 0x7000_0FFF]]), ioas_map(flags=READABLE)],
        ioas_map(flags=READABLE, offset=PAGE),
        ENOSPC,
    ),
    iommufd_case(
        "map where it is not allowed, of one's own choice",
        [*IOAS, allow_iovas(ranges=[[0x7000_0000, 0x7000_0FFF]])],
        ioas_map(),
        ok(iova=IOVA),
    ),
    # Files, since 6.13.
    file_case("map a file", ioas_map_file(), ok(iova=IOVA)),
    file_case("map a file where there is room", ioas_map_file(flags=READABLE, iova=0), ok()),
    file_case("map a file that is no descriptor", ioas_map_file(file=1 << 20), EBADF),
    file_case("map a file beyond its end, without a device", ioas_map_file(start=64 * PAGE), ok()),
    file_case("map a file that is none, without a device", ioas_map_file(file="iommufd"), ok()),
    file_case("map no bytes of a file", ioas_map_file(size=0), EINVAL),
    file_case("map a file that wraps", ioas_map_file(start=LAST - PAGE + 1, size=2 * PAGE), EOVERFLOW),
    file_case("map a file for no access", ioas_map_file(flags=abi.IOMMU_IOAS_MAP_FIXED_IOVA), EINVAL),
    file_case("map a file with flags it does not know", ioas_map_file(flags=FIXED | 8), EOPNOTSUPP),
    file_case("map a file in no address space", ioas_map_file(ioas=9), ENOENT),
    file_case("map a file by a struct that is too small", ioas_map_file(argsz=32), EINVAL),
    Case(
        "map a file before there was such",
        [*IOAS, open_memfd(pages=4)],
        ioas_map_file(),
        ENOTTY,
        versions=((6, 2), (6, 12)),
    ),
    # Unmaps.
    iommufd_case("unmap", MAPPED, ioas_unmap(size=4 * PAGE), ok(length=4 * PAGE)),
    iommufd_case("unmap twice", [*MAPPED, ioas_unmap(size=4 * PAGE)], ioas_unmap(size=4 * PAGE), ENOENT),
    iommufd_case("unmap nothing there", IOAS, ioas_unmap(), ENOENT),
    iommufd_case("unmap in no address space", IOAS, ioas_unmap(ioas=9), ENOENT),
    iommufd_case("unmap no bytes", MAPPED, ioas_unmap(size=0), EINVAL),
    iommufd_case("unmap what wraps", MAPPED, ioas_unmap(iova=LAST - PAGE, size=2 * PAGE), EOVERFLOW),
    iommufd_case("unmap a head", MAPPED, ioas_unmap(), ENOENT, (ioas_unmap(size=4 * PAGE), ok(length=4 * PAGE))),
    iommufd_case("unmap a tail", MAPPED, ioas_unmap(iova=IOVA + 3 * PAGE), ENOENT),
    iommufd_case("unmap several", THREE, ioas_unmap(size=3 * PAGE), ok(length=3 * PAGE)),
    iommufd_case("unmap around", THREE, ioas_unmap(iova=0, size=1 << 30), ok(length=3 * PAGE)),
    iommufd_case(
        "what comes before a cut mapping is gone",
        [*IOAS, ioas_map(), ioas_map(iova=IOVA + PAGE, size=2 * PAGE)],
        ioas_unmap(size=2 * PAGE),
        ENOENT,
        (ioas_unmap(), ENOENT),
        (ioas_unmap(iova=IOVA + PAGE, size=2 * PAGE), ok(length=2 * PAGE)),
    ),
    iommufd_case("unmap all", THREE, ioas_unmap(iova=0, size=LAST), ok(length=3 * PAGE)),
    # Copies.
    iommufd_case("copy", [*TWO, ioas_map()], ioas_copy(), ok(dst_iova=IOVA), (ioas_unmap(ioas=2), ok(length=PAGE))),
    iommufd_case("copy a part", [*TWO, ioas_map(size=4 * PAGE)], ioas_copy(iova=IOVA + PAGE, to=0), ok(dst_iova=0)),
    iommufd_case("copy a hole", TWO, ioas_copy(), ENOENT),
    iommufd_case("copy more than there is", [*TWO, ioas_map()], ioas_copy(size=2 * PAGE), ENOENT),
    iommufd_case("copy nothing", [*TWO, ioas_map()], ioas_copy(size=0), EINVAL),
    iommufd_case("copy from nowhere", [*TWO, ioas_map()], ioas_copy(source=9), ENOENT),
    iommufd_case("copy to nowhere", [*TWO, ioas_map()], ioas_copy(target=9), ENOENT),
    iommufd_case("copy onto something", [*TWO, ioas_map(), ioas_map(ioas=2)], ioas_copy(), EEXIST),
    iommufd_case(
        "copy what may not be written",
        [*TWO, ioas_map(flags=FIXED & ~WRITEABLE)],
        ioas_copy(),
        EPERM,
        (ioas_copy(flags=FIXED & ~WRITEABLE), ok()),
    ),
    # Options.
    iommufd_case("the user is charged", EMPTY, option(option_id=RLIMIT, op=GET), ok(val64=0)),
    iommufd_case(
        "the process is charged",
        EMPTY,
        option(option_id=RLIMIT, op=SET, value=1),
        ok(),
        (option(option_id=RLIMIT, op=GET), ok(val64=1)),
    ),
    iommufd_case("nobody else is charged", EMPTY, option(option_id=RLIMIT, op=SET, value=2), EINVAL),
    iommufd_case("who is charged stays", IOAS, option(option_id=RLIMIT, op=SET, value=1), EBUSY),
    iommufd_case("who is charged, of an object", IOAS, option(option_id=RLIMIT, op=GET, object_id=1), EOPNOTSUPP),
    iommufd_case("huge pages", IOAS, option(option_id=HUGE, op=GET, object_id=1), ok(val64=1)),
    iommufd_case(
        "no huge pages make whole pages the unit",
        IOAS,
        option(option_id=HUGE, op=SET, object_id=1, value=0),
        ok(),
        (option(option_id=HUGE, op=GET, object_id=1), ok(val64=0)),
        (iova_ranges(), ok(out_iova_alignment=PAGE)),
        (ioas_map(size=7), EINVAL),
    ),
    iommufd_case("huge pages of another value", IOAS, option(option_id=HUGE, op=SET, object_id=1, value=2), EINVAL),
    iommufd_case("huge pages of nothing", EMPTY, option(option_id=HUGE, op=GET, object_id=3), ENOENT),
    iommufd_case("an option it does not know", IOAS, option(option_id=9, op=GET), EOPNOTSUPP),
    # The address space of container ioctls.
    iommufd_case("no compatible address space", EMPTY, vfio_ioas(op=VFIO_GET), ENODEV),
    iommufd_case(
        "a compatible one", IOAS, vfio_ioas(op=VFIO_SET, ioas=1), ok(), (vfio_ioas(op=VFIO_GET), ok(ioas_id=1))
    ),
    iommufd_case("a compatible one that is none", IOAS, vfio_ioas(op=VFIO_SET, ioas=9), ENOENT),
    iommufd_case(
        "no compatible one any more",
        [*IOAS, vfio_ioas(op=VFIO_SET, ioas=1)],
        vfio_ioas(op=VFIO_CLEAR),
        ok(),
        (vfio_ioas(op=VFIO_GET), ENODEV),
    ),
    iommufd_case(
        "a compatible one that is destroyed",
        [*IOAS, vfio_ioas(op=VFIO_SET, ioas=1), destroy(id=1)],
        vfio_ioas(op=VFIO_GET),
        ENODEV,
    ),
    iommufd_case("something else with the compatible one", IOAS, vfio_ioas(op=9), EOPNOTSUPP),
    # Objects of the wrong kind.
    iommufd_case("a page table for no device", IOAS, hwpt_alloc(device=1, pt_id=1), ENOENT),
    iommufd_case("hardware of no device", IOAS, hw_info(device=1), ENOENT),
    iommufd_case(
        "dirty pages of no page table", IOAS, set_dirty_tracking(hwpt=1), since({(0, 0): ENOTTY, (6, 7): ENOENT})
    ),
]
