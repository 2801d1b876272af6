"""Session: one client's, from its first message to its end."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from pyvfio.vfio_user import abi
from pyvfio.vfio_user.connection import LARGEST_VERSION, Connection
from pyvfio.vfio_user.device_commands import DeviceCommands
from pyvfio.vfio_user.errors import PeerError
from pyvfio.vfio_user.events import ServerEvents
from pyvfio.vfio_user.listener import DmaListener
from pyvfio.vfio_user.memory_commands import FileOf, MemoryCommands
from pyvfio.vfio_user.message import Message, refusal, reply
from pyvfio.vfio_user.record import SessionRecord
from pyvfio.vfio_user.served import Served
from pyvfio.vfio_user.version import Limits, Version, answer

_TURN: Final = 64
"""How many messages are handled before others have their turn."""
_QUIET: Final = 0.002
"""Seconds without a message after which a burst of changes of the client's memory is over."""
_MOST_HELD: Final = 1024
"""How many replies wait for the end of a burst; with the next one it is over."""


class Session:
    """Serves one client over a connection, which belongs to it. Used in one thread.

    Replies to DMA_MAP and DMA_UNMAP wait until the client sends another command, or nothing for a moment: QEMU sends
    what it changes at a time in one go, and what the listener is told between is applied as a difference.
    """

    def __init__(
        self,
        connection: Connection,
        served: Served,
        listener: DmaListener,
        events: ServerEvents,
        *,
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        """patience: seconds that the client has until it has proposed a version."""
        self._connection = connection
        self._events = events
        self._clock = clock
        self._memory = MemoryCommands(listener, events)
        self._device = DeviceCommands(served, may_be_master=lambda: not self._memory.refused)
        self._handlers = self._device.handlers
        self._limits: Limits | None = None
        # When the client is to have agreed on a version; and when a burst is over.
        self._greeting_due: float | None = clock() + patience
        self._burst_due: float | None = None
        self._held: list[tuple[Message, bytes, list[int]]] = []

    def fileno(self) -> int:
        """A descriptor that is readable when serve() has something to do."""
        return self._connection.fileno()

    @property
    def due(self) -> float | None:
        """When, by the clock, tick() is to be called at the latest; None: it need not be."""
        times = (self._connection.due, self._greeting_due, self._burst_due)
        return min((time for time in times if time is not None), default=None)

    def serve(self) -> None:
        """Handle what has come, without waiting. Raises PeerError when the session is over."""
        self._connection.flush()
        for _ in range(_TURN):
            # Whoever does not read what is answered is not asked what else it wants.
            if self._connection.has_unsent:
                return
            message = self._connection.receive()
            if message is None:
                return
            with message:
                self._handle(message)

    def tick(self) -> None:
        """Do what is due by now. Raises PeerError when the session is over."""
        self._connection.require_progress()
        now = self._clock()
        if self._greeting_due is not None and now >= self._greeting_due:
            raise PeerError(errno.ETIMEDOUT, "vfio-user session", meaning="the other end has proposed no version")
        if self._burst_due is not None and now >= self._burst_due:
            self._settle()

    def record(self) -> SessionRecord:
        """What a process that goes on with this session has to know."""
        return SessionRecord(
            self._limits,
            tuple(self._memory.ranges),
            tuple(self._memory.refused.items()),
            tuple(sorted(self._device.enabled)),
        )

    def go_on(self, record: SessionRecord, files: FileOf) -> None:
        """Go on where another process stood. files: descriptors of the files that its ranges are in. Raises OSError."""
        if record.limits is not None:
            self._agree(record.limits)
        self._device.enabled |= set(record.interrupts)
        self._memory.go_on(record.ranges, record.refused, files)
        self._memory.settle()

    def end(self) -> None:
        """Close the connection, and stop the device before its memory goes: interrupts off, reset, bus master off,
        unmap. Each step is made whatever becomes of the others."""
        self._connection.close()
        self._held.clear()
        for name, step in (
            ("interrupts off", self._device.interrupts_off),
            ("reset", self._device.reset_if_it_can),
            ("bus master off", self._device.bus_master_off),
        ):
            try:
                step()
            except OSError as error:
                self._events.not_ended(name, error)
        self._memory.end()

    def leave(self) -> int:
        """Leave the client and the device as they are; return the descriptor of the socket, which is the caller's.

        A message of which a part has come already is lost, so call it when settled is true.
        """
        return self._connection.detach()

    @property
    def settled(self) -> bool:
        """Whether every message that has come is answered, and none has come in part."""
        return not self._held and self._burst_due is None and self._connection.is_between_messages

    def _handle(self, message: Message) -> None:
        """Raises PeerError."""
        if message.is_reply:
            raise PeerError(errno.EPROTO, f"vfio-user {message.name}", meaning="a reply came, and nothing was asked")
        if message.command == abi.VFIO_USER_VERSION:
            self._greet(message)
            return
        if self._limits is None:
            meaning = "no version has been agreed on yet"
            raise PeerError(errno.EPROTO, f"vfio-user {message.name}", meaning=meaning)
        if message.command in (abi.VFIO_USER_DMA_MAP, abi.VFIO_USER_DMA_UNMAP):
            self._change_memory(message)
            return
        self._settle()
        try:
            handler = self._handlers.get(message.command)
            if handler is None:
                raise message.refused("it is not known here", errno.ENOSYS)
            payload, fds = handler(message)
        except OSError as error:
            self._refuse(message, error)
        else:
            if message.wants_reply:
                self._connection.send(reply(message, payload), fds)

    def _greet(self, message: Message) -> None:
        """VERSION, of which there is one. Raises PeerError."""
        try:
            message.require_fds(0)
            if self._limits is not None:
                raise message.refused("a version is agreed on already")
            payload, limits = answer(Version.parse(message.payload))
        except PeerError:
            raise
        except OSError as error:
            self._refuse(message, error)
            if self._limits is None:
                raise PeerError(error.errno or errno.EPROTO, "vfio-user VERSION", meaning=str(error)) from error
            return
        self._connection.send(reply(message, payload))
        self._agree(limits)
        self._events.agreed()

    def _agree(self, limits: Limits) -> None:
        self._limits = limits
        self._greeting_due = None
        self._device.largest_transfer = limits.max_data_xfer_size
        self._memory.most_ranges = limits.max_dma_maps
        self._connection.largest_payload = max(LARGEST_VERSION, 16 + limits.max_data_xfer_size)

    def _change_memory(self, message: Message) -> None:
        """DMA_MAP or DMA_UNMAP: the reply waits for the end of the burst."""
        try:
            change = self._memory.map if message.command == abi.VFIO_USER_DMA_MAP else self._memory.unmap
            payload, addresses = change(message)
        except OSError as error:
            self._refuse(message, error)
            return
        self._burst_due = self._clock() + _QUIET
        self._held.append((message, payload, addresses))
        if len(self._held) >= _MOST_HELD:
            self._settle()

    def _settle(self) -> None:
        """A burst is over, if there was one: apply it, and answer. Raises PeerError."""
        if self._burst_due is None:
            return
        self._burst_due = None
        held, self._held = self._held, []
        failures = self._memory.settle()
        # What was unmapped may have been mapped anew: the last message about an address is the one that failed.
        last = {address: message for message, _, addresses in held for address in addresses}
        for message, payload, addresses in held:
            failed = (address for address in addresses if address in failures and last[address] is message)
            error = next((failures[address] for address in failed), None)
            if error is not None:
                self._refuse(message, error)
            elif message.wants_reply:
                self._connection.send(reply(message, payload))

    def _refuse(self, message: Message, error: OSError) -> None:
        self._events.refused(message.name, error)
        if message.wants_reply:
            self._connection.send(refusal(message, error.errno or errno.EIO))
