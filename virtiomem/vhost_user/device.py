"""VhostUserDevice: serves a virtio-mem device at a socket, to one front end after another."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from pyvfio.errors import VfioError
from pyvfio.memory import SharedMemory
from pyvfio.resource import Resource
from virtiomem.device import VirtioMem
from virtiomem.serving import Listener
from virtiomem.vhost_user.errors import FrontEndError
from virtiomem.vhost_user.events import ConfigChanges, FrontEndEvents
from virtiomem.vhost_user.memory_table import FileRange, GuestRegion
from virtiomem.vhost_user.session import Session


class VhostUserDevice(Resource):
    """Lets the guest of a front end that connects to a socket drive a VirtioMem over the front end's memory.

    When a front end goes, or breaks the protocol, blocks, memory, mappings and requested size stay as they are. If it
    comes back with the same memory, all goes on. Other memory means another machine: the device goes through a system
    reset, and starts with nothing plugged.

    path: the socket's. device: what is served.
    """

    def __init__(
        self,
        path: str,
        device: VirtioMem,
        memory: SharedMemory,
        changes: ConfigChanges,
        events: FrontEndEvents | None = None,
        *,
        packed: bool = True,
    ) -> None:
        """Listen at path, a socket that only its owner may connect to.

        memory: the device's, all of which is its region. changes: the device's events. device, memory and changes stay
        the caller's. events: who is told of what happens. packed: offer packed rings, too. Raises VfioError if the
        socket cannot be made.
        """
        self.path = path
        self.device = device
        self._memory = memory
        self._changes = changes
        self._events = events or FrontEndEvents()
        self._packed = packed
        self._session: Session | None = None
        self._file: FileRange | None = None
        self._listener = Listener(path)
        super().__init__()

    @property
    def connected(self) -> bool:
        """Whether a front end is connected."""
        return self._session is not None

    @property
    def descriptors(self) -> list[int]:
        """The descriptors to wait for: ready() handles one that is readable.

        While a front end is connected the socket is none of them: others wait until it has gone.
        """
        if self.closed:
            return []
        source = [self._listener.fileno()] if self._session is None else self._session.descriptors
        return [self._changes.fd.fileno(), *source]

    def ready(self, fd: int) -> None:
        """fd is readable: do what there is to do. Raises nothing that a front end or guest could cause."""
        if fd == self._changes.fd.fileno():
            if self._changes.fd.pending() and self._session is not None:
                self._session.config_changed()
        elif self._session is None:
            if endpoint := self._listener.accept():
                self._session = Session(
                    endpoint, self.device, self, self._memory.kernel, self._events, packed=self._packed
                )
                self._events.connected()
        else:
            try:
                self._session.ready(fd)
            except (EOFError, FrontEndError) as error:
                self._disconnect(str(error))

    @property
    def next_event_time(self) -> float | None:
        """When, by the device's clock, flush_events() has something to deliver; None if no event waits."""
        return self.device.next_event_time

    def flush_events(self) -> None:
        """Deliver the device's event that was held back, if its time has come."""
        self.device.flush_events()

    def attach(self, regions: Sequence[GuestRegion]) -> None:
        """The front end shares these regions now: take the memory at the region's addresses, if it is other memory.

        If none is shared there, or not any more, everything stays as it is. Raises VfioError if a shared region is not
        just the device's region, or if listeners do not let go of the memory before; blocks stay as they were then. It
        is also raised if the memory cannot be mapped: nothing is attached then, and plugging is BUSY.
        """
        section = self.device.section
        end = section.offset_within_address_space + section.size
        for region in regions:
            region_end = region.guest_address + region.size
            if region.guest_address < end and section.offset_within_address_space < region_end:
                if (region.guest_address, region_end) != (section.offset_within_address_space, end):
                    raise _not_ours(region)
                if region.file != self._file:
                    self._attach(region)

    def _attach(self, region: GuestRegion) -> None:
        self.device.system_reset()
        self._file = None
        assert region.memory.fd is not None
        fd = os.dup(region.memory.fd)
        try:
            self._memory.attach(fd, region.file.offset)
        except VfioError:
            os.close(fd)
            raise
        self._memory.discard(0, self._memory.size)
        self._file = region.file
        self._events.attached(region.size)

    def _disconnect(self, reason: str) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._events.disconnected(reason)

    def _release(self) -> None:
        self._listener.close()
        self._disconnect("closed")

    def __repr__(self) -> str:
        return f"<VhostUserDevice {self.path}>"


def _not_ours(region: GuestRegion) -> VfioError:
    return VfioError(
        errno.EINVAL,
        "attach memory",
        {"guest address": region.guest_address, "size": region.size},
        "the device's region is not just this, and would be discarded with it",
        "Give the region a memory backend of its own, at the device's address and of its size",
    )
