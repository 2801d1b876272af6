"""Calls on a device."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from pyvfio.abi import mman, vfio
from tests.conformance.bench import PAGE, Bench
from tests.conformance.step import Reply, call

_REGION_SHIFT = 40


@call
def get_info(bench: Bench, *, argsz: int = 24, reach: int | None = None, device: str = "device") -> Reply:
    argument = vfio.vfio_device_info(argsz=argsz, flags=0, num_regions=0xAA, num_irqs=0xAA, cap_offset=0xAA, pad=0xAA)
    return bench.ioctl(device, vfio.VFIO_DEVICE_GET_INFO, argument, reach=reach)


@call
def get_region_info(
    bench: Bench, *, index: int, argsz: int = 32, reach: int | None = None, device: str = "device"
) -> Reply:
    argument = vfio.vfio_region_info(argsz=argsz, flags=0, index=index, cap_offset=0xAA)
    return bench.ioctl(device, vfio.VFIO_DEVICE_GET_REGION_INFO, argument, reach=reach)


@call
def get_irq_info(
    bench: Bench, *, index: int, argsz: int = 16, reach: int | None = None, device: str = "device"
) -> Reply:
    argument = vfio.vfio_irq_info(argsz=argsz, flags=0, index=index, count=0xAA)
    return bench.ioctl(device, vfio.VFIO_DEVICE_GET_IRQ_INFO, argument, reach=reach)


@call
def set_irqs(
    bench: Bench,
    *,
    index: int,
    flags: int,
    start: int = 0,
    count: int = 1,
    fds: tuple[str | int, ...] = (),
    bools: tuple[int, ...] = (),
    argsz: int | None = None,
    reach: int | None = None,
    device: str = "device",
) -> Reply:
    """fds: names of descriptors, or numbers that are none."""
    data = struct.pack(f"<{len(fds)}i", *(bench.fds[fd] if isinstance(fd, str) else fd for fd in fds)) + bytes(bools)
    size = ctypes.sizeof(vfio.vfio_irq_set) + len(data)
    argument = vfio.vfio_irq_set(
        argsz=size if argsz is None else argsz, flags=flags, index=index, start=start, count=count
    )
    reply = bench.ioctl(device, vfio.VFIO_DEVICE_SET_IRQS, argument, data, reach=reach)
    return Reply(reply.error, reply.value)


@call
def reset(bench: Bench, *, device: str = "device") -> Reply:
    return bench.ioctl(device, vfio.VFIO_DEVICE_RESET)


@call
def get_hot_reset_info(
    bench: Bench, *, room: int = 8, argsz: int | None = None, reach: int | None = None, device: str = "device"
) -> Reply:
    """room: for how many devices. Which they are is for the machine to say; how many is in count."""
    size = ctypes.sizeof(vfio.vfio_pci_hot_reset_info)
    argument = vfio.vfio_pci_hot_reset_info(argsz=size + 8 * room if argsz is None else argsz, flags=0xAA, count=0xAA)
    reply = bench.ioctl(device, vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, argument, bytes(8 * room), reach=reach)
    return Reply(reply.error, reply.value, {name: each for name, each in reply.out.items() if name != "data"})


@call
def hot_reset(
    bench: Bench,
    *,
    groups: tuple[str | int, ...] = ("group",),
    count: int | None = None,
    flags: int = 0,
    argsz: int | None = None,
    reach: int | None = None,
    device: str = "device",
) -> Reply:
    data = struct.pack(f"<{len(groups)}i", *(bench.fds[fd] if isinstance(fd, str) else fd for fd in groups))
    size = ctypes.sizeof(vfio.vfio_pci_hot_reset) + len(data)
    argument = vfio.vfio_pci_hot_reset(
        argsz=size if argsz is None else argsz, flags=flags, count=len(groups) if count is None else count
    )
    reply = bench.ioctl(device, vfio.VFIO_DEVICE_PCI_HOT_RESET, argument, data, reach=reach)
    return Reply(reply.error, reply.value)


@call
def set_ioeventfd(
    bench: Bench,
    *,
    flags: int,
    fd: str | int = "eventfd",
    region: int = 0,
    offset: int = 0,
    data: int = 0,
    argsz: int = 32,
    reach: int | None = None,
    device: str = "device",
) -> Reply:
    argument = vfio.vfio_device_ioeventfd(
        argsz=argsz,
        flags=flags,
        offset=region << _REGION_SHIFT | offset,
        data=data,
        fd=bench.fds[fd] if isinstance(fd, str) else fd,
    )
    reply = bench.ioctl(device, vfio.VFIO_DEVICE_IOEVENTFD, argument, reach=reach)
    return Reply(reply.error, reply.value)


@call
def fill_ioeventfds(bench: Bench, *, count: int, fd: str = "eventfd", device: str = "device") -> Reply:
    """So many of one register, for different data."""
    argument = vfio.vfio_device_ioeventfd(flags=vfio.VFIO_DEVICE_IOEVENTFD_32, offset=0, fd=bench.fds[fd])
    for data in range(count):
        argument.data = data
        bench.kernel.ioctl(bench.fds[device], vfio.VFIO_DEVICE_IOEVENTFD, argument)
    return Reply()


@call
def feature(
    bench: Bench,
    *,
    flags: int,
    data: bytes = b"",
    argsz: int | None = None,
    reach: int | None = None,
    device: str = "device",
) -> Reply:
    size = ctypes.sizeof(vfio.vfio_device_feature) + len(data)
    argument = vfio.vfio_device_feature(argsz=size if argsz is None else argsz, flags=flags)
    return bench.ioctl(device, vfio.VFIO_DEVICE_FEATURE, argument, data, reach=reach)


@call
def dma_buf(
    bench: Bench,
    *,
    region: int = 0,
    ranges: Sequence[tuple[int, int]] = ((0, PAGE),),
    flags: int = 0,
    argsz: int | None = None,
    reach: int | None = None,
    device: str = "device",
) -> Reply:
    """Opens "dma-buf". ranges: offset and length of each part."""
    data = bytes(vfio.vfio_device_feature_dma_buf(region_index=region, flags=flags, nr_ranges=len(ranges)))
    data += b"".join(struct.pack("<QQ", *each) for each in ranges)
    size = ctypes.sizeof(vfio.vfio_device_feature) + len(data)
    operation = vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_DMA_BUF
    argument = vfio.vfio_device_feature(argsz=size if argsz is None else argsz, flags=operation)
    pointer = bench.argument(bytes(argument) + data, reach)
    return bench.open("dma-buf", lambda: bench.kernel.ioctl(bench.fds[device], vfio.VFIO_DEVICE_FEATURE, pointer))


@call
def enter_with_wakeup(
    bench: Bench, *, fd: str | int, reserved: int = 0, reach: int | None = None, device: str = "device"
) -> Reply:
    """LOW_POWER_ENTRY_WITH_WAKEUP. fd: a descriptor by name, or a number that is none."""
    number = bench.fds[fd] if isinstance(fd, str) else fd
    data = bytes(vfio.vfio_device_low_power_entry_with_wakeup(wakeup_eventfd=number, reserved=reserved))
    flags = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
    argument = vfio.vfio_device_feature(argsz=ctypes.sizeof(vfio.vfio_device_feature) + len(data), flags=flags)
    reply = bench.ioctl(device, vfio.VFIO_DEVICE_FEATURE, argument, data, reach=reach)
    return Reply(reply.error, reply.value)


@call
def unknown_device_ioctl(bench: Bench, *, number: int, device: str = "device") -> Reply:
    """number: what is added to VFIO_BASE."""
    return bench.ioctl(device, vfio.VFIO_GET_API_VERSION + number)


@call
def read_region(
    bench: Bench, *, region: int, offset: int = 0, size: int = 4, shown: bool = True, device: str = "device"
) -> Reply:
    """shown: whether what is read is the same on every machine."""
    read: list[bytes] = []

    def read_it() -> int:
        read.append(bench.kernel.pread(bench.fds[device], size, region << _REGION_SHIFT | offset))
        return len(read[0])

    reply = bench.attempt(read_it)
    return Reply(reply.error, reply.value, {"data": read[0].hex()} if read and shown else {})


@call
def write_region(bench: Bench, *, region: int, data: bytes, offset: int = 0, device: str = "device") -> Reply:
    return bench.attempt(lambda: bench.kernel.pwrite(bench.fds[device], data, region << _REGION_SHIFT | offset))


@call
def map_region(
    bench: Bench,
    *,
    region: int = 0,
    offset: int = 0,
    size: int = PAGE,
    protection: int = mman.PROT_READ | mman.PROT_WRITE,
    flags: int = mman.MAP_SHARED,
    name: str = "registers",
    device: str = "device",
) -> Reply:
    """Memory of that name from now on."""

    def map_it() -> int:
        position = region << _REGION_SHIFT | offset
        address = bench.kernel.mmap(size, protection, flags, bench.fds[device], position)
        bench.mapped[name] = (address, size)
        bench.places[name] = address
        return 0

    return bench.attempt(map_it)


@call
def events(bench: Bench, *, name: str = "eventfd") -> Reply:
    """How many events have come since the last look; EAGAIN for none."""
    counts: list[int] = []

    def read_it() -> int:
        counts.append(int.from_bytes(bench.kernel.read(bench.fds[name], 8), "little"))
        return 0

    reply = bench.attempt(read_it)
    return Reply(reply.error, reply.value, {"count": counts[0]} if counts else {})
