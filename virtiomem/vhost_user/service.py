"""Service: answers the guest's driver, request by request, and tells it of changes."""

from __future__ import annotations

from typing import Final

from pyvfio.errors import VfioError
from virtiomem.device import REQUEST_SIZE, ProtocolViolation, Response, ResponseType, VirtioMem
from virtiomem.vhost_user.abi import vhost_user
from virtiomem.vhost_user.connection import Connection
from virtiomem.vhost_user.events import FrontEndEvents
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.vring import Vring

_TURN: Final = 64
"""How many requests are answered before other sources have their turn."""


class Service:
    """Serves a ring while it runs, the driver's features are accepted, and the driver keeps to the protocol.

    The driver has started from the ring's first start to stop(). The guest is told of a change of the config only
    then: QEMU 11.1 does not survive a config change at another time.
    """

    def __init__(self, device: VirtioMem, table: MemoryTable, vring: Vring, events: FrontEndEvents) -> None:
        """table: the guest's memory; vring: the device's one ring. They stay the caller's, who changes them."""
        self._device = device
        self._table = table
        self._vring = vring
        self._events = events
        self._features = 0
        self._features_refused = False
        self._started = False
        self._channel: Connection | None = None
        self._change_untold = False
        self._ring_broken = False

    @property
    def features_refused(self) -> bool:
        """Whether the device will not work with the features that the driver accepted last."""
        return self._features_refused

    @property
    def broken(self) -> bool:
        """Whether the driver broke the protocol, and has not reset the device since."""
        return self._ring_broken or self._device.broken

    def negotiate(self, features: int) -> None:
        """The driver has accepted these features. Raises FeaturesRefused: start() does nothing then."""
        self._features = features
        try:
            self._device.negotiate(features)
        except VfioError:
            self._features_refused = True
            raise
        self._features_refused = False

    def start(self) -> None:
        """Serve the ring, if the front end has given all that it takes. Call it again after every change."""
        if self._features_refused or self.broken:
            return
        try:
            begun = self._vring.start(self._table, self._features)
        except ProtocolViolation as error:
            self._break(error)
            return
        if not begun:
            return
        if not self._started:
            self._started = True
            self._events.started(self._features)
        self._tell()
        # For what the driver made available before the ring ran.
        self._vring.kick_self()

    def stop(self) -> None:
        """The driver, or the front end, has stopped the device."""
        self._vring.halt()
        if self._started:
            self._started = False
            self._events.stopped()

    def reset(self) -> None:
        """The driver starts anew. The device's blocks stay as they are."""
        self.stop()
        self._ring_broken = False
        self._device.device_reset()

    def close(self) -> None:
        """Reset, and close the channel. Closing twice is harmless."""
        try:
            self.reset()
        finally:
            self.set_channel(None)

    def set_channel(self, channel: Connection | None) -> None:
        """Where the front end wants to hear of changes; None: nowhere. It belongs to the service from now on."""
        if self._channel is not None:
            self._channel.close()
        self._channel = channel
        self._tell()

    def config_changed(self) -> None:
        """Tell the guest that the config has changed, now or when its driver has started."""
        self._change_untold = True
        self._tell()

    def serve(self) -> None:
        """The driver has kicked: answer what it made available. Raises FrontEndError."""
        self._vring.acknowledge_kick()
        try:
            for _ in range(_TURN):
                chain = self._vring.pop()
                if chain is None:
                    return
                request = chain.read(REQUEST_SIZE)
                response = self._device.handle(request, chain.writable_size)
                if Response.parse(response).type is ResponseType.NACK:
                    # A driver that has missed a change would ask again at once, for ever.
                    self.config_changed()
                chain.write(response)
                self._vring.push(chain, len(response))
                self._events.answered(request, response)
        except ProtocolViolation as error:
            self._break(error)
            return
        self._vring.kick_self()

    def _break(self, error: ProtocolViolation) -> None:
        self._vring.halt()
        self._ring_broken = True
        self._events.broken(error)
        self._vring.signal_error()

    def _tell(self) -> None:
        if not (self._change_untold and self._started and self._channel is not None):
            return
        try:
            self._channel.notify(vhost_user.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG)
        except EOFError:
            self.set_channel(None)
            return
        self._change_untold = False
        self._events.told_of_change()
