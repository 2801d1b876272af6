"""Service: answers the guest's driver, request by request, and tells it of changes."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Final, Protocol

from pyvfio.kernel import EventFd
from virtiomem.device import (
    REQUEST_SIZE,
    BusyReason,
    DeviceBusy,
    FeaturesRefused,
    ProtocolViolation,
    Request,
    Response,
    ResponseType,
    VirtioMem,
)
from virtiomem.persistence import KeptDevice
from virtiomem.vhost_user.abi import vhost_user, virtio_config
from virtiomem.vhost_user.chain import Chain
from virtiomem.vhost_user.connection import Connection
from virtiomem.vhost_user.events import FrontEndEvents
from virtiomem.vhost_user.memory_table import MemoryTable
from virtiomem.vhost_user.vring import Vring

_TURN: Final = 64
"""How many requests are answered before other sources have their turn."""
_BUFFERS: Final = 1024
"""How many buffers they may have between them; the request that has more is the turn's last."""
_VERSION_1: Final = 1 << virtio_config.VIRTIO_F_VERSION_1


class Attachment(Protocol):
    """Whether the memory of the device's region is the connected guest's."""

    @property
    def awaited(self) -> bool:
        """Whether it is, and holds what the process before has left and could not be taken up yet."""

    def settle(self) -> str:
        """Why it is not, in a sentence for people; empty if it is, which it may be by now."""


class Service:
    """Serves a ring while it runs, the driver's features are accepted, and the driver keeps to the protocol.

    The driver has started from the ring's first start to stop(). The guest is told of a change of the config only
    then: QEMU 11.1 does not survive a config change at another time.

    features_refused: whether the device will not work with the features that the driver accepted last.
    """

    def __init__(
        self,
        device: VirtioMem,
        table: MemoryTable,
        vring: Vring,
        attachment: Attachment,
        events: FrontEndEvents,
        more: EventFd,
        kept: KeptDevice,
        *,
        change_untold: bool,
    ) -> None:
        """table: the guest's memory; vring: the device's one ring; attachment: of the region's memory. They stay the
        caller's, who changes them. more: signalled when serve() has left work for another turn. kept: has the answer to
        the request that the process before had in hand. change_untold: whether the guest may have missed a change of
        the config.
        """
        self._device = device
        self._table = table
        self._vring = vring
        self._attachment = attachment
        self._events = events
        self._more = more
        self._kept = kept
        self._features: int | None = None
        self.features_refused = False
        self._started = False
        self._channel: Connection | None = None
        self._change_untold = change_untold
        self._ring_broken = False

    @property
    def features(self) -> int | None:
        """What the driver has negotiated; None: nothing yet."""
        return self._features

    @property
    def channel(self) -> Connection | None:
        """Where the front end hears of changes; None: nowhere."""
        return self._channel

    @property
    def ring_broken(self) -> bool:
        """Whether the driver broke the ring, and has not reset the device since."""
        return self._ring_broken

    @property
    def broken(self) -> bool:
        """Whether the driver broke the protocol, and has not reset the device since."""
        return self._ring_broken or self._device.broken

    def negotiate(self, features: int) -> None:
        """The driver has accepted these features.

        Raises FeaturesRefused: a ring that runs goes on with those from before, and no other starts.
        """
        try:
            if not features & _VERSION_1:
                raise FeaturesRefused(
                    errno.EINVAL,
                    "negotiate",
                    {"features": features},
                    "the driver does not accept VIRTIO_F_VERSION_1, without which there is no virtio-mem",
                )
            self._device.negotiate(features)
        except FeaturesRefused as error:
            self.features_refused = True
            if not self._vring.running:
                self._features = None
            self._events.driver_refused(error)
            raise
        self.features_refused = False
        self._features = features

    def start(self) -> None:
        """Serve the ring, if the front end has given all that it takes. Call it again after every change."""
        if self._features is None or self.broken:
            return
        try:
            begun = self._vring.start(self._table, self._features)
        except ProtocolViolation as error:
            self._break(error)
            return
        if begun:
            self._begin()

    def _begin(self) -> None:
        assert self._features is not None
        if not self._started:
            self._started = True
            # A stop of the ring is the device's reset, and no reason for the front end to negotiate anew.
            self._device.negotiate(self._features)
            self._events.started(self._features)
        self._tell()
        # For what the driver made available before the ring ran.
        self._more.signal()

    def go_on(self, features: int | None, run: str | None, *, broken: bool) -> None:
        """Go on where the process before this one stood: features were negotiated, and the ring, if it ran, in run.

        Raises FrontEndError.
        """
        self._ring_broken = broken
        if features is None:
            return
        with suppress(FeaturesRefused):
            self.negotiate(features)
        if run is None or self._features is None or self.broken:
            return
        try:
            begun = self._vring.go_on(self._table, self._features, run, self._kept.last(run))
        except ProtocolViolation as error:
            self._break(error)
            return
        if begun:
            self._begin()

    def stop(self) -> None:
        """The driver, or the front end, has stopped the device."""
        self._vring.halt()
        if self._started:
            self._started = False
            self._events.stopped()

    def stop_driver(self) -> None:
        """The driver starts anew. The device's blocks stay as they are."""
        self.stop()
        self._ring_broken = False
        self._device.device_reset()

    def reset(self) -> None:
        """The device is reset, and what was negotiated forgotten. Its blocks stay as they are."""
        self.stop_driver()
        self._features = None
        self.features_refused = False

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

    def kicked(self) -> None:
        """The driver has kicked: answer what it made available. Raises FrontEndError."""
        self._vring.acknowledge_kick()
        self.serve()

    def serve(self) -> None:
        """Answer what the driver has made available, or as much of it as a turn may have. Raises FrontEndError."""
        buffers = 0
        try:
            for _ in range(_TURN):
                position = self._vring.base
                chain = self._vring.pop()
                if chain is None:
                    return
                request = chain.read(REQUEST_SIZE)
                response = self._answer(position, request, chain)
                if Response.parse(response).type is ResponseType.NACK:
                    # A driver that has missed a change would ask again at once, for ever.
                    self.config_changed()
                chain.write(response)
                self._vring.push(chain, len(response))
                self._events.answered(request, response)
                buffers += chain.buffers
                if buffers > _BUFFERS:
                    break
        except ProtocolViolation as error:
            self._break(error)
            return
        self._more.signal()

    def _answer(self, position: int, request: bytes, chain: Chain) -> bytes:
        """The device's answer; BUSY without asking it while the memory that it would change is not the guest's."""
        following, run = self._vring.base_after(chain), self._vring.run
        missing = self._attachment.settle()
        if not missing:
            answer = self._kept.begin(position, request, following, run)
            if answer is None:
                answer = self._device.handle(request, chain.writable_size)
                self._kept.answered(answer)
            return answer
        parsed = Request.parse(request, chain.writable_size)
        if self._attachment.awaited and (answer := self._kept.meanwhile(position, request)) is not None:
            self._kept.refused(position, request, following, run, answer)
            return answer
        error = DeviceBusy(parsed.type.name.lower().replace("_", " "), BusyReason.NOT_ATTACHED, missing)
        self._events.request_refused(parsed, error)
        answer = bytes(Response(error.reason.response))
        self._kept.refused(position, request, following, run, answer)
        return answer

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
