"""VhostUserDevice: serves a virtio-mem device at a socket, to one front end after another."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from pyvfio.errors import DeviceBusy, InvalidArgument
from pyvfio.kernel import EventFd
from pyvfio.memory import SharedMemory
from pyvfio.resource import Resource
from pyvfio.unix_socket import Listener
from virtiomem.device import VirtioMem
from virtiomem.persistence import DescriptorStore, KeptDevice
from virtiomem.vhost_user.aio import Aio
from virtiomem.vhost_user.errors import FrontEndError
from virtiomem.vhost_user.events import ConfigChanges, FrontEndEvents
from virtiomem.vhost_user.foreign_event import Signals
from virtiomem.vhost_user.region_memory import RegionMemory, free_address
from virtiomem.vhost_user.session.keeper import SessionKeeper
from virtiomem.vhost_user.session.session import Session

_log = logging.getLogger(__package__)


class VhostUserDevice(Resource):
    """Lets the guest of a front end that connects to a socket drive a VirtioMem over the front end's memory.

    When a front end goes, or breaks the protocol, blocks, memory, mappings and requested size stay as they are. If it
    comes back with the same memory, all goes on. Other memory means another machine: the device goes through a system
    reset, and starts with nothing plugged; what is in the memory of before stays in it. While the memory that is
    attached is not the connected guest's, every request of that guest is answered BUSY.

    Whatever a front end sends ends its own session at most.

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
        file_offset: int | None = None,
        discard: bool = False,
        kept: KeptDevice | None = None,
        store: DescriptorStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen at path, a socket that only its owner may connect to.

        memory: the device's, all of which is its region. changes: the device's events. device, memory and changes stay
        the caller's. events: who is told of what happens. packed: offer packed rings, too.

        Only memory that is proved to be the region is taken: a file of its own, of its size, that holds nothing.
        file_offset: where the region begins, in bytes, in the one file that has all of the guest's memory. discard:
        discard what is in memory that comes for the first time, instead of refusing it. kept: the device's keeper; what
        it has of the process before is taken up when its memory comes. store: keeps descriptors for the process after
        this one; with what it has of the one before, this goes on where that stood, before it returns: with its memory,
        its front end's session, and its socket. clock: the device's.

        Raises InvalidArgument for a region at address 0, where the memory is that the guest boots from, and VfioError
        if the socket cannot be made.
        """
        if not device.section.offset_within_address_space:
            raise InvalidArgument(
                errno.EINVAL,
                "serve the device",
                {"address": 0},
                "the memory that a guest boots from begins there",
                f"Choose an address where the guest has no memory, such as {free_address([]):#x}",
            )
        self.path = path
        self.device = device
        self._memory = memory
        self._changes = changes
        self._events = events or FrontEndEvents()
        self._packed = packed
        self._session: Session | None = None
        self._is_handed_over = False
        self._kept = kept or KeptDevice(None)
        with ExitStack() as stack:
            self._store = stack.enter_context(DescriptorStore()) if store is None else store
            self._keeper = SessionKeeper(self._kept, self._store)
            self._region_memory = RegionMemory(
                device, memory, self._events, self._kept, self._store, file_offset=file_offset, discard=discard
            )
            self._signals = stack.enter_context(Signals(memory.kernel))
            # An answer, and the message that it is to.
            self._aio = stack.enter_context(Aio(2))
            self._more = EventFd(memory.kernel, "work left over")
            stack.callback(self._more.close)
            self._listener = self._listen(clock)
            stack.callback(self._listener.close)
            stack.callback(self._disconnect, "closed")
            self._region_memory.go_on()
            self._go_on()
            super().__init__()
            self._stack = stack.pop_all()

    def hand_over(self) -> None:
        """Close it, and leave the socket and the front end's session to the process that follows.

        Without a service manager that keeps them the front end is cut off, and nobody listens.
        """
        self._is_handed_over = self._store.is_lasting
        self.close()

    def _listen(self, clock: Callable[[], float]) -> Listener:
        """The socket that was left, which somebody may wait at, or a new one. Raises VfioError."""
        if left := self._store.listening_at(self.path):
            self._listener_name = left.name
            return Listener(self.path, clock, endpoint=left.endpoint, is_ours=left.is_ours)
        listener = Listener(self.path, clock)
        try:
            self._listener_name = self._store.keep_listening(listener.fileno(), self.path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _go_on(self) -> None:
        """Go on with the session that the process before has left, if there is one."""
        record = self._keeper.left()
        if record is None:
            return
        try:
            session = self._session_over(_socket_of(self._keeper.copy(record.connection)))
        except OSError as error:
            _log.warning("%s: a front end has to connect again: %s", self.device.name, error)
            self._keeper.end()
            return
        self._session = session
        self._events.gone_on()
        try:
            session.go_on(record)
        except (EOFError, OSError) as error:
            self._disconnect(str(error))
        except Exception as error:
            # A fault of ours, or of what was kept. It costs this front end its session, and nobody else anything.
            _log.exception("%s: going on with a front end failed", self.device.name)
            self._disconnect(f"{type(error).__name__} in this server: {error}")

    @property
    def connected(self) -> bool:
        """Whether a front end is connected."""
        return self._session is not None

    def release_memory(self) -> int:
        """The guest has ended for good: unplug all, and give its memory back to the host; return how much was plugged.

        The device goes on, with no memory and nothing plugged, for the next front end. In the thread that serves.
        Raises DeviceBusy while a front end is connected, and if blocks could not be unplugged; nothing has changed
        then. Raises VfioError if memory cannot be given back: nothing is plugged then, and this can be tried again.
        """
        if self._session is not None:
            raise DeviceBusy(
                errno.EBUSY,
                f"reset {self.device.name}",
                meaning="a front end is connected, and its guest may run",
                advice="End the virtual machine first",
            )
        return self._region_memory.release()

    @property
    def descriptors(self) -> list[int]:
        """The descriptors to wait for: ready() handles one that is readable.

        While a front end is connected the socket is none of them: others wait until it has gone.
        """
        if self.closed:
            return []
        source = self._listener.descriptors if self._session is None else self._session.descriptors
        return [self._changes.fd.fileno(), *source]

    def ready(self, fd: int) -> None:
        """fd is readable: do what there is to do. Raises nothing that a front end or guest could cause."""
        if fd == self._changes.fd.fileno():
            if self._changes.fd.pending() and self._session is not None:
                self._session.config_changed()
        elif self._session is None:
            self._connect()
        else:
            try:
                self._session.ready(fd)
            except (EOFError, FrontEndError) as error:
                self._disconnect(str(error))
            except Exception as error:
                # A fault of ours. It costs this front end its session, and nobody else anything.
                _log.exception("%s: handling a front end failed", self.device.name)
                self._disconnect(f"{type(error).__name__} in this server: {error}")

    @property
    def next_event_time(self) -> float | None:
        """When, by the device's clock, flush_events() has something to deliver, or somebody is let in again.

        None if nothing waits.
        """
        pause_end = self._listener.pause_end if self._session is None else None
        times = [due for due in (self.device.next_event_time, pause_end) if due is not None]
        return min(times) if times else None

    def flush_events(self) -> None:
        """Deliver the device's event that was held back, if its time has come."""
        self.device.flush_events()

    def _connect(self) -> None:
        endpoint = self._listener.accept()
        if endpoint is None:
            return
        self._region_memory.forget()
        self._session = self._session_over(endpoint)
        self._events.connected()
        self._session.keep()

    def _session_over(self, endpoint: socket.socket) -> Session:
        return Session(
            endpoint,
            self.device,
            self._region_memory,
            self._memory.kernel,
            self._signals,
            self._aio,
            self._more,
            self._events,
            self._kept,
            self._keeper,
            packed=self._packed,
        )

    def _disconnect(self, reason: str) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                if self._is_handed_over:
                    session.leave()
                    return
                session.close()
            except OSError as error:
                # What came from the front end is closed whatever it says to that.
                _log.warning("%s: closing what a front end sent: %s", self.device.name, error)
            self._keeper.end()
            self._events.disconnected(reason)

    def _release(self) -> None:
        if self._is_handed_over:
            self._listener.leave()
        else:
            self._store.drop(self._listener_name)
        self._stack.close()

    def __repr__(self) -> str:
        return f"<VhostUserDevice {self.path}>"


def _socket_of(fd: int) -> socket.socket:
    """A socket over fd, which is closed if it is none. Raises OSError."""
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
