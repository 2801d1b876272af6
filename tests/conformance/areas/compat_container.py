"""/dev/vfio/vfio where iommufd provides it: a container, and an iommufd that charges to processes.

Source: drivers/iommu/iommufd/main.c, iommufd_fops_open; vfio_compat.c.
"""

from errno import EFAULT, ENOMEM

from pyvfio.abi import iommufd as abi
from pyvfio.abi import vfio
from tests.conformance.areas.compat import compat_cases
from tests.conformance.areas.setups import holed
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, check_extension, map_dma, open_container, set_iommu, unmap_dma
from tests.conformance.calls.group import get_device_fd, get_status, open_group, set_container
from tests.conformance.calls.iommufd import bind, get_node_info, ioas_alloc, open_node, option, vfio_ioas
from tests.conformance.calls.process import allocate, close, end_child, in_child, limit_memlock, mlock, spawn
from tests.conformance.case import Case, Expected, ok
from tests.conformance.step import Step

RLIMIT, GET, SET = abi.IOMMU_OPTION_RLIMIT_MODE, abi.IOMMU_OPTION_OP_GET, abi.IOMMU_OPTION_OP_SET

_CONTAINER = [open_container(), open_group()]
_READY = [*_CONTAINER, set_container(), set_iommu(), get_device_fd()]
_IOMMUFD = [open_container(name="iommufd")]
_BY_USER = [
    *_IOMMUFD,
    option(option_id=RLIMIT, op=SET, value=0),
    open_group(),
    set_container(container="iommufd"),
    get_device_fd(),
]
_ITS_MAP = in_child(step=map_dma(memory="own", size=4 * PAGE))
_CHILD = [*_READY, limit_memlock(pages=16), spawn(), in_child(step=allocate(name="own", pages=4))]


def node_case(name: str, setup: list[Step], call: Step, answer: Expected, *after: tuple[Step, Expected]) -> Case:
    return Case(name, setup, call, answer, after=after, needs=("compat",))


CASES = [
    *compat_cases(open_container(), "compat"),
    # Whether it is allowed is asked when a group is opened.
    node_case("noiommu", _CONTAINER, check_extension(extension=vfio.VFIO_NOIOMMU_IOMMU), ok(value=1)),
    node_case("status", _CONTAINER, get_status(), ok(flags=1)),
    node_case("status in it", [*_CONTAINER, set_container()], get_status(), ok(flags=3)),
    node_case(
        "the mappings stay while a device is open",
        [*_READY, map_dma(), close(name="container")],
        close(name="group"),
        ok(),
    ),
    # It is an iommufd.
    node_case("an address space", _IOMMUFD, ioas_alloc(), ok(out_ioas_id=1)),
    node_case("the process is charged", _IOMMUFD, option(option_id=RLIMIT, op=GET), ok(val64=1)),
    node_case(
        "the user is charged",
        _IOMMUFD,
        option(option_id=RLIMIT, op=SET, value=0),
        ok(),
        (option(option_id=RLIMIT, op=GET), ok(val64=0)),
    ),
    node_case(
        "the address space of its groups",
        [*_IOMMUFD, open_group(), set_container(container="iommufd")],
        vfio_ioas(op=abi.IOMMU_VFIO_IOAS_GET),
        ok(ioas_id=1),
    ),
    node_case(
        "a node is bound to it", [*_IOMMUFD, open_node()], bind(), ok(out_devid=1), (get_node_info(), ok(num_regions=9))
    ),
    # Charges.
    node_case("CAP_IPC_LOCK is not charged", _READY, map_dma(size=4 * PAGE), ok(locked=0, pinned=4)),
    node_case(
        "a map is charged",
        [*_READY, limit_memlock(pages=4)],
        map_dma(size=4 * PAGE),
        ok(locked=4, pinned=4),
        (unmap_dma(size=4 * PAGE), ok(size=4 * PAGE, locked=-4, pinned=-4)),
    ),
    node_case("a page more than the limit", [*_READY, limit_memlock(pages=3)], map_dma(size=4 * PAGE), ENOMEM),
    node_case("mlock shares the limit", [*_READY, limit_memlock(pages=4), mlock(pages=4)], map_dma(), ENOMEM),
    node_case(
        "the same page counts twice", [*_READY, limit_memlock(pages=1), map_dma()], map_dma(iova=IOVA + PAGE), ENOMEM
    ),
    node_case(
        "a hole is found first",
        [*_READY, *holed(2), limit_memlock(pages=0)],
        map_dma(memory="holed", size=4 * PAGE),
        EFAULT,
    ),
    node_case(
        "what the user is charged with is not shown",
        [*_BY_USER, limit_memlock(pages=4)],
        map_dma(container="iommufd", size=4 * PAGE),
        ok(locked=0, pinned=4),
        (map_dma(container="iommufd", iova=0), ENOMEM),
    ),
    # Another process.
    node_case("a child is charged for what it maps", _CHILD, _ITS_MAP, ok(child_locked=4, child_pinned=4)),
    node_case(
        "a limit of the child",
        [*_CHILD, in_child(step=limit_memlock(pages=3))],
        _ITS_MAP,
        ENOMEM,
        (map_dma(), ok(locked=1, pinned=1)),
    ),
    node_case(
        "a child that ends leaves its mappings",
        [*_CHILD, _ITS_MAP],
        end_child(),
        ok(),
        (unmap_dma(size=4 * PAGE), ok(size=4 * PAGE)),
    ),
]
