"""Server: a device at a socket, for one client at a time, such as QEMU's vfio-user-pci."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from pyvfio.errors import InvalidArgument
from pyvfio.kernel import EventFd, Kernel, LinuxKernel
from pyvfio.resource import Resource
from pyvfio.unix_socket import Listener, Permissions
from pyvfio.vfio_user.connection import Connection
from pyvfio.vfio_user.errors import PeerError
from pyvfio.vfio_user.events import ServerEvents
from pyvfio.vfio_user.guest_range import FilePlace
from pyvfio.vfio_user.listener import DmaListener
from pyvfio.vfio_user.memory_commands import FileOf
from pyvfio.vfio_user.record import SessionRecord
from pyvfio.vfio_user.served import Served
from pyvfio.vfio_user.session import Session


class Server(Resource):
    """Serves a device to one client at a time, over the vfio-user protocol. The client is not trusted.

    While there is a client, whoever else connects is turned away. However a session ends, these are made in this order,
    whether one of them fails or not: the client's interrupts off, reset if the device can be, bus master off, and what
    was mapped of the client's memory unmapped. The device, and what listens, stay the caller's, and stay open.

    serve_forever() serves in the thread that calls it, until stop(). A loop of one's own waits until one of descriptors
    is readable, or until next_event_time; then it calls ready() for each that is, and flush_events(). No call waits for
    the client. All but stop() are for one thread.
    path: of the socket; None for a server that takes up a connection, and lets nobody else in.
    """

    def __init__(
        self,
        path: str | None,
        served: Served,
        listener: DmaListener,
        *,
        events: ServerEvents | None = None,
        permissions: Permissions | None = None,
        patience: float = 10.0,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen at path.

        served: the device, a ServedDevice for example. listener: what maps the client's memory, of a GuestMemory for
        example; NoMemory() for a device without DMA. permissions: who may connect, beside root; None for this user.
        patience: seconds that the client has to begin its session, for the rest of a message that it has begun to send,
        and to read its replies. clock: by which next_event_time is told.
        Raises VfioError if another process listens at path, or if the socket cannot be made.
        """
        self.path = path
        self._served = served
        self._listener = listener
        self._events = events or ServerEvents()
        self._patience = patience
        self._kernel = kernel or LinuxKernel()
        self._clock = clock
        self._session: Session | None = None
        self._stop = EventFd(self._kernel, "stop", is_owned=True)
        try:
            self._door = None if path is None else Listener(path, clock, permissions=permissions or Permissions())
            super().__init__()
        except BaseException:
            self._stop.close()
            raise

    @classmethod
    def from_connection(
        cls,
        fd: int,
        record: SessionRecord,
        served: Served,
        listener: DmaListener,
        *,
        files: FileOf | None = None,
        events: ServerEvents | None = None,
        patience: float = 10.0,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Server:
        """A server without a socket that goes on with a session, as go_on(). Takes fd over, also when this fails."""
        server = cls(None, served, listener, events=events, patience=patience, kernel=kernel, clock=clock)
        try:
            server.go_on(fd, record, files)
        except BaseException:
            server.close()
            raise
        return server

    # As a source of an event loop.

    @property
    def descriptors(self) -> list[int]:
        """The descriptors to wait for until one is readable. They may be others after every call."""
        door = [] if self._door is None else self._door.descriptors
        return door if self._session is None else [*door, self._session.fileno()]

    def ready(self, fd: int) -> None:
        """fd is readable: do what there is to do, without waiting. Raises nothing that a client could cause."""
        if self._door is not None and fd == self._door.fileno():
            self._let_in()
        elif self._session is not None and fd == self._session.fileno():
            self._attempt(self._session.serve)

    @property
    def next_event_time(self) -> float | None:
        """When, by the clock, flush_events() is to be called at the latest; None if nothing waits for it."""
        session = None if self._session is None else self._session.due
        door = None if self._door is None else self._door.pause_end
        return min((due for due in (session, door) if due is not None), default=None)

    def flush_events(self) -> None:
        """Do what is due by now. To be called after every turn of a loop."""
        if self._session is not None:
            self._attempt(self._session.tick)

    # By itself.

    def serve_forever(self) -> None:
        """Serve in this thread, until stop(). The session goes on: another call, or close(), follows."""
        while self._turn():
            pass

    def stop(self) -> None:
        """End serve_forever(), now or when it begins. Safe from any thread, and from a signal handler."""
        self._stop.signal()

    @property
    def connected(self) -> bool:
        """Whether there is a client. Safe from any thread: once it is false, the end of the session is made."""
        return self._session is not None

    # For a process that goes on.

    @property
    def settled(self) -> bool:
        """Whether everything is answered that the client has asked so far: then its session can be handed over."""
        return self._session is None or self._session.settled

    def record(self) -> SessionRecord | None:
        """What a process that goes on with the session has to know; None without a client."""
        return None if self._session is None else self._session.record()

    def go_on(self, fd: int, record: SessionRecord, files: FileOf | None = None) -> None:
        """Go on with the session of a process before this one, unnoticed by the client.

        fd: the connection, which belongs to the server from now on, also when this fails. record: what record() told
        there. files: the descriptors of the files that the client's memory is in; None if there are none. The device is
        the same one, as it was left; the listener is told of every range, and finds what is mapped already.
        Raises VfioError if there is a client, or fd is no such connection, and OSError.
        """
        connection = Connection.over(fd, patience=self._patience, clock=self._clock)
        if self._session is not None:
            connection.close()
            raise InvalidArgument(errno.EBUSY, "go on with a session", meaning="there is a client already")
        session = self._new_session(connection)
        try:
            session.go_on(record, files or _no_file)
        except BaseException:
            connection.close()
            raise
        self._session = session

    def hand_over(self) -> int | None:
        """Close the server and leave the client, the device and all that is mapped as they are.

        Returns the descriptor of the connection, which is the caller's; None without a client. Call it when settled is
        true: what has come in part is lost.
        """
        session, self._session = self._session, None
        fd = None if session is None else session.leave()
        self.close()
        return fd

    def _turn(self) -> bool:
        due = self.next_event_time
        timeout = None if due is None else max(due - self._clock(), 0)
        ready = self._kernel.poll([self._stop.fileno(), *self.descriptors], timeout)
        if self._stop.fileno() in ready:
            self._stop.pending()
            return False
        for fd in ready:
            self.ready(fd)
        self.flush_events()
        return True

    def _let_in(self) -> None:
        assert self._door is not None
        endpoint = self._door.accept()
        if endpoint is None:
            return
        if self._session is not None:
            endpoint.close()
            self._events.turned_away()
            return
        try:
            connection = Connection(endpoint, patience=self._patience, clock=self._clock)
        except OSError:
            # No descriptor is left: the next client may have more luck.
            endpoint.close()
            return
        self._session = self._new_session(connection)
        self._events.connected()

    def _new_session(self, connection: Connection) -> Session:
        return Session(
            connection, self._served, self._listener, self._events, patience=self._patience, clock=self._clock
        )

    def _attempt(self, step: Callable[[], None]) -> None:
        """Make a step of the session, or its end."""
        try:
            step()
        except PeerError as error:
            self._end(error.meaning)
        except OSError as error:
            # No descriptor left, for example.
            self._end(str(error))

    def _end(self, reason: str) -> None:
        session = self._session
        if session is not None:
            try:
                session.end()
            finally:
                self._session = None
            self._events.disconnected(reason)

    def _release(self) -> None:
        try:
            if not self._inherited:
                self._end("this server has ended")
        finally:
            if self._door is not None:
                self._door.close()
            self._stop.close()

    def __repr__(self) -> str:
        return f"<Server {self.path or 'of a connection'}{', with a client' if self._session else ''}>"


def _no_file(place: FilePlace) -> int:
    arguments = {"device": place.device, "inode": place.inode}
    raise InvalidArgument(errno.EBADF, "go on with a session", arguments, "the file's descriptor was not passed on")
