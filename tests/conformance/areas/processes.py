"""Two processes with one container or iommufd: whose memory, whose limit, who is charged.

Source: vfio_iommu_type1.c, dma->mm and vfio_change_dma_owner; iommufd/pages.c, source_mm; ioas.c, change_process.
"""

from collections.abc import Sequence
from errno import EBUSY, EEXIST, EFAULT, EINVAL, ENOMEM, EOPNOTSUPP

from pyvfio.abi import iommufd as abi
from pyvfio.abi import vfio
from tests.conformance.areas.cdev import ATTACHED, IOAS
from tests.conformance.areas.setups import OPEN, READY
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import map_dma, open_container, set_iommu, unmap_dma
from tests.conformance.calls.group import get_device_fd, open_group, set_container, unset_container
from tests.conformance.calls.iommufd import (
    attach_pt,
    change_process,
    detach_pt,
    ioas_map,
    ioas_map_file,
    ioas_unmap,
    open_iommufd,
    option,
)
from tests.conformance.calls.process import (
    allocate,
    charges,
    close,
    end_child,
    in_child,
    limit_memlock,
    open_memfd,
    spawn,
)
from tests.conformance.case import Case, Expected, Version, ok
from tests.conformance.step import Step

VADDR, ALL = vfio.VFIO_DMA_UNMAP_FLAG_VADDR, vfio.VFIO_DMA_UNMAP_FLAG_ALL
NEW = vfio.VFIO_DMA_MAP_FLAG_VADDR
RLIMIT, SET = abi.IOMMU_OPTION_RLIMIT_MODE, abi.IOMMU_OPTION_OP_SET
_CHANGES: tuple[Version, Version] = ((6, 14), (99, 0))

_OWN = in_child(step=allocate(name="own", pages=4))
CHILD = [*READY, allocate(name="parents", pages=4), spawn(), _OWN]
_ITS_MAP = in_child(step=map_dma(memory="own", size=4 * PAGE))
"""Four pages of the child."""
_ITS_MAPPED = [*CHILD, _ITS_MAP]
_INVALID = [*CHILD, map_dma(size=4 * PAGE), unmap_dma(size=4 * PAGE, flags=VADDR)]
_TAKE_OVER = in_child(step=map_dma(memory="own", size=4 * PAGE, flags=NEW))

_NODE = [*ATTACHED, allocate(name="parents", pages=4), spawn(), _OWN]
_ITS_IOAS_MAP = in_child(step=ioas_map(ioas=2, memory="own", size=4 * PAGE))
_FILE = [open_memfd(pages=4), *ATTACHED, ioas_map_file(ioas=2, size=4 * PAGE), spawn()]
_PER_PROCESS = [
    open_memfd(pages=4),
    open_iommufd(),
    option(option_id=RLIMIT, op=SET, value=1),
    *ATTACHED[1:],
    limit_memlock(pages=4),
    ioas_map_file(ioas=2, size=4 * PAGE),
    spawn(),
]


def node_case(
    name: str,
    setup: Sequence[Step],
    call: Step,
    answer: Expected,
    *after: tuple[Step, Expected],
    versions: tuple[Version, Version] = ((0, 0), (99, 0)),
    leaks: int = 0,
) -> Case:
    return Case(name, setup, call, answer, after=after, needs=("iommufd", "cdev"), versions=versions, leaks=leaks)


CASES = [
    Case("a child maps its memory", CHILD, _ITS_MAP, ok(mapped=1, child_locked=4)),
    Case("memory that the parent has, and not the child", CHILD, in_child(step=map_dma(memory="parents")), EFAULT),
    Case("where the parent has mapped", [*CHILD, map_dma()], in_child(step=map_dma(memory="own")), EEXIST),
    Case("where the child has mapped", _ITS_MAPPED, map_dma(), EEXIST),
    Case(
        "the child unmaps what the parent has mapped",
        [*CHILD, map_dma()],
        in_child(step=unmap_dma()),
        ok(size=PAGE, mapped=-1, locked=-1, child_locked=0),
    ),
    Case(
        "the parent unmaps what the child has mapped",
        _ITS_MAPPED,
        unmap_dma(size=4 * PAGE),
        ok(size=4 * PAGE, mapped=-1),
        after=[(in_child(step=charges()), ok(vm_lck=0))],
    ),
    # Limits.
    Case(
        "a limit of the child",
        [*CHILD, in_child(step=limit_memlock(pages=3))],
        _ITS_MAP,
        ENOMEM,
        after=[(map_dma(size=4 * PAGE), ok(mapped=1, locked=4))],
    ),
    Case(
        "a limit of the parent is none of the child",
        [*CHILD, limit_memlock(pages=0)],
        _ITS_MAP,
        ok(mapped=1, child_locked=4),
        after=[(map_dma(iova=0), ENOMEM)],
    ),
    Case(
        "what the parent has does not count for the child",
        [*CHILD, map_dma(iova=0, size=4 * PAGE), in_child(step=limit_memlock(pages=4))],
        _ITS_MAP,
        ok(mapped=1, child_locked=4),
    ),
    Case(
        "CAP_IPC_LOCK of the child",
        [*CHILD, limit_memlock(pages=0), in_child(step=limit_memlock(pages=0, exempt=True))],
        _ITS_MAP,
        ok(mapped=1, child_locked=4),
    ),
    # Ends.
    Case(
        "a child that ends leaves its mappings",
        _ITS_MAPPED,
        end_child(),
        ok(),
        after=[(map_dma(), EEXIST), (unmap_dma(size=4 * PAGE), ok(size=4 * PAGE, mapped=-1))],
    ),
    Case(
        "a parent that has closed all leaves its mappings to the child",
        [*CHILD, map_dma(), close(name="group"), close(name="container")],
        in_child(step=unmap_dma()),
        ok(size=PAGE, locked=-1),
    ),
    Case(
        "the last that has it open ends",
        [*CHILD, map_dma(), close(name="group"), close(name="container")],
        end_child(),
        ok(locked=-1),
    ),
    Case(
        "a child that closes all changes nothing",
        [*CHILD, map_dma(), in_child(step=close(name="container"))],
        in_child(step=close(name="group")),
        ok(),
        after=[(unmap_dma(), ok(size=PAGE, mapped=-1, locked=-1))],
    ),
    # Groups.
    Case("a child opens an open group", CHILD, in_child(step=open_group(name="again")), EBUSY),
    Case(
        "a child puts a group into its own container",
        [*OPEN, spawn(), in_child(step=open_container(name="its"))],
        in_child(step=set_container(container="its")),
        ok(),
        after=[(in_child(step=set_iommu(container="its")), ok()), (set_container(), EINVAL)],
    ),
    Case("a child chooses the IOMMU", [*OPEN, set_container(), spawn()], in_child(step=set_iommu()), ok()),
    Case("a child opens the device", CHILD, in_child(step=get_device_fd()), ok(), after=[(unset_container(), EBUSY)]),
    Case(
        "a child takes the group out",
        [*CHILD, map_dma()],
        in_child(step=unset_container()),
        ok(locked=-1),
        after=[(map_dma(), EINVAL)],
    ),
    # Live update.
    Case(
        "a child invalidates the parent's addresses",
        [*CHILD, map_dma()],
        in_child(step=unmap_dma(iova=0, size=0, flags=VADDR | ALL)),
        ok(size=PAGE),
        after=[(map_dma(flags=NEW), ok())],
    ),
    Case(
        "a child takes a mapping over",
        _INVALID,
        _TAKE_OVER,
        ok(locked=-4, child_locked=4),
        after=[(unmap_dma(size=4 * PAGE), ok(mapped=-1)), (in_child(step=charges()), ok(vm_lck=0))],
    ),
    Case(
        "a child without room takes nothing over",
        [*_INVALID, in_child(step=limit_memlock(pages=3))],
        _TAKE_OVER,
        ENOMEM,
        after=[(map_dma(size=4 * PAGE, flags=NEW), ok()), (unmap_dma(size=4 * PAGE), ok(mapped=-1, locked=-4))],
    ),
    Case(
        "a child with just enough room",
        [*_INVALID, in_child(step=limit_memlock(pages=4))],
        _TAKE_OVER,
        ok(locked=-4, child_locked=4),
    ),
    Case(
        "CAP_IPC_LOCK takes over without room",
        [*_INVALID, in_child(step=limit_memlock(pages=0, exempt=True))],
        _TAKE_OVER,
        ok(locked=-4, child_locked=4),
    ),
    Case(
        "back again",
        [*_INVALID, _TAKE_OVER, in_child(step=unmap_dma(size=4 * PAGE, flags=VADDR))],
        map_dma(size=4 * PAGE, flags=NEW),
        ok(locked=4),
        after=[(in_child(step=charges()), ok(vm_lck=0))],
    ),
    Case(
        "what a process that has ended leaves is taken over",
        [*_ITS_MAPPED, end_child(), unmap_dma(size=4 * PAGE, flags=VADDR)],
        map_dma(size=4 * PAGE, flags=NEW),
        ok(locked=4),
    ),
    Case(
        "the memory of what was taken over may be anywhere",
        _INVALID,
        in_child(step=map_dma(memory="hole", size=4 * PAGE, flags=NEW)),
        ok(locked=-4, child_locked=4),
    ),
    # A container of mediated devices has only recorded; the group with an IOMMU is attached by the child.
    Case(
        "what was recorded is looked for in the process that attaches",
        [
            open_container(),
            open_group(device="mdev"),
            set_container(),
            set_iommu(),
            allocate(name="parents", pages=4),
            map_dma(memory="parents"),
            open_group(name="real"),
            spawn(),
        ],
        in_child(step=set_container(group="real")),
        EFAULT,
        after=[(set_container(group="real"), ok(locked=1))],
        needs=["mdev"],
    ),
    # iommufd.
    node_case("iommufd: a child maps its memory", _NODE, _ITS_IOAS_MAP, ok(child_pinned=4)),
    node_case("iommufd: memory that the parent has", _NODE, in_child(step=ioas_map(ioas=2, memory="parents")), EFAULT),
    node_case(
        "iommufd: the parent unmaps what the child has mapped",
        [*_NODE, _ITS_IOAS_MAP],
        ioas_unmap(ioas=2, size=4 * PAGE),
        ok(length=4 * PAGE),
        (in_child(step=charges()), ok(vm_pin=0)),
    ),
    node_case(
        "iommufd: pages are those of who has mapped them, whoever attaches",
        [*IOAS, ioas_map(ioas=2), spawn()],
        in_child(step=attach_pt(pt_id=2)),
        ok(pt_id=3, pinned=1, child_pinned=0),
    ),
    node_case(
        "iommufd: and of the child, if it still is",
        [*IOAS, spawn(), _OWN, _ITS_IOAS_MAP],
        attach_pt(pt_id=2),
        ok(pt_id=3, pinned=0),
        (in_child(step=charges()), ok(vm_pin=4)),
    ),
    node_case(
        "iommufd: a process that has ended has none",
        [*IOAS, spawn(), _OWN, _ITS_IOAS_MAP, end_child()],
        attach_pt(pt_id=2),
        EFAULT,
    ),
    node_case(
        "iommufd: a child that ends leaves its mappings",
        [*_NODE, _ITS_IOAS_MAP],
        end_child(),
        ok(),
        (ioas_map(ioas=2), EEXIST),
        (detach_pt(), ok()),
    ),
    node_case(
        "iommufd: a limit of the child",
        [*_NODE, in_child(step=limit_memlock(pages=3))],
        _ITS_IOAS_MAP,
        ENOMEM,
        (ioas_map(ioas=2, size=4 * PAGE), ok(pinned=4)),
    ),
    node_case(
        "iommufd: what the user has elsewhere counts",
        [*_NODE, limit_memlock(pages=1), ioas_map(ioas=2, iova=0), in_child(step=limit_memlock(pages=4))],
        _ITS_IOAS_MAP,
        ENOMEM,
    ),
    # Mappings that change hands.
    node_case("CHANGE_PROCESS to whose they are", _FILE, change_process(), ok(pinned=0), versions=_CHANGES),
    # The count of what is pinned is not moved then, but will be taken from the new owner's.
    node_case(
        "CHANGE_PROCESS of what CAP_IPC_LOCK has mapped",
        _FILE,
        in_child(step=change_process()),
        ok(pinned=0, child_pinned=0),
        versions=_CHANGES,
        leaks=4,
    ),
    node_case(
        "CHANGE_PROCESS of what is charged to a process",
        _PER_PROCESS,
        in_child(step=change_process()),
        ok(locked=-4, pinned=-4, child_locked=4, child_pinned=4),
        versions=_CHANGES,
    ),
    node_case(
        "CHANGE_PROCESS without room",
        [*_PER_PROCESS, in_child(step=limit_memlock(pages=3))],
        in_child(step=change_process()),
        ENOMEM,
        (ioas_unmap(ioas=2, size=4 * PAGE), ok(locked=-4, pinned=-4)),
        versions=_CHANGES,
    ),
    node_case(
        "CHANGE_PROCESS of what is charged to the user needs room for it twice",
        [open_memfd(pages=4), *ATTACHED, limit_memlock(pages=7), ioas_map_file(ioas=2, size=4 * PAGE), spawn()],
        in_child(step=change_process()),
        ENOMEM,
        versions=_CHANGES,
    ),
    node_case(
        "CHANGE_PROCESS with room for it twice",
        [open_memfd(pages=4), *ATTACHED, limit_memlock(pages=8), ioas_map_file(ioas=2, size=4 * PAGE), spawn()],
        in_child(step=change_process()),
        ok(pinned=-4, child_pinned=4),
        versions=_CHANGES,
    ),
    node_case(
        "CHANGE_PROCESS of other memory than files",
        [*_FILE, ioas_map(ioas=2, iova=0)],
        in_child(step=change_process()),
        EINVAL,
        versions=_CHANGES,
    ),
    node_case("CHANGE_PROCESS of nothing", [*IOAS, spawn()], in_child(step=change_process()), ok(), versions=_CHANGES),
    node_case("CHANGE_PROCESS, reserved", IOAS, change_process(reserved=1), EOPNOTSUPP, versions=_CHANGES),
    node_case("CHANGE_PROCESS, a struct too small", IOAS, change_process(size=4), EINVAL, versions=_CHANGES),
]
