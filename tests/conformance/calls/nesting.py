"""Calls on iommufd's test devices, and on what is made for them: nested page tables, fault queues, virtual IOMMUs."""

from __future__ import annotations

import ctypes

from pyvfio.abi import iommufd as abi
from pyvfio.abi import iommufd_test as mock
from tests.conformance.bench import PAGE, Bench
from tests.conformance.calls.iommufd import only
from tests.conformance.step import Reply, call

IOVA = mock.MOCK_APERTURE_START
MOCK = mock.IOMMU_HWPT_DATA_SELFTEST
_DATA, _BITMAP = 0, 8 * PAGE
"""Where in the machine's "bitmap" memory structs and bitmaps are passed."""


def _place(bench: Bench, data: bytes) -> int:
    """The address of a copy of data, with zeros behind it; 0 for none."""
    address = bench.address("bitmap", _DATA)
    ctypes.memmove(address, data.ljust(PAGE, b"\0"), PAGE)
    return address if data else 0


def _test(bench: Bench, command: mock.iommu_test_cmd) -> tuple[Reply, mock.iommu_test_cmd]:
    pointer = bench.argument(bytes(command))
    reply = bench.attempt(lambda: bench.kernel.ioctl(bench.fds["iommufd"], mock.IOMMU_TEST_CMD, pointer))
    return reply, type(command).from_buffer_copy(ctypes.string_at(ctypes.addressof(pointer), ctypes.sizeof(command)))


def _out(reply: Reply, **values: object) -> Reply:
    return Reply(reply.error, reply.value, values if reply.error is None else {})


@call
def mock_device(bench: Bench, *, pt_id: int = 1, flags: int = 0) -> Reply:
    """Three objects: the test's, the bound device and, for an address space, the page table."""
    command = mock.iommu_test_cmd(op=mock.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, id=pt_id)
    command.mock_domain_flags.dev_flags = flags
    reply, command = _test(bench, command)
    answer = command.mock_domain_flags
    return _out(reply, test=answer.out_stdev_id, device=answer.out_idev_id, table=answer.out_hwpt_id)


@call
def mock_operation(bench: Bench, *, op: int, size: int = 72) -> Reply:
    return _out(_test(bench, mock.iommu_test_cmd(size=size, op=op))[0])


@call
def mock_replace(bench: Bench, *, pt_id: int, test: int = 2) -> Reply:
    command = mock.iommu_test_cmd(op=mock.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, id=test)
    command.mock_domain_replace.pt_id = pt_id
    reply, command = _test(bench, command)
    return _out(reply, table=command.mock_domain_replace.pt_id)


@call
def mock_pasid(bench: Bench, *, op: int, pasid: int, pt_id: int = 0, test: int = 2) -> Reply:
    """op: IOMMU_TEST_OP_PASID_*."""
    command = mock.iommu_test_cmd(op=op, id=test)
    command.pasid_attach.pasid, command.pasid_attach.pt_id = pasid, pt_id
    return _out(_test(bench, command)[0])


@call
def mock_dirty(bench: Bench, *, table: int, bits: int, iova: int = IOVA, page_size: int = PAGE) -> Reply:
    address = bench.address("bitmap", _BITMAP)
    ctypes.memmove(address, bits.to_bytes(PAGE, "little"), PAGE)
    command = mock.iommu_test_cmd(op=mock.IOMMU_TEST_OP_DIRTY, id=table)
    dirty = command.dirty
    dirty.iova, dirty.length, dirty.page_size, dirty.uptr = iova, 64 * page_size, page_size, address
    reply, command = _test(bench, command)
    return _out(reply, count=command.dirty.out_nr_dirty)


@call
def mock_iotlb(bench: Bench, *, table: int, entry: int, value: int) -> Reply:
    command = mock.iommu_test_cmd(op=mock.IOMMU_TEST_OP_MD_CHECK_IOTLB, id=table)
    command.check_iotlb.id, command.check_iotlb.iotlb = entry, value
    return _out(_test(bench, command)[0])


@call
def mock_cache(bench: Bench, *, entry: int, value: int, device: int = 3) -> Reply:
    command = mock.iommu_test_cmd(op=mock.IOMMU_TEST_OP_DEV_CHECK_CACHE, id=device)
    command.check_dev_cache.id, command.check_dev_cache.cache = entry, value
    return _out(_test(bench, command)[0])


@call
def mock_fault(bench: Bench, *, pasid: int = 0, device: int = 3) -> Reply:
    command = mock.iommu_test_cmd(op=mock.IOMMU_TEST_OP_TRIGGER_IOPF)
    trigger = command.trigger_iopf
    trigger.dev_id, trigger.pasid, trigger.grpid, trigger.perm, trigger.addr = device, pasid, 9, 1, 0x7000
    return _out(_test(bench, command)[0])


@call
def mock_event(bench: Bench, *, device: int = 3) -> Reply:
    command = mock.iommu_test_cmd(op=mock.IOMMU_TEST_OP_TRIGGER_VEVENT)
    command.trigger_vevent.dev_id = device
    return _out(_test(bench, command)[0])


@call
def nest(
    bench: Bench,
    *,
    pt_id: int,
    data: str = "",
    data_type: int = MOCK,
    data_len: int | None = None,
    flags: int = 0,
    fault_id: int = 0,
    device: int = 3,
    reserved: int = 0,
) -> Reply:
    """Any page table. data: its struct, in hex."""
    content = bytes.fromhex(data)
    argument = abi.iommu_hwpt_alloc(flags=flags, dev_id=device, pt_id=pt_id, data_type=data_type, fault_id=fault_id)
    argument.data_len = len(content) if data_len is None else data_len
    argument.data_uptr = _place(bench, content)
    setattr(argument, "__reserved", reserved)
    return only(bench.ioctl("iommufd", abi.IOMMU_HWPT_ALLOC, argument), "out_hwpt_id")


@call
def invalidate(
    bench: Bench,
    *,
    target: int,
    data: str,
    entry_num: int,
    entry_len: int = 8,
    data_type: int = mock.IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
    reserved: int = 0,
) -> Reply:
    """done: how many the kernel says were carried out, also when it fails."""
    argument = abi.iommu_hwpt_invalidate(hwpt_id=target, data_type=data_type, entry_len=entry_len, entry_num=entry_num)
    argument.data_uptr = _place(bench, bytes.fromhex(data))
    setattr(argument, "__reserved", reserved)
    reply = bench.ioctl("iommufd", abi.IOMMU_HWPT_INVALIDATE, argument)
    return Reply(reply.error, reply.value, {"done": reply.out["entry_num"]})


@call
def set_tracking(bench: Bench, *, table: int, enable: bool = True) -> Reply:
    flags = abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE if enable else 0
    argument = abi.iommu_hwpt_set_dirty_tracking(hwpt_id=table, flags=flags)
    return only(bench.ioctl("iommufd", abi.IOMMU_HWPT_SET_DIRTY_TRACKING, argument))


@call
def get_dirty(
    bench: Bench,
    *,
    table: int,
    iova: int = IOVA,
    size: int = 64 * PAGE,
    page_size: int = PAGE,
    flags: int = 0,
    before: int = 0,
    memory: str = "bitmap",
) -> Reply:
    """bits: of the bitmap, of which before is what stands in it when the kernel is asked."""
    address = bench.address(memory, _BITMAP)
    if memory == "bitmap":
        ctypes.memmove(address, before.to_bytes(PAGE, "little"), PAGE)
    argument = abi.iommu_hwpt_get_dirty_bitmap(hwpt_id=table, flags=flags, iova=iova, length=size, page_size=page_size)
    argument.data = address
    reply = bench.ioctl("iommufd", abi.IOMMU_HWPT_GET_DIRTY_BITMAP, argument)
    return _out(reply, bits=int.from_bytes(ctypes.string_at(address, PAGE), "little") if reply.error is None else 0)


@call
def fault_queue(bench: Bench, *, flags: int = 0, size: int = 16, name: str = "faults") -> Reply:
    argument = abi.iommu_fault_alloc(size=size, flags=flags)
    return _queue(bench, name, abi.IOMMU_FAULT_QUEUE_ALLOC, argument, "out_fault_id", "out_fault_fd")


@call
def event_queue(
    bench: Bench,
    *,
    viommu: int,
    depth: int = 2,
    kind: int = mock.IOMMU_VEVENTQ_TYPE_SELFTEST,
    flags: int = 0,
    name: str = "events",
) -> Reply:
    argument = abi.iommu_veventq_alloc(flags=flags, viommu_id=viommu, type=kind, veventq_depth=depth)
    return _queue(bench, name, abi.IOMMU_VEVENTQ_ALLOC, argument, "out_veventq_id", "out_veventq_fd")


def _queue(bench: Bench, name: str, request: int, argument: ctypes.Structure, number: str, fd: str) -> Reply:
    pointer = bench.argument(bytes(argument))
    reply = bench.attempt(lambda: bench.kernel.ioctl(bench.fds["iommufd"], request, pointer))
    written = ctypes.string_at(ctypes.addressof(pointer), ctypes.sizeof(argument))
    answer = type(argument).from_buffer_copy(written)
    if reply.error is None:
        bench.fds[name] = getattr(answer, fd)
    return _out(reply, **{number: getattr(answer, number)})


@call
def read_queue(bench: Bench, *, name: str, size: int) -> Reply:
    """data: what was read, in hex; readable: whether there is more, as poll sees it."""
    data = b""

    def read() -> int:
        nonlocal data
        data = bench.kernel.read(bench.fds[name], size)
        return len(data)

    reply = bench.attempt(read)
    is_readable = bool(bench.kernel.poll([bench.fds[name]], 0))
    return Reply(reply.error, reply.value, {"data": data.hex(), "readable": is_readable})


@call
def write_queue(bench: Bench, *, name: str, data: str) -> Reply:
    return bench.attempt(lambda: bench.kernel.write(bench.fds[name], bytes.fromhex(data)))


@call
def close_queue(bench: Bench, *, name: str) -> Reply:
    bench.kernel.close(bench.fds.pop(name))
    return Reply()


@call
def viommu_alloc(
    bench: Bench,
    *,
    hwpt: int,
    kind: int = mock.IOMMU_VIOMMU_TYPE_SELFTEST,
    data: str = "",
    flags: int = 0,
    device: int = 3,
) -> Reply:
    content = bytes.fromhex(data)
    argument = abi.iommu_viommu_alloc(flags=flags, type=kind, dev_id=device, hwpt_id=hwpt, data_len=len(content))
    argument.data_uptr = _place(bench, content)
    return only(bench.ioctl("iommufd", abi.IOMMU_VIOMMU_ALLOC, argument), "out_viommu_id")


@call
def vdevice_alloc(bench: Bench, *, viommu: int, virtual_id: int = 0x42, device: int = 3) -> Reply:
    argument = abi.iommu_vdevice_alloc(viommu_id=viommu, dev_id=device, virt_id=virtual_id)
    return only(bench.ioctl("iommufd", abi.IOMMU_VDEVICE_ALLOC, argument), "out_vdevice_id")


@call
def hw_queue_alloc(
    bench: Bench,
    *,
    viommu: int,
    index: int = 0,
    iova: int = IOVA,
    size: int = PAGE,
    kind: int = mock.IOMMU_HW_QUEUE_TYPE_SELFTEST,
    flags: int = 0,
) -> Reply:
    argument = abi.iommu_hw_queue_alloc(flags=flags, viommu_id=viommu, type=kind, index=index, length=size)
    argument.nesting_parent_iova = iova
    return only(bench.ioctl("iommufd", abi.IOMMU_HW_QUEUE_ALLOC, argument), "out_hw_queue_id")
