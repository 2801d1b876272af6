"""Calls on a device that can be migrated, and on the streams of its state."""

from __future__ import annotations

import ctypes
import struct

from pyvfio.abi import vfio
from tests.conformance.bench import PAGE, Bench
from tests.conformance.step import Reply, call

_GET, _SET = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET


@call
def get_state(bench: Bench, *, device: str = "device") -> Reply:
    reply, data = _feature(bench, device, _GET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, bytes(8))
    state, fd = struct.unpack("<Ii", data)
    return Reply(reply.error, reply.value, {} if reply.error else {"state": state, "fd": fd})


@call
def set_state(bench: Bench, *, state: int, stream: str = "stream", device: str = "device") -> Reply:
    """stream: the name of the descriptor it gives, if it gives one."""
    data = struct.pack("<Ii", state, 7)
    reply, data = _feature(bench, device, _SET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, data)
    told, fd = struct.unpack("<Ii", data)
    if reply.error is None and fd >= 0:
        bench.fds[stream] = fd
    return Reply(reply.error, reply.value, {"state": told, "stream": fd >= 0})


@call
def has_data(bench: Bench, *, device: str = "device") -> Reply:
    """How much it is is the device's affair."""
    reply, data = _feature(bench, device, _GET | vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, bytes(8))
    return Reply(reply.error, reply.value, {} if reply.error else {"is_some": any(data)})


@call
def read_stream(bench: Bench, *, size: int = 8, stream: str = "stream") -> Reply:
    return bench.attempt(lambda: len(bench.kernel.read(bench.fds[stream], size)))


@call
def write_stream(bench: Bench, *, data: bytes = bytes(8), stream: str = "stream") -> Reply:
    return bench.attempt(lambda: bench.kernel.write(bench.fds[stream], data))


@call
def save(bench: Bench, *, stream: str = "stream") -> Reply:
    """All that is left of a stream, for load()."""

    def read_all() -> int:
        parts = iter(lambda: bench.kernel.read(bench.fds[stream], PAGE), b"")
        bench.saved = b"".join(parts)
        return 0

    return bench.attempt(read_all)


@call
def load(bench: Bench, *, stream: str = "stream") -> Reply:
    """What was saved last."""

    def write_all() -> int:
        for start in range(0, len(bench.saved), PAGE):
            bench.kernel.write(bench.fds[stream], bench.saved[start : start + PAGE])
        return 0

    return bench.attempt(write_all)


@call
def precopy_info(
    bench: Bench, *, argsz: int = 24, request: int = vfio.VFIO_MIG_GET_PRECOPY_INFO, stream: str = "stream"
) -> Reply:
    reply = bench.ioctl(stream, request, vfio.vfio_precopy_info(argsz=argsz))
    return Reply(reply.error, reply.value, {} if reply.error else {"dirty_bytes": reply.out["dirty_bytes"]})


@call
def start_logging(
    bench: Bench,
    *,
    ranges: tuple[tuple[int, int], ...],
    page_size: int = PAGE,
    count: int | None = None,
    device: str = "device",
) -> Reply:
    """count: of ranges, if not as many as there are."""
    address = bench.address("bitmap", 0)
    told = b"".join(struct.pack("<QQ", *each) for each in ranges)
    ctypes.memmove(address, told, len(told))
    data = struct.pack("<QIIQ", page_size, len(ranges) if count is None else count, 0, address)
    reply, _ = _feature(bench, device, _SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, data)
    return Reply(reply.error, reply.value)


@call
def report_logged(
    bench: Bench, *, iova: int, length: int, page_size: int = PAGE, memory: str = "bitmap", device: str = "device"
) -> Reply:
    data = struct.pack("<QQQQ", iova, length, page_size, bench.address(memory, 0))
    reply, _ = _feature(bench, device, _GET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, data)
    return Reply(reply.error, reply.value)


def _feature(bench: Bench, device: str, flags: int, data: bytes) -> tuple[Reply, bytes]:
    """And the data as it stands afterwards."""
    argument = vfio.vfio_device_feature(argsz=8 + len(data), flags=flags)
    reply = bench.ioctl(device, vfio.VFIO_DEVICE_FEATURE, argument, data)
    return reply, bytes.fromhex(str(reply.out["data"]))
