"""Session: a front end from its connection to its end."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.kernel import EventFd, Kernel
from pyvfio.texts import lines_of, number_of
from virtiomem.device import VirtioMem
from virtiomem.persistence import KeptDevice
from virtiomem.vhost_user.aio import Aio
from virtiomem.vhost_user.connection import Connection
from virtiomem.vhost_user.events import FrontEndEvents
from virtiomem.vhost_user.foreign_event import Signals
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.messages import Message
from virtiomem.vhost_user.region_memory import RegionMemory
from virtiomem.vhost_user.service import Service
from virtiomem.vhost_user.session.keeper import SessionKeeper
from virtiomem.vhost_user.session.negotiation import Negotiation
from virtiomem.vhost_user.session.record import Keep, SessionRecord
from virtiomem.vhost_user.vring import Vring

_TURN: Final = 32
"""How many messages are handled before other sources have their turn."""


class Session:
    """A front end's connection, and what belongs to it.

    The device outlives the session; and where a service manager keeps descriptors, the session outlives the process.
    """

    def __init__(
        self,
        endpoint: socket.socket,
        device: VirtioMem,
        memory: RegionMemory,
        kernel: Kernel,
        signals: Signals,
        aio: Aio,
        more: EventFd,
        events: FrontEndEvents,
        kept: KeptDevice,
        keeper: SessionKeeper,
        *,
        packed: bool,
    ) -> None:
        """endpoint: the connection, which belongs to the session from now on. memory: what takes the region's memory.

        kernel: what maps the memory. signals: what signals the front end's eventfds. aio: for two operations. more:
        signalled, by the session, while there is work left over for another turn. events: who is told of what happens.
        kept: as Service has it. keeper: keeps the session. packed: offer packed rings, too.
        """
        self._connection = Connection(endpoint, aio)
        # Counts the messages that were taken out of it: a process that is killed leaves it right.
        self._taken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._count = 0
        self._keeper = keeper
        self._table = MemoryTable(kernel)
        self._more = more
        self._vring = Vring(signals)
        # Whoever comes back has been away while the host resized, or did not read the last it was told.
        untold = memory.known
        self._service = Service(device, self._table, self._vring, memory, events, more, kept, change_untold=untold)
        self._negotiation = Negotiation(device, memory, self._table, self._vring, self._service, events, packed=packed)

    @property
    def descriptors(self) -> list[int]:
        """The descriptors to wait for: ready() handles one that is readable."""
        kick = self._vring.kick
        return [self._connection.fileno(), self._more.fileno(), *([] if kick is None else [kick])]

    def ready(self, fd: int) -> None:
        """fd is readable: handle what came.

        Raises EOFError when the front end has gone, and FrontEndError when its connection must be closed.
        """
        if fd == self._connection.fileno():
            for _ in range(_TURN):
                message = self._connection.receive()
                if message is None:
                    return
                with message:
                    reply = self._negotiation.handle(message)
                    self._end(message, reply)
        elif fd == self._more.fileno():
            self._more.pending()
            self._service.serve()
        elif fd == self._vring.kick:
            self._service.kicked()

    def config_changed(self) -> None:
        """Tell the guest that the config has changed, now or when its driver has started."""
        self._service.config_changed()

    def close(self) -> None:
        """Close all that came from the front end, and reset the device, whose blocks stay as they are."""
        with ExitStack() as last:
            last.callback(self._close_taken)
            last.callback(self._connection.close)
            last.callback(self._table.close)
            last.callback(self._vring.close)
            last.callback(self._service.close)

    def leave(self) -> None:
        """Close this process's copies of all that came from the front end: another process goes on with it."""
        with ExitStack() as last:
            last.callback(self._close_taken)
            last.callback(self._connection.close)
            last.callback(self._table.close)
            last.callback(self._vring.close)
            last.callback(self._service.set_channel, None)

    def _close_taken(self) -> None:
        taken, self._taken = self._taken, -1
        if taken >= 0:
            os.close(taken)

    def keep(self) -> None:
        """Have the session outlive the process from now on, if there is a service manager."""
        self._keeper.update(self.record)

    def record(self, keep: Keep) -> SessionRecord:
        """What go_on() goes on from. keep: has descriptors kept."""
        connection = keep(self._connection, self._connection.fileno(), "connection")
        taken = keep(self, self._taken, "taken")
        return self._negotiation.record(keep, connection, taken)

    def go_on(self, record: SessionRecord) -> None:
        """Be the session of record, whose connection this one has. Nothing has come through it yet.

        Raises VfioError if it cannot be gone on with, and EOFError if the front end has gone.
        """
        taken = self._keeper.copy(record.taken)
        self._close_taken()
        self._taken = taken
        self._count = _count(self._taken)
        self._negotiation.go_on(record, self._keeper.copy)
        self._keeper.taken_up(record, self.record)
        if record.handled is None or record.handled[0] != self._count:
            return
        # It was handled, and not taken: what it is answered was recorded.
        message, reply = self._connection.receive(), record.handled[1]
        if message is not None:
            with message:
                self._finish(message, None if reply is None else bytes.fromhex(reply))

    def _end(self, message: Message, reply: bytes | None) -> None:
        """message is handled: answer it. Whoever goes on from here knows, from before the answer, how far this is."""
        handled = (self._count, None if reply is None else reply.hex()) if self._connection.is_waiting else None
        self._keeper.update(self.record, handled)
        self._finish(message, reply)

    def _finish(self, message: Message, reply: bytes | None) -> None:
        self._count += self._connection.is_waiting
        self._connection.finish(message, reply, self._taken)


def _count(event: int) -> int:
    """What the counter of an eventfd stands at, which stays so. Source: proc(5), fdinfo."""
    for line in lines_of(Path(f"/proc/self/fdinfo/{event}").read_text(encoding="ascii")):
        name, _, value = line.partition(":")
        if name == "eventfd-count" and (count := number_of(value.strip(), 16)) is not None:
            return count
    raise VfioError(errno.EINVAL, "go on with a session", meaning="what counts its messages is no eventfd")
