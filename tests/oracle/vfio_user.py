"""A PCI function that does nothing, served over vfio-user: QEMU tells it every DMA mapping of the guest's memory.

Source: QEMU, docs/interop/vfio-user.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyvfio.abi import vfio
from virtiomem.runs import Run
from virtiomem.trace import DmaLog

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO = 1, 2, 3, 4, 5
GET_IRQ_INFO, REGION_READ, REGION_WRITE = 7, 9, 10

_HEADER = struct.Struct("<HHIII")
_REPLY, _ERROR = 1, 1 << 5
_CONFIG_SIZE = 256
_CAPABILITIES = b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}}\0'


@dataclass(frozen=True, slots=True)
class _Mapped:
    """offset: in the memory that fd is."""

    size: int
    fd: int
    offset: int


class DmaWatcher:
    """The server of one function, in a thread of its own until close().

    It tells log of each map and unmap of region as mapper; log may refuse a map. Whatever lies elsewhere is taken.
    """

    def __init__(self, path: Path, mapper: int, region: Run, log: DmaLog) -> None:
        """path: of the socket, which QEMU connects to."""
        self.path = path
        self.unmapped: list[bytes] = []
        """The first 8 bytes of each mapping of the region, at the moment QEMU asked to unmap it."""
        self.unmap_refusal: int | None = None
        """The errno with which unmaps of the region are refused."""
        self._mapper = mapper
        self._region = region
        self._log = log
        self._mapped: dict[int, _Mapped] = {}
        self._config = bytearray(_CONFIG_SIZE)
        # Vendor, device, and a class that no driver knows.
        self._config[:12] = bytes.fromhex("f41affff00000000000000ff")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After QEMU has ended."""
        # Wakes up a server that nobody has connected to.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for mapped in self._mapped.values():
            os.close(mapped.fd)

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection, suppress(EOFError, ConnectionResetError, BrokenPipeError):
            while True:
                self._message(connection)

    def _message(self, connection: socket.socket) -> None:
        header, fds = _receive_with_fds(connection, _HEADER.size)
        number, command, size, _, _ = _HEADER.unpack(header)
        payload, _ = _receive_with_fds(connection, size - _HEADER.size)
        failure, reply = 0, b""
        try:
            reply = self._answer(command, payload, fds)
        except OSError as error:
            failure = error.errno or errno.EIO
        finally:
            for fd in fds:
                os.close(fd)
        answered = _REPLY | (_ERROR if failure else 0)
        connection.sendall(_HEADER.pack(number, command, _HEADER.size + len(reply), answered, failure) + reply)

    def _answer(self, command: int, payload: bytes, fds: list[int]) -> bytes:
        match command:
            case _ if command == VERSION:
                return payload[:4] + _CAPABILITIES
            case _ if command == DMA_MAP:
                _, _, offset, iova, size = struct.unpack_from("<IIQQQ", payload)
                self._map(iova, size, fds, offset)
                return b""
            case _ if command == DMA_UNMAP:
                _, _, iova, size = struct.unpack_from("<IIQQ", payload)
                self._unmap(iova, size)
                return payload[:24]
            case _ if command == GET_INFO:
                kind = vfio.VFIO_DEVICE_FLAGS_PCI | vfio.VFIO_DEVICE_FLAGS_RESET
                return struct.pack("<IIII", 16, kind, vfio.VFIO_PCI_NUM_REGIONS, vfio.VFIO_PCI_NUM_IRQS)
            case _ if command == GET_REGION_INFO:
                (index,) = struct.unpack_from("<I", payload, 8)
                is_config = index == vfio.VFIO_PCI_CONFIG_REGION_INDEX
                access = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE
                return struct.pack("<IIIIQQ", 32, access * is_config, index, 0, _CONFIG_SIZE * is_config, 0)
            case _ if command == GET_IRQ_INFO:
                (index,) = struct.unpack_from("<I", payload, 8)
                return struct.pack("<IIII", 16, 0, index, 0)
            case _ if command == REGION_READ:
                offset, _, size = struct.unpack_from("<QII", payload)
                return payload[:16] + bytes(self._config[offset : offset + size]).ljust(size, b"\0")
            case _ if command == REGION_WRITE:
                return payload[:16]
            case _:
                return b""

    def _map(self, iova: int, size: int, fds: list[int], offset: int) -> None:
        if not self._in_region(iova):
            return
        self._log.map(self._mapper, iova, size)
        self._mapped[iova] = _Mapped(size, os.dup(fds[0]), offset)

    def _unmap(self, iova: int, size: int) -> None:
        if not self._in_region(iova):
            return
        self._log.unmap(self._mapper, iova, size)
        if self.unmap_refusal is not None:
            raise OSError(self.unmap_refusal, os.strerror(self.unmap_refusal))
        for start in [start for start in self._mapped if iova <= start < iova + size]:
            mapped = self._mapped.pop(start)
            self.unmapped.append(os.pread(mapped.fd, 8, mapped.offset))
            os.close(mapped.fd)

    def _in_region(self, iova: int) -> bool:
        return self._region.start <= iova < self._region.end


def _receive_with_fds(connection: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Raises EOFError at the end of the connection."""
    data, fds = b"", array.array("i")
    while len(data) < size:
        more, ancillary, _, _ = connection.recvmsg(size - len(data), socket.CMSG_SPACE(8 * fds.itemsize))
        if not more:
            raise EOFError
        data += more
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
