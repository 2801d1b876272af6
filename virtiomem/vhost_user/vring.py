"""Vring: a ring as the front end describes it, and the event descriptors that belong to it."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from typing import Final

from virtiomem.vhost_user.abi import virtio_config, virtio_ring
from virtiomem.vhost_user.abi.vhost_types import vhost_vring_addr
from virtiomem.vhost_user.chain import Chain
from virtiomem.vhost_user.errors import FrontEndError
from virtiomem.vhost_user.foreign_event import ForeignEvent, Signals
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.packed_queue import PackedQueue
from virtiomem.vhost_user.session.record import Keep, RingRecord
from virtiomem.vhost_user.split_queue import SplitQueue
from virtiomem.vhost_user.virtqueue import RingFeatures, RingLayout, Virtqueue

_LARGEST_RING: Final = 1 << 15


class Vring:
    """A ring from its description to its service: start() runs it once the front end has told all and enabled it.

    It owns three event descriptors: kick (the driver has made something available), call (the driver is to look) and
    error (the ring is broken).
    """

    def __init__(self, signals: Signals) -> None:
        """signals: what signals the event descriptors."""
        self._signals = signals
        self._size = 0
        self._base = 0
        self._enabled = False
        self._kick: ForeignEvent | None = None
        self._call: ForeignEvent | None = None
        self._error: ForeignEvent | None = None
        self._address: vhost_vring_addr | None = None
        self._queue: Virtqueue | None = None
        self._run = ""

    @property
    def running(self) -> bool:
        """Whether chains are taken from it: from start() to halt()."""
        return self._queue is not None

    @property
    def kick(self) -> int | None:
        """The descriptor that is readable when the driver has kicked; None while the ring does not run."""
        return self._kick.fileno() if self._kick is not None and self.running else None

    @property
    def base(self) -> int:
        """Where the ring stands, as VHOST_USER_GET_VRING_BASE tells it."""
        return self._base if self._queue is None else self._queue.base

    @property
    def run(self) -> str:
        """Which of its runs this is, or the last one was: no two have the same."""
        return self._run

    def base_after(self, chain: Chain) -> int:
        """What base is when chain, which was taken last, is given back."""
        assert self._queue is not None
        return self._queue.base_after(chain)

    def set_size(self, size: int, *, packed: bool) -> None:
        """size: descriptors. packed: sizes that are no power of two are taken, too. Raises FrontEndError."""
        if not 0 < size <= _LARGEST_RING or (size & (size - 1) and not packed):
            raise FrontEndError(errno.EINVAL, "vhost-user SET_VRING_NUM", {"num": size}, "no ring has that size")
        self._size = size

    def set_base(self, base: int) -> None:
        """Where the ring stands when it starts. Only while it does not run."""
        self._base = base

    def set_address(self, address: vhost_vring_addr) -> None:
        """Where the ring's areas are in the front end's address space. It halts; start() finds it there."""
        self.halt()
        self._address = address

    def set_enabled(self, enabled: bool) -> None:
        """Whether start() may run it. A ring that runs runs on."""
        self._enabled = enabled

    def set_kick(self, fd: int | None) -> None:
        """fd belongs to the ring from now on, as it does for set_call() and set_error(). Raises FrontEndError."""
        self._kick = self._replace(self._kick, fd)

    def set_call(self, fd: int | None) -> None:
        """None: the driver polls instead of being called."""
        self._call = self._replace(self._call, fd)

    def set_error(self, fd: int | None) -> None:
        """None: the front end does not want to hear of a broken ring."""
        self._error = self._replace(self._error, fd)

    def start(self, memory: MemoryTable, features: int) -> bool:
        """Run, if the front end has told all there is to know; return whether the ring has begun to run just now.

        features: what the driver negotiated. Raises QueueBroken for a ring that cannot be.
        """
        if self.running or not self._is_complete:
            return False
        self._queue = self._made(memory, features, self._base)
        self._run = secrets.token_hex(4)
        return True

    def go_on(self, memory: MemoryTable, features: int, run: str, last: tuple[int, int] | None) -> bool:
        """As start(), for a ring that ran in a process which has ended, and was described as it was there.

        run, last: which run it was, and what the queue's base_after_process() is told. The driver is called: it may not
        have been. Raises QueueBroken, FrontEndError.
        """
        if self.running or not self._is_complete:
            return False
        base = self._made(memory, features, self._base).base_after_process(last)
        self._queue = self._made(memory, features, base)
        self._run = run
        if self._call is not None:
            self._call.signal()
        return True

    @property
    def _is_complete(self) -> bool:
        return self._enabled and self._kick is not None and bool(self._size) and self._address is not None

    def _made(self, memory: MemoryTable, features: int, base: int) -> Virtqueue:
        address = self._address
        assert address is not None
        layout = RingLayout(self._size, address.desc_user_addr, address.avail_user_addr, address.used_user_addr)
        negotiated = RingFeatures(
            indirect=bool(features & 1 << virtio_ring.VIRTIO_RING_F_INDIRECT_DESC),
            event_idx=bool(features & 1 << virtio_ring.VIRTIO_RING_F_EVENT_IDX),
        )
        kind = PackedQueue if features & 1 << virtio_config.VIRTIO_F_RING_PACKED else SplitQueue
        return kind(memory, layout, negotiated, base)

    def record(self, keep: Keep) -> RingRecord:
        """What describe() makes a ring like this of. keep: has its descriptors kept."""
        address = self._address
        areas = None if address is None else (address.desc_user_addr, address.avail_user_addr, address.used_user_addr)
        kick, call, error = (
            None if event is None else keep(event, event.fileno(), kind)
            for event, kind in ((self._kick, "kick"), (self._call, "call"), (self._error, "error"))
        )
        run = self._run if self.running else None
        return RingRecord(self._size, self._base, self._enabled, areas, run, kick, call, error)

    def describe(self, record: RingRecord, use: Callable[[str], int]) -> None:
        """Be a ring like record, which does not run. use: gives a copy of a descriptor, by its name, to the ring.

        Raises FrontEndError, and what use raises.
        """
        for name, take in ((record.kick, self.set_kick), (record.call, self.set_call), (record.error, self.set_error)):
            take(None if name is None else use(name))
        self._size, self._base, self._enabled = record.size, record.base, record.enabled
        if record.areas is not None:
            descriptors, driver, device = record.areas
            self._address = vhost_vring_addr(desc_user_addr=descriptors, avail_user_addr=driver, used_user_addr=device)

    def halt(self) -> None:
        """Stop running. The next start() goes on from where the ring stands now."""
        self._base = self.base
        self._queue = None

    def close(self) -> None:
        """Halt, and close the descriptors. Closing twice is harmless."""
        self.halt()
        self.set_kick(None)
        self.set_call(None)
        self.set_error(None)

    def reset(self) -> None:
        """Forget all that the front end has told of the ring: it is disabled, as it was in the beginning."""
        self.close()
        self._size = self._base = 0
        self._enabled = False
        self._address = None

    def acknowledge_kick(self) -> None:
        """Reset the kick, which is readable. pop() has what it was for. Raises FrontEndError."""
        assert self._kick is not None
        self._kick.take()

    def pop(self) -> Chain | None:
        """The next chain. None after the last: the driver has been asked to kick for more then. Raises QueueBroken."""
        if self._queue is None:
            return None
        if (chain := self._queue.pop()) is None:
            self._queue.enable_kicks()
            chain = self._queue.pop()
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Give chain back with written bytes in it, and call the driver if it asked for that. Raises FrontEndError."""
        assert self._queue is not None
        self._queue.push(chain, written)
        if self._queue.must_notify() and self._call is not None:
            self._call.signal()

    def signal_error(self) -> None:
        """Tell the front end that the ring is broken, if it wants to know. Raises FrontEndError."""
        if self._error is not None:
            self._error.signal()

    def _replace(self, old: ForeignEvent | None, fd: int | None) -> ForeignEvent | None:
        new = None if fd is None else ForeignEvent(fd, self._signals)
        if old is not None:
            old.close()
        return new
