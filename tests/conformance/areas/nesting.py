"""Nested page tables, page faults and virtual IOMMUs, on iommufd's test devices.

Source: drivers/iommu/iommufd/hw_pagetable.c, eventq.c, viommu.c, selftest.c.
"""

from errno import (
    E2BIG,
    EADDRINUSE,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EIO,
    ENODEV,
    ENOENT,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    ESPIPE,
)

from pyvfio.abi import iommufd as abi
from pyvfio.abi import iommufd_test as mock
from tests.conformance.bench import PAGE
from tests.conformance.calls.iommufd import (
    attach_pt,
    bind,
    destroy,
    detach_pt,
    hw_info,
    ioas_alloc,
    ioas_map,
    ioas_unmap,
    iova_ranges,
    open_iommufd,
    open_node,
)
from tests.conformance.calls.nesting import (
    IOVA,
    close_queue,
    event_queue,
    fault_queue,
    get_dirty,
    hw_queue_alloc,
    invalidate,
    mock_cache,
    mock_device,
    mock_dirty,
    mock_event,
    mock_fault,
    mock_iotlb,
    mock_operation,
    mock_pasid,
    mock_replace,
    nest,
    read_queue,
    set_tracking,
    vdevice_alloc,
    viommu_alloc,
    write_queue,
)
from tests.conformance.case import Case, Expected, Version, by_iommu, ok, since
from tests.conformance.step import Step

NEST_PARENT, DIRTY = abi.IOMMU_HWPT_ALLOC_NEST_PARENT, abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
FAULTS, PASID = abi.IOMMU_HWPT_FAULT_ID_VALID, abi.IOMMU_HWPT_ALLOC_PASID
ATTACH, REPLACE, DETACH = (
    mock.IOMMU_TEST_OP_PASID_ATTACH,
    mock.IOMMU_TEST_OP_PASID_REPLACE,
    mock.IOMMU_TEST_OP_PASID_DETACH,
)
NO_DIRTY, WITH_PASID = mock.MOCK_FLAGS_DEVICE_NO_DIRTY, mock.MOCK_FLAGS_DEVICE_PASID
STAGE_1 = "78563412"
"""iommu_hwpt_selftest: every entry of the IOTLB holds FIRST."""
FIRST = 0x12345678
HEADER_SIZE, FAULT_SIZE = 8, 40

EMPTY = [open_iommufd()]
IOAS = [*EMPTY, ioas_alloc()]
DEVICE = [*IOAS, mock_device()]
"""The address space is 1, the test's object 2, the device 3 and its page table 4."""
PARENT = [*DEVICE, nest(pt_id=1, flags=NEST_PARENT, data_type=0)]
"""The page table to nest on is 5."""
NESTED = [*PARENT, nest(pt_id=5, data=STAGE_1)]
"""The nested one is 6."""
TRACKED = [*DEVICE, nest(pt_id=1, flags=DIRTY, data_type=0)]
"""The page table is 5."""
FAULTING = [*DEVICE, fault_queue(), nest(pt_id=1, flags=FAULTS, fault_id=5, data_type=0), mock_replace(pt_id=6)]
"""The queue is 5, the page table 6, and the device in it."""
VIOMMU = [*PARENT, viommu_alloc(hwpt=5)]
"""The virtual IOMMU is 6."""
VDEVICE = [*VIOMMU, vdevice_alloc(viommu=6)]
"""The virtual device is 7."""
GUEST = [*VDEVICE, nest(pt_id=6, data=STAGE_1), mock_replace(pt_id=8)]
"""The guest's page table is 8, and the device in it."""
EVENTS = [*GUEST, event_queue(viommu=6)]
"""The queue is 4, the number that was the first page table's."""
MAPPED = [*VIOMMU, ioas_map(iova=IOVA), ioas_map(iova=IOVA + PAGE, offset=PAGE)]
NODE = [*EMPTY, open_node(), bind(), ioas_alloc()]
"""The device is 1, the address space 2."""
PASIDS = [
    *IOAS,
    mock_device(flags=WITH_PASID),
    nest(pt_id=1, flags=PASID, data_type=0),
    nest(pt_id=1, flags=PASID, data_type=0),
    mock_replace(pt_id=5),
]
"""Page tables for PASIDs are 5 and 6, the device is in 5. 4 went when it left."""


def entry(number: int, flags: int = 0) -> str:
    """iommu_hwpt_invalidate_selftest."""
    return (flags.to_bytes(4, "little") + number.to_bytes(4, "little")).hex()


def cache_entry(number: int, virtual_id: int = 0x42, flags: int = 0) -> str:
    """iommu_viommu_invalidate_selftest."""
    return b"".join(word.to_bytes(4, "little") for word in (flags, virtual_id, number)).hex()


def answer_to(cookie: int, code: int = 0) -> str:
    return (cookie.to_bytes(4, "little") + code.to_bytes(4, "little")).hex()


def fault_message(cookie: int, *, flags: int = 2, pasid: int = 0) -> str:
    words = (flags, 3, pasid, 9, 1, 0, 0x7000, 0, 0, cookie)
    return b"".join(word.to_bytes(4, "little") for word in words).hex()


def event_message(sequence: int) -> str:
    return b"".join(word.to_bytes(4, "little") for word in (0, sequence, 0x42)).hex()


def lost(sequence: int) -> str:
    return (b"\1\0\0\0" + sequence.to_bytes(4, "little")).hex()


def case(
    name: str,
    setup: list[Step],
    call: Step,
    answer: Expected,
    *after: tuple[Step, Expected],
    first: Version = (7, 0),
) -> Case:
    """Of the kernel that the test devices here are like; first: from which version on otherwise."""
    return Case(name, setup, call, answer, after=after, needs=("iommufd", "iommufd-test"), versions=(first, (99, 0)))


def node(
    name: str,
    setup: list[Step],
    call: Step,
    answer: Expected,
    *after: tuple[Step, Expected],
    models: tuple[str, ...] = ("intel", "amd"),
) -> Case:
    """Of a device of the machine's."""
    return Case(f"{name}, the machine's", setup, call, answer, after, ("cdev",), models, ((7, 0), (99, 0)))


def new(name: str, version: Version, call: Step, answer: int) -> Case:
    """A call that no kernel before version knows."""
    return case(name, EMPTY, call, since({(0, 0): ENOTTY, version: answer}), first=(6, 2))


CASES = [
    # Since when there is what.
    new("page tables", (6, 6), nest(pt_id=1, data_type=0), ENOENT),
    new("tracking", (6, 7), set_tracking(table=1), ENOENT),
    new("dirty bitmaps", (6, 7), get_dirty(table=1), ENOENT),
    new("invalidation", (6, 8), invalidate(target=1, data=entry(0), entry_num=1), ENOENT),
    new("fault queues", (6, 11), fault_queue(flags=1), EOPNOTSUPP),
    new("virtual IOMMUs", (6, 13), viommu_alloc(hwpt=1), ENOENT),
    new("virtual devices", (6, 13), vdevice_alloc(viommu=1), ENOENT),
    new("event queues", (6, 15), event_queue(viommu=1), ENOENT),
    new("hardware queues", (6, 17), hw_queue_alloc(viommu=1), ENOENT),
    # The test devices.
    case("a test device", IOAS, mock_device(), ok(test=2, device=3, table=4)),
    case("a second one shares the page table", DEVICE, mock_device(), ok(test=5, device=6, table=4)),
    case("a test device nowhere", EMPTY, mock_device(), ENOENT),
    case("a test device in a device", DEVICE, mock_device(pt_id=3), EINVAL),
    case("a test device of flags it does not know", IOAS, mock_device(flags=1 << 1), EINVAL),
    case("a test device is no address space", DEVICE, mock_device(pt_id=2), EINVAL),
    case("an operation it does not know", EMPTY, mock_operation(op=99), EOPNOTSUPP),
    case("a test command that is too short", EMPTY, mock_operation(op=99, size=64), EINVAL),
    case("a device holds its page table", DEVICE, destroy(id=4), EBUSY),
    case("a device goes with what made it only", DEVICE, destroy(id=3), EBUSY),
    case("an address space in use", DEVICE, destroy(id=1), EBUSY),
    case("a test device goes", DEVICE, destroy(id=2), ok(), (destroy(id=4), ENOENT), (destroy(id=1), ok())),
    case(
        "what a test device's IOMMU translates",
        DEVICE,
        iova_ranges(),
        ok(ranges=[[IOVA, mock.MOCK_APERTURE_LAST]], out_iova_alignment=2048),
    ),
    case("an address space its IOMMU cannot hold", [*IOAS, ioas_map()], mock_device(), EADDRINUSE),
    case(
        "hardware of a test device",
        DEVICE,
        hw_info(device=3, room=12),
        ok(
            data_len=8,
            out_data_type=mock.IOMMU_HW_INFO_TYPE_SELFTEST,
            out_max_pasid_log2=0,
            out_capabilities=abi.IOMMU_HW_CAP_DIRTY_TRACKING | abi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
            data="00000000efbeadde00000000",
        ),
    ),
    case("hardware, of which half fits", DEVICE, hw_info(device=3, room=4), ok(data_len=8, data="00000000")),
    case(
        "hardware of a test device with PASIDs, without dirty bits",
        [*IOAS, mock_device(flags=NO_DIRTY | WITH_PASID)],
        hw_info(device=3),
        ok(out_max_pasid_log2=20, out_capabilities=abi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED),
    ),
    case(
        "hardware by its type",
        DEVICE,
        hw_info(device=3, flags=1, kind=mock.IOMMU_HW_INFO_TYPE_SELFTEST),
        ok(data_len=8),
    ),
    case("hardware of another type", DEVICE, hw_info(device=3, flags=1, kind=1), EOPNOTSUPP),
    case("a type that is not asked for", DEVICE, hw_info(device=3, kind=1), ok(data_len=8)),
    case("hardware, flags it does not know", DEVICE, hw_info(device=3, flags=2), EOPNOTSUPP),
    # Page tables.
    case("a page table with data", DEVICE, nest(pt_id=1, data=STAGE_1), ok(out_hwpt_id=5)),
    case("a page table with more data", DEVICE, nest(pt_id=1, data=STAGE_1 + "00" * 4), ok(out_hwpt_id=5)),
    case("data its driver does not know", DEVICE, nest(pt_id=1, data=STAGE_1 + "09000000"), EOPNOTSUPP),
    case("data that is too short", DEVICE, nest(pt_id=1, data="7856"), EINVAL),
    case("data that is too long", DEVICE, nest(pt_id=1, data=STAGE_1 + "00" * 8), EINVAL),
    case("data of another type", DEVICE, nest(pt_id=1, data=STAGE_1, data_type=1), EOPNOTSUPP),
    case("data that is not there", DEVICE, nest(pt_id=1, data_len=8), EFAULT),
    case("a type without data", DEVICE, nest(pt_id=1), EINVAL),
    case("data without a type", DEVICE, nest(pt_id=1, data=STAGE_1, data_type=0), EINVAL),
    case("a page table with something reserved", DEVICE, nest(pt_id=1, data_type=0, reserved=1), EOPNOTSUPP),
    case("a page table for no device", DEVICE, nest(pt_id=1, data_type=0, device=2), ENOENT),
    case("a page table over nothing", DEVICE, nest(pt_id=9, data_type=0), EINVAL),
    case("a page table over a device", DEVICE, nest(pt_id=3, data_type=0), EINVAL),
    case("a page table of flags it does not know", DEVICE, nest(pt_id=1, flags=1 << 4, data_type=0), EOPNOTSUPP),
    case(
        "a page table that tracks, of a device that cannot",
        [*IOAS, mock_device(flags=NO_DIRTY)],
        nest(pt_id=1, flags=DIRTY, data_type=0),
        EOPNOTSUPP,
    ),
    case(
        "a device that cannot track goes nowhere where others can",
        [*TRACKED, mock_device(flags=NO_DIRTY)],
        mock_replace(pt_id=5, test=6),
        EINVAL,
    ),
    # Nesting.
    case("nest", PARENT, nest(pt_id=5, data=STAGE_1), ok(out_hwpt_id=6), (destroy(id=5), EBUSY)),
    case("nest without data", PARENT, nest(pt_id=5, data_type=0), EOPNOTSUPP),
    case("nest with data of another type", PARENT, nest(pt_id=5, data=STAGE_1, data_type=1), EOPNOTSUPP),
    case("nest with data that is too long", PARENT, nest(pt_id=5, data=STAGE_1 + "00" * 8), EINVAL),
    case("nest on what devices made", DEVICE, nest(pt_id=4, data=STAGE_1), EINVAL),
    case("nest on what was not made for it", TRACKED, nest(pt_id=5, data=STAGE_1), EINVAL),
    case("nest on a nested one", NESTED, nest(pt_id=6, data=STAGE_1), EINVAL),
    case("nest what may be nested on", PARENT, nest(pt_id=5, data=STAGE_1, flags=NEST_PARENT), EOPNOTSUPP),
    case("nest for PASIDs", PARENT, nest(pt_id=5, data=STAGE_1, flags=PASID), ok(out_hwpt_id=6)),
    case(
        "a nested page table is attached",
        NESTED,
        mock_replace(pt_id=6),
        ok(table=6),
        (destroy(id=6), EBUSY),
        (destroy(id=4), ENOENT),
    ),
    case("a nested page table goes", NESTED, destroy(id=6), ok(), (destroy(id=5), ok())),
    case("no dirty pages of a nested one", NESTED, set_tracking(table=6), ENOENT),
    case("attach to nothing", DEVICE, mock_replace(pt_id=9), ENOENT),
    case("attach to a device", DEVICE, mock_replace(pt_id=3), EINVAL),
    # Invalidation.
    case(
        "invalidate",
        NESTED,
        invalidate(target=6, data=entry(1), entry_num=1),
        ok(done=1),
        (mock_iotlb(table=6, entry=1, value=0), ok()),
        (mock_iotlb(table=6, entry=0, value=FIRST), ok()),
    ),
    case("invalidate all", NESTED, invalidate(target=6, data=entry(0, 1), entry_num=1), ok(done=1)),
    case("invalidate nothing", NESTED, invalidate(target=6, data="", entry_num=0), ok(done=0)),
    case("invalidate nothing of another type", NESTED, invalidate(target=6, data="", entry_num=0, data_type=1), EINVAL),
    case(
        "up to a request that is wrong",
        NESTED,
        invalidate(target=6, data=entry(1) + entry(4) + entry(2), entry_num=3),
        EINVAL,
        (mock_iotlb(table=6, entry=1, value=0), ok()),
        (mock_iotlb(table=6, entry=2, value=FIRST), ok()),
    ),
    case(
        "a request of flags it does not know", NESTED, invalidate(target=6, data=entry(0, 2), entry_num=1), EOPNOTSUPP
    ),
    case("requests that are too short", NESTED, invalidate(target=6, data=entry(0), entry_num=2, entry_len=4), EINVAL),
    case("requests that are too long", NESTED, invalidate(target=6, data=entry(0), entry_num=1, entry_len=16), EINVAL),
    case("requests of no length", NESTED, invalidate(target=6, data=entry(0), entry_num=1, entry_len=0), EINVAL),
    case("requests that are nowhere", NESTED, invalidate(target=6, data="", entry_num=1), EINVAL),
    case("very many requests", NESTED, invalidate(target=6, data=entry(0), entry_num=(1 << 19) + 1), EINVAL),
    case("very long requests", NESTED, invalidate(target=6, data=entry(0), entry_num=1, entry_len=PAGE + 1), EINVAL),
    case("reserved", NESTED, invalidate(target=6, data=entry(0), entry_num=1, reserved=1), EOPNOTSUPP),
    case("invalidate in what is not nested", NESTED, invalidate(target=5, data=entry(0), entry_num=1), EINVAL),
    case("invalidate in an address space", NESTED, invalidate(target=1, data=entry(0), entry_num=1), EINVAL),
    # Dirty pages.
    case(
        "dirty pages",
        [*TRACKED, ioas_map(iova=IOVA), set_tracking(table=5), mock_dirty(table=5, bits=0b11)],
        get_dirty(table=5),
        ok(bits=1),
        (get_dirty(table=5), ok(bits=0)),
    ),
    case(
        "dirty pages that stay",
        [*TRACKED, ioas_map(iova=IOVA), set_tracking(table=5), mock_dirty(table=5, bits=1)],
        get_dirty(table=5, flags=1),
        ok(bits=1),
        (get_dirty(table=5), ok(bits=1)),
    ),
    case(
        "bits that were set stay",
        [*TRACKED, ioas_map(iova=IOVA), set_tracking(table=5), mock_dirty(table=5, bits=1)],
        get_dirty(table=5, before=0b1000),
        ok(bits=0b1001),
    ),
    case(
        "dirty pages in halves",
        [*TRACKED, ioas_map(iova=IOVA), set_tracking(table=5), mock_dirty(table=5, bits=1)],
        get_dirty(table=5, page_size=2048),
        ok(bits=0b11),
    ),
    case(
        "dirty pages in larger units",
        [*TRACKED, ioas_map(iova=IOVA, size=2 * PAGE), set_tracking(table=5), mock_dirty(table=5, bits=0b10)],
        get_dirty(table=5, page_size=2 * PAGE),
        ok(bits=1),
    ),
    case(
        "dirty pages behind a hole are not told",
        [*TRACKED, ioas_map(iova=IOVA + PAGE), set_tracking(table=5), mock_dirty(table=5, bits=0b10)],
        get_dirty(table=5),
        ok(bits=0),
        (get_dirty(table=5, iova=IOVA + PAGE), ok(bits=1)),
    ),
    case(
        "tracking anew forgets",
        [*TRACKED, ioas_map(iova=IOVA), set_tracking(table=5), mock_dirty(table=5, bits=1), set_tracking(table=5)],
        get_dirty(table=5),
        ok(bits=0),
    ),
    case(
        "what is unmapped is not dirty",
        [
            *TRACKED,
            ioas_map(iova=IOVA),
            set_tracking(table=5),
            mock_dirty(table=5, bits=1),
            ioas_unmap(iova=IOVA),
            ioas_map(iova=IOVA),
        ],
        get_dirty(table=5),
        ok(bits=0),
    ),
    case("dirty pages without tracking", TRACKED, mock_dirty(table=5, bits=1), EINVAL),
    case("dirty pages are read without tracking", [*TRACKED, ioas_map(iova=IOVA)], get_dirty(table=5), ok(bits=0)),
    case("dirty pages of what cannot track", PARENT, get_dirty(table=5), EOPNOTSUPP),
    case("tracking in what cannot", PARENT, set_tracking(table=5), EOPNOTSUPP),
    case("the end of tracking in what cannot", PARENT, set_tracking(table=5, enable=False), EOPNOTSUPP),
    case("dirty pages of nothing", TRACKED, get_dirty(table=9), ENOENT),
    case("dirty pages, flags it does not know", TRACKED, get_dirty(table=5, flags=2), EOPNOTSUPP),
    case("dirty pages of no bytes", TRACKED, get_dirty(table=5, size=0), EINVAL),
    case("dirty pages that wrap", TRACKED, get_dirty(table=5, iova=-PAGE & (1 << 64) - 1), EOVERFLOW),
    case("dirty pages of half a unit", TRACKED, get_dirty(table=5, iova=IOVA + 1024), EINVAL),
    case("dirty pages in units of nothing", TRACKED, get_dirty(table=5, page_size=0), EINVAL),
    case("dirty pages off their unit", TRACKED, get_dirty(table=5, iova=IOVA + PAGE, page_size=2 * PAGE), EINVAL),
    # Page faults.
    case("a fault queue", IOAS, fault_queue(), ok(out_fault_id=2), (destroy(id=2), EBUSY)),
    case("a fault queue that is too short", IOAS, fault_queue(size=12), EINVAL),
    case(
        "a fault queue goes",
        [*IOAS, fault_queue(), close_queue(name="faults")],
        destroy(id=2),
        ok(),
    ),
    case("a page table whose faults go nowhere", DEVICE, nest(pt_id=1, flags=FAULTS, fault_id=9, data_type=0), ENOENT),
    case(
        "what nests does not fault",
        [*DEVICE, fault_queue()],
        nest(pt_id=1, flags=FAULTS | NEST_PARENT, fault_id=5, data_type=0),
        EOPNOTSUPP,
    ),
    case("a page table holds its faults", [*FAULTING, close_queue(name="faults")], destroy(id=5), EBUSY),
    case("no fault yet", FAULTING, read_queue(name="faults", size=FAULT_SIZE), ok(data="", readable=False)),
    case(
        "a fault",
        [*FAULTING, mock_fault(), mock_fault()],
        read_queue(name="faults", size=FAULT_SIZE),
        ok(data=fault_message(1), readable=True),
        (read_queue(name="faults", size=2 * FAULT_SIZE), ok(data=fault_message(2), readable=False)),
    ),
    case("a fault that is read in parts", [*FAULTING, mock_fault()], read_queue(name="faults", size=8), ESPIPE),
    case("a fault without room", [*FAULTING, mock_fault()], read_queue(name="faults", size=0), EINVAL),
    case(
        "an answer",
        [*FAULTING, mock_fault(), read_queue(name="faults", size=FAULT_SIZE)],
        write_queue(name="faults", data=answer_to(1)),
        ok(value=8),
        (write_queue(name="faults", data=answer_to(1)), EINVAL),
    ),
    case("an answer to nothing", FAULTING, write_queue(name="faults", data=answer_to(1)), EINVAL),
    case(
        "an answer it does not know",
        [*FAULTING, mock_fault(), read_queue(name="faults", size=FAULT_SIZE)],
        write_queue(name="faults", data=answer_to(1, 2)),
        EINVAL,
        (write_queue(name="faults", data=answer_to(1, 1)), ok(value=8)),
    ),
    case("half an answer", FAULTING, write_queue(name="faults", data="00" * 4), ESPIPE),
    case(
        "answers up to a wrong one",
        [*FAULTING, mock_fault(), mock_fault(), read_queue(name="faults", size=2 * FAULT_SIZE)],
        write_queue(name="faults", data=answer_to(2) + answer_to(7) + answer_to(1)),
        ok(value=8),
        (write_queue(name="faults", data=answer_to(1)), ok(value=8)),
    ),
    case(
        "faults go with the attachment",
        [*FAULTING, mock_fault(), read_queue(name="faults", size=FAULT_SIZE), mock_fault(), mock_replace(pt_id=1)],
        write_queue(name="faults", data=answer_to(1)),
        EINVAL,
        (read_queue(name="faults", size=FAULT_SIZE), ok(data="", readable=False)),
    ),
    case("a fault of a PASID that is not attached", [*FAULTING, mock_fault(pasid=3)], destroy(id=9), ENOENT),
    case(
        "a nested page table has faults of any PASID",
        [
            *PARENT,
            fault_queue(),
            nest(pt_id=5, data=STAGE_1, flags=FAULTS, fault_id=6),
            mock_replace(pt_id=7),
            mock_fault(pasid=3),
        ],
        read_queue(name="faults", size=FAULT_SIZE),
        ok(data=fault_message(1, flags=3, pasid=3)),
    ),
    case(
        "cookies are used again",
        [
            *FAULTING,
            mock_fault(),
            mock_fault(),
            read_queue(name="faults", size=2 * FAULT_SIZE),
            write_queue(name="faults", data=answer_to(1)),
            mock_fault(),
        ],
        read_queue(name="faults", size=FAULT_SIZE),
        ok(data=fault_message(1)),
    ),
    # Virtual IOMMUs.
    case("a virtual IOMMU", PARENT, viommu_alloc(hwpt=5), ok(out_viommu_id=6), (destroy(id=5), EBUSY)),
    case("a virtual IOMMU with data", PARENT, viommu_alloc(hwpt=5, data="01" * 24), ok(out_viommu_id=6)),
    case("a virtual IOMMU with too little data", PARENT, viommu_alloc(hwpt=5, data="01" * 4), EINVAL),
    case("a virtual IOMMU of no type", PARENT, viommu_alloc(hwpt=5, kind=0), EOPNOTSUPP),
    case("a virtual IOMMU of another type", PARENT, viommu_alloc(hwpt=5, kind=1), EOPNOTSUPP),
    case("a virtual IOMMU, flags it does not know", PARENT, viommu_alloc(hwpt=5, flags=1), EOPNOTSUPP),
    case("a virtual IOMMU of no device", PARENT, viommu_alloc(hwpt=5, device=2), ENOENT),
    case("a virtual IOMMU on nothing", PARENT, viommu_alloc(hwpt=1), ENOENT),
    case("a virtual IOMMU on what was not made for it", TRACKED, viommu_alloc(hwpt=5), EINVAL),
    case("a virtual IOMMU goes", VIOMMU, destroy(id=6), ok(), (destroy(id=5), ok())),
    case("a virtual device", VIOMMU, vdevice_alloc(viommu=6), ok(out_vdevice_id=7), (destroy(id=6), EBUSY)),
    case("a virtual device twice", VDEVICE, vdevice_alloc(viommu=6, virtual_id=1), EEXIST),
    case("a virtual id twice", [*VDEVICE, mock_device()], vdevice_alloc(viommu=6, device=9), EEXIST),
    case("a virtual device of nothing", VIOMMU, vdevice_alloc(viommu=5), ENOENT),
    case("a virtual device of no device", VIOMMU, vdevice_alloc(viommu=6, device=2), ENOENT),
    case("a virtual device goes", VDEVICE, destroy(id=7), ok(), (vdevice_alloc(viommu=6), ok(out_vdevice_id=7))),
    case(
        "a virtual device goes with its device, and its number stays",
        [*VDEVICE, destroy(id=2)],
        destroy(id=7),
        ENOENT,
        (mock_device(), ok(test=2, device=3, table=4)),
        (vdevice_alloc(viommu=6), ok(out_vdevice_id=8)),
    ),
    case("a guest's page table", VDEVICE, nest(pt_id=6, data=STAGE_1), ok(out_hwpt_id=8), (destroy(id=6), EBUSY)),
    case("a guest's page table without data", VDEVICE, nest(pt_id=6, data_type=0), EOPNOTSUPP),
    case("a device that is not the guest's", [*VIOMMU, nest(pt_id=6, data=STAGE_1)], mock_replace(pt_id=7), ENOENT),
    case(
        "invalidate a device's cache",
        VDEVICE,
        invalidate(target=6, data=cache_entry(1), entry_num=1, entry_len=12),
        ok(done=1),
        (mock_cache(entry=1, value=0), ok()),
        (mock_cache(entry=0, value=mock.IOMMU_TEST_DEV_CACHE_DEFAULT), ok()),
    ),
    case(
        "invalidate an unknown device's cache",
        VDEVICE,
        invalidate(target=6, data=cache_entry(0) + cache_entry(1, 0x43), entry_num=2, entry_len=12),
        EINVAL,
        (mock_cache(entry=0, value=0), ok()),
    ),
    case("invalidate no cache", VDEVICE, invalidate(target=6, data="", entry_num=0, entry_len=12), ok(done=0)),
    case(
        "invalidate no cache of another type",
        VDEVICE,
        invalidate(target=6, data="", entry_num=0, entry_len=12, data_type=1),
        EINVAL,
    ),
    case(
        "longer requests that end in nothing",
        VDEVICE,
        invalidate(target=6, data=cache_entry(2) + "00" * 4, entry_num=1, entry_len=16),
        ok(done=1),
    ),
    case(
        "longer requests that end in something",
        VDEVICE,
        invalidate(target=6, data=cache_entry(2) + "01" * 4, entry_num=1, entry_len=16),
        E2BIG,
    ),
    # Events.
    case("an event queue", VIOMMU, event_queue(viommu=6), ok(out_veventq_id=7), (destroy(id=6), EBUSY)),
    case("an event queue twice", EVENTS, event_queue(viommu=6, name="second"), EEXIST),
    case("an event queue of no type", VIOMMU, event_queue(viommu=6, kind=0), EOPNOTSUPP),
    case("an event queue of any type", VIOMMU, event_queue(viommu=6, kind=1), ok(out_veventq_id=7)),
    case("an event queue, flags it does not know", VIOMMU, event_queue(viommu=6, flags=1), EOPNOTSUPP),
    case("an event queue for none", VIOMMU, event_queue(viommu=6, depth=0), EINVAL),
    case("an event queue for very many", VIOMMU, event_queue(viommu=6, depth=(1 << 19) + 1), EINVAL),
    case("an event queue of nothing", VIOMMU, event_queue(viommu=5), ENOENT),
    case("an event queue that is open", EVENTS, destroy(id=4), EBUSY),
    case("an event without a queue", GUEST, mock_event(), EOPNOTSUPP),
    case("an event without a guest", DEVICE, mock_event(), ENOENT),
    case("no event yet", EVENTS, read_queue(name="events", size=12), ok(data="", readable=False)),
    case(
        "an event",
        [*EVENTS, mock_event(), mock_event()],
        read_queue(name="events", size=23),
        ok(data=event_message(0), readable=True),
        (read_queue(name="events", size=100), ok(data=event_message(1), readable=False)),
    ),
    case("an event without room for its header", [*EVENTS, mock_event()], read_queue(name="events", size=7), EINVAL),
    case("an event without room for its data", [*EVENTS, mock_event()], read_queue(name="events", size=11), EINVAL),
    case(
        "lost events",
        [*EVENTS, mock_event(), mock_event(), mock_event(), mock_event()],
        read_queue(name="events", size=100),
        ok(data=event_message(0) + event_message(1) + lost(3), readable=False),
    ),
    case(
        "what is lost shows by a gap once there is room",
        [*EVENTS, mock_event(), mock_event(), mock_event(), read_queue(name="events", size=12), mock_event()],
        read_queue(name="events", size=100),
        ok(data=event_message(1) + event_message(3), readable=False),
    ),
    case("an event queue is not written", EVENTS, write_queue(name="events", data="00" * 8), EINVAL),
    # Hardware queues.
    case("a hardware queue", MAPPED, hw_queue_alloc(viommu=6), ok(out_hw_queue_id=7), (destroy(id=6), EBUSY)),
    case("a hardware queue where nothing is", VIOMMU, hw_queue_alloc(viommu=6), ENOENT),
    case("a hardware queue half mapped", MAPPED, hw_queue_alloc(viommu=6, iova=IOVA + PAGE, size=PAGE + 1), ENOENT),
    case(
        "a hardware queue in memory that is scattered",
        [*VIOMMU, ioas_map(iova=IOVA, offset=300 * PAGE), ioas_map(iova=IOVA + PAGE)],
        hw_queue_alloc(viommu=6, size=2 * PAGE),
        EFAULT,
        (destroy(id=6), ok()),
    ),
    case("a hardware queue of no bytes", MAPPED, hw_queue_alloc(viommu=6, size=0), EINVAL),
    case("a hardware queue that wraps", MAPPED, hw_queue_alloc(viommu=6, size=(1 << 64) - 1), EOVERFLOW),
    case("a hardware queue of no type", MAPPED, hw_queue_alloc(viommu=6, kind=0), EOPNOTSUPP),
    case("a hardware queue of another type", MAPPED, hw_queue_alloc(viommu=6, kind=1), EOPNOTSUPP),
    case("a hardware queue, flags it does not know", MAPPED, hw_queue_alloc(viommu=6, flags=1), EOPNOTSUPP),
    case("a hardware queue of nothing", MAPPED, hw_queue_alloc(viommu=5), ENOENT),
    case("a hardware queue beyond the last", MAPPED, hw_queue_alloc(viommu=6, index=2), EINVAL),
    case("a hardware queue before the first", MAPPED, hw_queue_alloc(viommu=6, index=1), EIO),
    case("a hardware queue twice", [*MAPPED, hw_queue_alloc(viommu=6)], hw_queue_alloc(viommu=6), EEXIST),
    case(
        "a second hardware queue needs the first",
        [*MAPPED, hw_queue_alloc(viommu=6), hw_queue_alloc(viommu=6, index=1)],
        destroy(id=7),
        EBUSY,
        (destroy(id=9), ok()),
        (destroy(id=7), ok()),
        (destroy(id=6), ok()),
    ),
    case("its own hold on the memory is not the program's", [*MAPPED, hw_queue_alloc(viommu=6)], destroy(id=8), EBUSY),
    case(
        "a hardware queue's memory stays",
        [*MAPPED, hw_queue_alloc(viommu=6, iova=IOVA + PAGE, size=16)],
        ioas_unmap(iova=IOVA + PAGE),
        EBUSY,
        (ioas_unmap(iova=IOVA), ok(length=PAGE)),
        (destroy(id=7), ok()),
        (ioas_unmap(iova=IOVA + PAGE), ok(length=PAGE)),
    ),
    # PASIDs.
    case("a PASID", PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=6), ok(), (destroy(id=6), EBUSY)),
    case(
        "a PASID twice",
        [*PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=6)],
        mock_pasid(op=ATTACH, pasid=7, pt_id=6),
        EBUSY,
    ),
    case(
        "a PASID elsewhere",
        [*PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=6)],
        mock_pasid(op=ATTACH, pasid=7, pt_id=5),
        EBUSY,
    ),
    case(
        "a PASID moves",
        [*PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=6)],
        mock_pasid(op=REPLACE, pasid=7, pt_id=5),
        ok(),
        (destroy(id=6), ok()),
    ),
    case("a PASID that is not there moves", PASIDS, mock_pasid(op=REPLACE, pasid=7, pt_id=6), EINVAL),
    case("a PASID in an address space", PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=1), EINVAL),
    case("a PASID in nothing", PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=9), ENOENT),
    case("a PASID in a device", PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=3), EINVAL),
    case("a PASID the device has not", PASIDS, mock_pasid(op=ATTACH, pasid=1 << 20, pt_id=6), EINVAL),
    case("no PASID", PASIDS, mock_pasid(op=ATTACH, pasid=0, pt_id=6), EBUSY),
    case(
        "a PASID beside a page table for none",
        [*PASIDS, mock_replace(pt_id=1)],
        mock_pasid(op=ATTACH, pasid=7, pt_id=6),
        EINVAL,
    ),
    case(
        "a page table for none beside a PASID",
        [*PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=6)],
        mock_replace(pt_id=1),
        EINVAL,
    ),
    case(
        "a PASID goes",
        [*PASIDS, mock_pasid(op=ATTACH, pasid=7, pt_id=6)],
        mock_pasid(op=DETACH, pasid=7),
        ok(),
        (destroy(id=6), ok()),
    ),
    case("a PASID that is not there goes", PASIDS, mock_pasid(op=DETACH, pasid=7), ok()),
    # The machine's own IOMMU.
    node("a page table to nest on", NODE, nest(pt_id=2, flags=NEST_PARENT, data_type=0, device=1), EOPNOTSUPP),
    node("a page table with data", NODE, nest(pt_id=2, data=STAGE_1, device=1), EOPNOTSUPP),
    node(
        "nest on what was not made for it",
        [*NODE, nest(pt_id=2, data_type=0, device=1)],
        nest(pt_id=3, data=STAGE_1, device=1),
        by_iommu(intel=EINVAL, amd=EOPNOTSUPP),
    ),
    node(
        "a virtual IOMMU",
        [*NODE, nest(pt_id=2, data_type=0, device=1)],
        viommu_alloc(hwpt=3, kind=1, device=1),
        by_iommu(intel=EOPNOTSUPP, amd=EINVAL),
    ),
    node(
        "a page table for PASIDs",
        NODE,
        nest(pt_id=2, flags=PASID, data_type=0, device=1),
        by_iommu(intel=ok(out_hwpt_id=3), amd=EOPNOTSUPP),
    ),
    node(
        "devices that cannot fault",
        [*NODE, fault_queue(), nest(pt_id=2, flags=FAULTS, fault_id=3, data_type=0, device=1)],
        attach_pt(pt_id=4),
        by_iommu(intel=ENODEV, amd=ok(pt_id=4)),
    ),
    node("a PASID in an address space", NODE, attach_pt(pt_id=2, argsz=16, flags=1, pasid=7), EINVAL),
    node(
        "a PASID in a page table for PASIDs",
        [*NODE, nest(pt_id=2, flags=PASID, data_type=0, device=1), attach_pt(pt_id=3)],
        attach_pt(pt_id=3, argsz=16, flags=1, pasid=7),
        ok(pt_id=3),
        (detach_pt(), ok()),
        (destroy(id=3), EBUSY),
        (detach_pt(argsz=12, flags=1, pasid=7), ok()),
        (destroy(id=3), ok()),
        models=("intel",),
    ),
    node("a PASID without room for it", NODE, attach_pt(pt_id=2, argsz=12, flags=1, pasid=7), EINVAL),
    node(
        "no PASID beside the device",
        [*NODE, attach_pt(pt_id=2)],
        attach_pt(pt_id=2, argsz=16, flags=1, pasid=0),
        EBUSY,
    ),
    node(
        "a PASID that is not there goes",
        [*NODE, attach_pt(pt_id=2)],
        detach_pt(argsz=12, flags=1, pasid=7),
        ok(),
        (destroy(id=2), EBUSY),
    ),
    node("a PASID goes, without room for it", [*NODE, attach_pt(pt_id=2)], detach_pt(argsz=8, flags=1), EINVAL),
]
