"""VhostUserDevice: a virtio-mem device at a socket, for one front end after another."""

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
    """Lets the guest of whoever connects to a socket drive a VirtioMem over the memory that comes from there.

    A front end that goes, or breaks the protocol, leaves blocks, memory, mappings and requested size as they are. If it
    comes back with the same memory, all goes on. With other memory the machine is another: the device goes through a
    system reset, and starts with nothing plugged.
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
        """Listen at path, a socket only its owner may connect to. All of memory is the device's region; changes are
        the device's events. They stay the caller's. packed: offer packed rings beside split ones. Raises VfioError if
        the socket cannot be.
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
        return self._session is not None

    @property
    def descriptors(self) -> list[int]:
        """What to call ready() for when it is readable. While a front end is connected, others wait."""
        if self.closed:
            return []
        source = [self._listener.fileno()] if self._session is None else self._session.descriptors
        return [self._changes.fd.fileno(), *source]

    def ready(self, fd: int) -> None:
        """Do what is there to do. Raises nothing that a front end or guest could cause."""
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
        """See VirtioMem.next_event_time."""
        return self.device.next_event_time

    def flush_events(self) -> None:
        """See VirtioMem.flush_events."""
        self.device.flush_events()

    def attach(self, regions: Sequence[GuestRegion]) -> None:
        """See RegionMemory. Memory that is not shared, or no longer, leaves everything as it is.

        Raises VfioError, with the blocks as they were, if listeners do not let go of the memory before; or with nothing
        attached: plugging is BUSY then.
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
