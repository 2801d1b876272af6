"""Calls on an iommufd, and on a device opened by its own node."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from pyvfio.abi import iommufd as abi
from pyvfio.abi import vfio
from pyvfio.iommufd import cdev_node
from tests.conformance.bench import PAGE, Bench
from tests.conformance.calls.container import IOVA
from tests.conformance.calls.group import find
from tests.conformance.step import Reply, call

READABLE, WRITEABLE = abi.IOMMU_IOAS_MAP_READABLE, abi.IOMMU_IOAS_MAP_WRITEABLE
FIXED = abi.IOMMU_IOAS_MAP_FIXED_IOVA | READABLE | WRITEABLE
"""At an iova of one's own choice, for reading and writing."""


@call
def open_iommufd(bench: Bench, *, name: str = "iommufd") -> Reply:
    return bench.open(name, lambda: bench.kernel.open("/dev/iommu", os.O_RDWR))


@call
def open_node(bench: Bench, *, edu: str = "0", name: str = "node") -> Reply:
    node = cdev_node(bench.kernel, find(bench, edu).address)
    return bench.open(name, lambda: bench.kernel.open(node, os.O_RDWR))


@call
def bind(
    bench: Bench,
    *,
    argsz: int = 16,
    flags: int = 0,
    iommufd: str | int = "iommufd",
    token: bytes | None = None,
    tail: str = "",
    reach: int | None = None,
    node: str = "node",
) -> Reply:
    """iommufd: a descriptor by name, or the number of none. token: of a VF; None for one that is nowhere.

    tail: what follows the struct, in hex.
    """
    fd = bench.fds[iommufd] if isinstance(iommufd, str) else iommufd
    argument = vfio.vfio_device_bind_iommufd(argsz=argsz, flags=flags, iommufd=fd)
    argument.token_uuid_ptr = bench.address("hole", 0)
    if token is not None:
        argument.token_uuid_ptr = bench.address("bitmap", 0)
        ctypes.memmove(argument.token_uuid_ptr, token, len(token))
    if argsz < ctypes.sizeof(argument):
        argument.token_uuid_ptr = 0
    reply = bench.ioctl(node, vfio.VFIO_DEVICE_BIND_IOMMUFD, argument, bytes.fromhex(tail), reach=reach)
    return only(reply, "out_devid")


@call
def attach_pt(
    bench: Bench, *, pt_id: int, argsz: int = 12, flags: int = 0, pasid: int = 0, node: str = "node"
) -> Reply:
    argument = vfio.vfio_device_attach_iommufd_pt(argsz=argsz, flags=flags, pt_id=pt_id, pasid=pasid)
    return only(bench.ioctl(node, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, argument), "pt_id")


@call
def detach_pt(bench: Bench, *, argsz: int = 8, flags: int = 0, pasid: int = 0, node: str = "node") -> Reply:
    argument = vfio.vfio_device_detach_iommufd_pt(argsz=argsz, flags=flags, pasid=pasid)
    return only(bench.ioctl(node, vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, argument))


@call
def get_node_info(bench: Bench, *, node: str = "node") -> Reply:
    return only(bench.ioctl(node, vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info()), "num_regions")


@call
def unknown_iommufd_ioctl(bench: Bench, *, request: int) -> Reply:
    return only(bench.ioctl("iommufd", request, abi.iommu_destroy()))


@call
def destroy(bench: Bench, *, id: int, size: int = 8, data: str = "") -> Reply:  # noqa: A002
    """data: what follows the struct, in hex."""
    return only(bench.ioctl("iommufd", abi.IOMMU_DESTROY, abi.iommu_destroy(size=size, id=id), bytes.fromhex(data)))


@call
def ioas_alloc(bench: Bench, *, size: int = 12, flags: int = 0, reach: int | None = None) -> Reply:
    argument = abi.iommu_ioas_alloc(size=size, flags=flags)
    return only(bench.ioctl("iommufd", abi.IOMMU_IOAS_ALLOC, argument, reach=reach), "out_ioas_id")


@call
def iova_ranges(bench: Bench, *, ioas: int = 1, room: int = 8) -> Reply:
    """The ranges come back as out."""
    address = bench.address("bitmap", 0)
    ctypes.memset(address, 0, PAGE)
    argument = abi.iommu_ioas_iova_ranges(ioas_id=ioas, num_iovas=room, allowed_iovas=address)
    reply = only(bench.ioctl("iommufd", abi.IOMMU_IOAS_IOVA_RANGES, argument), "num_iovas", "out_iova_alignment")
    pairs = list(struct.iter_unpack("<QQ", ctypes.string_at(address, 16 * room)))
    return Reply(reply.error, reply.value, {**reply.out, "ranges": [list(pair) for pair in pairs if any(pair)]})


@call
def allow_iovas(bench: Bench, *, ranges: Sequence[Sequence[int]], ioas: int = 1) -> Reply:
    address = bench.address("bitmap", 0)
    data = b"".join(struct.pack("<QQ", *pair) for pair in ranges)
    ctypes.memmove(address, data, len(data))
    argument = abi.iommu_ioas_allow_iovas(ioas_id=ioas, num_iovas=len(ranges), allowed_iovas=address)
    return only(bench.ioctl("iommufd", abi.IOMMU_IOAS_ALLOW_IOVAS, argument))


@call
def ioas_map(
    bench: Bench,
    *,
    ioas: int = 1,
    iova: int = IOVA,
    size: int = PAGE,
    memory: str = "anon",
    offset: int = 0,
    user_va: int | None = None,
    flags: int = FIXED,
    argsz: int = 40,
) -> Reply:
    """user_va: instead of an offset in memory."""
    argument = abi.iommu_ioas_map(size=argsz, flags=flags, ioas_id=ioas, length=size, iova=iova)
    argument.user_va = bench.address(memory, offset) if user_va is None else user_va
    return only(bench.ioctl("iommufd", abi.IOMMU_IOAS_MAP, argument), "iova")


@call
def ioas_map_file(
    bench: Bench,
    *,
    ioas: int = 1,
    iova: int = IOVA,
    size: int = PAGE,
    file: str | int = "memfd",
    start: int = 0,
    flags: int = FIXED,
    argsz: int = 40,
) -> Reply:
    """file: a descriptor by name, or the number of none."""
    fd = bench.fds[file] if isinstance(file, str) else file
    argument = abi.iommu_ioas_map_file(size=argsz, flags=flags, ioas_id=ioas, fd=fd, start=start, length=size)
    argument.iova = iova
    return only(bench.ioctl("iommufd", abi.IOMMU_IOAS_MAP_FILE, argument), "iova")


@call
def change_process(bench: Bench, *, size: int = 8, reserved: int = 0) -> Reply:
    argument = abi.iommu_ioas_change_process(size=size)
    setattr(argument, "__reserved", reserved)
    return only(bench.ioctl("iommufd", abi.IOMMU_IOAS_CHANGE_PROCESS, argument))


@call
def ioas_unmap(bench: Bench, *, ioas: int = 1, iova: int = IOVA, size: int = PAGE) -> Reply:
    argument = abi.iommu_ioas_unmap(ioas_id=ioas, iova=iova, length=size)
    return only(bench.ioctl("iommufd", abi.IOMMU_IOAS_UNMAP, argument), "length")


@call
def ioas_copy(
    bench: Bench,
    *,
    source: int = 1,
    target: int = 2,
    iova: int = IOVA,
    to: int = IOVA,
    size: int = PAGE,
    flags: int = FIXED,
) -> Reply:
    argument = abi.iommu_ioas_copy(flags=flags, dst_ioas_id=target, src_ioas_id=source, length=size)
    argument.dst_iova, argument.src_iova = to, iova
    return only(bench.ioctl("iommufd", abi.IOMMU_IOAS_COPY, argument), "dst_iova")


@call
def option(bench: Bench, *, option_id: int, op: int, object_id: int = 0, value: int = 0) -> Reply:
    argument = abi.iommu_option(option_id=option_id, op=op, object_id=object_id, val64=value)
    return only(bench.ioctl("iommufd", abi.IOMMU_OPTION, argument), "val64")


@call
def vfio_ioas(bench: Bench, *, op: int, ioas: int = 0) -> Reply:
    argument = abi.iommu_vfio_ioas(op=op, ioas_id=ioas)
    return only(bench.ioctl("iommufd", abi.IOMMU_VFIO_IOAS, argument), "ioas_id")


@call
def hwpt_alloc(
    bench: Bench, *, device: int = 1, pt_id: int = 2, flags: int = 0, data_type: int = 0, data_len: int = 0
) -> Reply:
    argument = abi.iommu_hwpt_alloc(flags=flags, dev_id=device, pt_id=pt_id, data_type=data_type, data_len=data_len)
    return only(bench.ioctl("iommufd", abi.IOMMU_HWPT_ALLOC, argument), "out_hwpt_id")


@call
def hw_info(bench: Bench, *, device: int = 1, flags: int = 0, kind: int = 0, room: int = 0) -> Reply:
    """data: what the kernel wrote into room bytes, in hex."""
    argument = abi.iommu_hw_info(dev_id=device, flags=flags, in_data_type=kind, data_len=room)
    address = bench.address("bitmap", 0)
    ctypes.memset(address, 0xFF, PAGE)
    argument.data_uptr = address if room else 0
    pointer = bench.argument(bytes(argument))
    reply = bench.attempt(lambda: bench.kernel.ioctl(bench.fds["iommufd"], abi.IOMMU_GET_HW_INFO, pointer))
    if reply.error is not None:
        return reply
    told = abi.iommu_hw_info.from_buffer_copy(ctypes.string_at(ctypes.addressof(pointer), ctypes.sizeof(argument)))
    names = ("data_len", "out_data_type", "out_max_pasid_log2", "out_capabilities")
    data = ctypes.string_at(address, room).hex()
    return Reply(None, reply.value, {**{name: getattr(told, name) for name in names}, "data": data})


@call
def noiommu_get_pa(
    bench: Bench,
    *,
    ioas: int = 2,
    iova: int = IOVA,
    length: int = PAGE,
    flags: int = 0,
    reserved: int = 0,
    argsz: int = 40,
) -> Reply:
    """Of the address comes back where in its page it is: the page is wherever the machine has it."""
    argument = abi.iommu_ioas_noiommu_get_pa(size=argsz, flags=flags, ioas_id=ioas, iova=iova, length=length)
    setattr(argument, "__reserved", reserved)
    reply = bench.ioctl("iommufd", abi.IOMMU_IOAS_NOIOMMU_GET_PA, argument)
    if reply.error is not None:
        return only(reply)
    address = reply.out["out_phys"]
    assert isinstance(address, int)
    return Reply(out={"length": reply.out["length"], "in_page": address % PAGE})


@call
def set_dirty_tracking(bench: Bench, *, hwpt: int, flags: int = abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE) -> Reply:
    argument = abi.iommu_hwpt_set_dirty_tracking(hwpt_id=hwpt, flags=flags)
    return only(bench.ioctl("iommufd", abi.IOMMU_HWPT_SET_DIRTY_TRACKING, argument))


def only(reply: Reply, *names: str) -> Reply:
    """What a struct holds besides addresses and descriptors of this process."""
    return Reply(reply.error, reply.value, {name: reply.out[name] for name in names} if reply.error is None else {})
