"""Vring: all that the front end says of a ring, and the descriptors that go with it."""

from __future__ import annotations

import errno
import os
import struct

from pyvfio.kernel import Kernel
from virtiomem.vhost_user.abi import virtio_config, virtio_ring
from virtiomem.vhost_user.abi.vhost_types import vhost_vring_addr
from virtiomem.vhost_user.chain import Chain
from virtiomem.vhost_user.errors import FrontEndError
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.packed_queue import PackedQueue
from virtiomem.vhost_user.split_queue import SplitQueue
from virtiomem.vhost_user.virtqueue import RingFeatures, RingLayout, Virtqueue

_LARGEST_RING = 1 << 15
_ONE = struct.pack("=Q", 1)


class Vring:
    """A ring from its description to its service: it runs once the front end has given all of it and enabled it.

    Owns its three event descriptors: kick (the driver has something), call (the driver should look), error.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.size = 0
        self.base = 0
        self.enabled = False
        self.kick: int | None = None
        self._call: int | None = None
        self._error: int | None = None
        self._address: vhost_vring_addr | None = None
        self._queue: Virtqueue | None = None

    @property
    def running(self) -> bool:
        return self._queue is not None

    def set_size(self, size: int, *, packed: bool) -> None:
        """In descriptors. Raises FrontEndError."""
        if not 0 < size <= _LARGEST_RING or (size & (size - 1) and not packed):
            raise FrontEndError(errno.EINVAL, "vhost-user SET_VRING_NUM", {"num": size}, "no ring has that size")
        self.size = size

    def set_address(self, address: vhost_vring_addr) -> None:
        self._address = address

    def set_kick(self, fd: int) -> None:
        self.kick = self._replace(self.kick, fd)

    def set_call(self, fd: int | None) -> None:
        """None: the driver polls."""
        self._call = self._replace(self._call, fd)

    def set_error(self, fd: int | None) -> None:
        self._error = self._replace(self._error, fd)

    def start(self, memory: MemoryTable, features: int) -> bool:
        """Run if everything is there; whether it has begun to. Raises QueueBroken for a ring that cannot be."""
        address = self._address
        if self._queue is not None or not self.enabled or self.kick is None or not self.size or address is None:
            return False
        layout = RingLayout(self.size, address.desc_user_addr, address.avail_user_addr, address.used_user_addr)
        negotiated = RingFeatures(
            indirect=bool(features & 1 << virtio_ring.VIRTIO_RING_F_INDIRECT_DESC),
            event_idx=bool(features & 1 << virtio_ring.VIRTIO_RING_F_EVENT_IDX),
        )
        kind = PackedQueue if features & 1 << virtio_config.VIRTIO_F_RING_PACKED else SplitQueue
        self._queue = kind(memory, layout, negotiated, self.base)
        return True

    def halt(self) -> None:
        """Run no more until started again, from where it stands now."""
        if self._queue is not None:
            self.base = self._queue.base
            self._queue = None

    def close(self) -> None:
        """Halt, and close the descriptors. Closing twice is harmless."""
        self.halt()
        self.kick = self._replace(self.kick, None)
        self.set_call(None)
        self.set_error(None)

    def acknowledge_kick(self) -> None:
        """kick is readable: forget kicks so far, what they were for is there to be popped. Raises FrontEndError."""
        assert self.kick is not None
        try:
            if len(self._kernel.read(self.kick, 8)) == 8:
                return
        except BlockingIOError:
            return
        except OSError as error:
            raise _no_eventfd(error.errno or errno.EIO) from error
        raise _no_eventfd(errno.EINVAL)

    def pop(self) -> Chain | None:
        """The next chain; after the last, the driver is asked to kick for more. Raises QueueBroken."""
        if self._queue is None:
            return None
        if (chain := self._queue.pop()) is None:
            self._queue.enable_kicks()
            chain = self._queue.pop()
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Give chain back with written bytes in it, and tell the driver if it wants to know."""
        assert self._queue is not None
        self._queue.push(chain, written)
        if self._queue.must_notify() and self._call is not None:
            self._signal(self._call)

    def kick_self(self) -> None:
        """There is more to pop, later."""
        if self.kick is not None:
            self._signal(self.kick)

    def signal_error(self) -> None:
        """Tell the front end that the ring is broken, if it wants to know."""
        if self._error is not None:
            self._signal(self._error)

    def _signal(self, fd: int) -> None:
        try:
            self._kernel.write(fd, _ONE)
        except BlockingIOError:
            # The counter is full: whoever reads it will know.
            return
        except OSError as error:
            raise _no_eventfd(error.errno or errno.EIO) from error

    def _replace(self, old: int | None, new: int | None) -> int | None:
        if old is not None:
            self._kernel.close(old)
        if new is not None:
            os.set_blocking(new, False)
        return new


def _no_eventfd(code: int) -> FrontEndError:
    return FrontEndError(code, "vhost-user ring", meaning="a descriptor of its is no eventfd")
