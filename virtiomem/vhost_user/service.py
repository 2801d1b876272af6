"""Service: answers the guest's driver, request by request, and tells it of changes."""

from __future__ import annotations

from typing import Final

from pyvfio.kernel import Kernel
from virtiomem.device import REQUEST_SIZE, ProtocolViolation, Response, ResponseType, VirtioMem
from virtiomem.vhost_user.abi import vhost_user
from virtiomem.vhost_user.connection import Connection
from virtiomem.vhost_user.events import FrontEndEvents
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.vring import Vring

_TURN: Final = 64
"""How many requests are answered before others have their turn."""


class Service:
    """Runs while the ring is described and enabled, its features are accepted, and the driver keeps to the protocol.

    table and vring are what the front end says, and closed by close(). started is from the driver's start to its end:
    only then is the guest told of a change, as QEMU 11.1 dies of a config change outside of it.
    """

    def __init__(self, device: VirtioMem, kernel: Kernel, events: FrontEndEvents) -> None:
        self.table = MemoryTable(kernel)
        self.vring = Vring(kernel)
        self.features = 0
        self.features_refused = False
        self.started = False
        self._device = device
        self._events = events
        self._channel: Connection | None = None
        self._change_untold = False
        self._ring_broken = False

    @property
    def broken(self) -> bool:
        """Whether the driver broke the protocol, and has not reset the device since."""
        return self._ring_broken or self._device.broken

    def start(self) -> None:
        """Serve the ring, if the front end has given all it takes. Told again, it looks again."""
        if self.features_refused or self.broken:
            return
        try:
            begun = self.vring.start(self.table, self.features)
        except ProtocolViolation as error:
            self._break(error)
            return
        if not begun:
            return
        if not self.started:
            self.started = True
            self._events.started(self.features)
        self._tell()
        # For what the driver made available before it was served.
        self.vring.kick_self()

    def stop(self) -> None:
        """The driver, or the front end, has had enough."""
        self.vring.halt()
        if self.started:
            self.started = False
            self._events.stopped()

    def reset(self) -> None:
        """The driver starts anew; the device's blocks stay."""
        self.stop()
        self._ring_broken = False
        self._device.device_reset()

    def close(self) -> None:
        self.reset()
        self.vring.close()
        self.table.close()
        self.set_channel(None)

    def set_channel(self, channel: Connection | None) -> None:
        """Where the front end wants to hear of changes; owned from now on."""
        if self._channel is not None:
            self._channel.close()
        self._channel = channel

    def config_changed(self) -> None:
        """Tell the guest, now or when it has started."""
        self._change_untold = True
        self._tell()

    def serve(self) -> None:
        """The driver has kicked: answer what it made available. Raises FrontEndError."""
        try:
            for _ in range(_TURN):
                chain = self.vring.pop()
                if chain is None:
                    return
                request = chain.read(REQUEST_SIZE)
                response = self._device.handle(request, chain.writable_size)
                if Response.parse(response).type is ResponseType.NACK:
                    # A driver that has missed a change would ask again at once, for ever.
                    self.config_changed()
                chain.write(response)
                self.vring.push(chain, len(response))
                self._events.answered(request, response)
        except ProtocolViolation as error:
            self._break(error)
            return
        self.vring.kick_self()

    def _break(self, error: ProtocolViolation) -> None:
        self.vring.halt()
        self._ring_broken = True
        self._events.broken(error)
        self.vring.signal_error()

    def _tell(self) -> None:
        if not (self._change_untold and self.started and self._channel is not None):
            return
        self._change_untold = False
        try:
            self._channel.notify(vhost_user.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG)
        except EOFError:
            self.set_channel(None)
            return
        self._events.told_of_change()
