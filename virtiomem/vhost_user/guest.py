"""VhostUserGuest: what a status, and the lines of a server, say of a guest behind a vhost-user socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.units import format_size
from virtiomem.device import (
    Config,
    Events,
    FeaturesRefused,
    NackReason,
    ProtocolViolation,
    Request,
    RequestRefused,
    RequestType,
    Throttle,
)
from virtiomem.serving import Lines
from virtiomem.vhost_user.events import FrontEndEvents

_INTERVAL: Final = 1.0
"""Seconds between two lines about refusals for one reason."""


class VhostUserGuest(FrontEndEvents, Events):
    """The Guest of a control socket: tells who drives the device, and how that goes."""

    def __init__(self, changed: Callable[[], object], say: Callable[[str], object]) -> None:
        self._changed = changed
        self._say = say
        # What a front end makes happen, it can make happen as often as it likes.
        self._lines = Lines(say)
        self._state = "no front end"
        # As the log does: no guest fills what the host reads.
        self._throttle = Throttle(_INTERVAL, time.monotonic)
        self._refusal: str | None = None
        self._in_the_way: str | None = None
        self._until_change = False

    @property
    def state(self) -> str:
        return f"vhost-user: {self._state}"

    @property
    def waiting_for(self) -> str | None:
        return self._refusal or self._in_the_way

    def awaits(self, plugged_size: int) -> None:
        """A guest had so much plugged when the process before this one ended."""
        size = format_size(plugged_size)
        self._in_the_way = f"{size} were plugged when the server before this one ended; the guest's memory is awaited"

    def reset(self, size: int) -> None:
        """The host says that the guest has ended: its memory, of which so much was plugged, is the host's again."""
        self._refusal = self._in_the_way = None
        self._become("no front end", f"reset: {format_size(size)} were plugged, and all memory is given back")

    def connected(self) -> None:
        self._refusal = None
        self._become("a front end, no driver", "a front end has connected")

    def gone_on(self) -> None:
        self._become("a front end, no driver", "goes on with the front end of the server before")

    def disconnected(self, reason: str) -> None:
        self._become("no front end", f"the front end has left: {reason}")

    def failed(self, error: Exception) -> None:
        """A fault of ours: the region is not served any more. All others are."""
        self._become("is served no more", f"served no more, by a fault of this server: {type(error).__name__}: {error}")

    def attached(self, size: int) -> None:
        self._in_the_way = None
        self._lines.say(f"{format_size(size)} of the front end's memory are the region")

    def started(self, features: int) -> None:
        self._refusal = None
        self._become("its driver runs", f"the guest's driver runs, features {features:#_x}")

    def stopped(self) -> None:
        self._become("a front end, no driver", "the guest's driver has stopped")

    def driver_refused(self, error: FeaturesRefused) -> None:
        self._refusal = error.meaning
        self._become("its driver was refused", f"the guest's driver was refused: {error.meaning}")

    def refused(self, operation: str, error: VfioError) -> None:
        self._in_the_way, self._until_change = str(error), False
        self._lines.say(f"{operation} refused: {error}")
        self._changed()

    def broken(self, error: ProtocolViolation) -> None:
        self._become("its driver broke the protocol", f"served no more until a reset: {error}")

    def config_changed(self, config: Config) -> None:
        self._say(f"asks the guest for {format_size(config.requested_size)}")
        if self._until_change:
            self._in_the_way, self._until_change = None, False
        self._changed()

    def size_changed(self, plugged_size: int) -> None:
        self._in_the_way = None
        self._say(f"{format_size(plugged_size)} plugged")
        self._changed()

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        cause = str(error.__cause__ or error)
        if self._throttle.passes(error.reason):
            self._say(f"{request.type.name} answered {error.reason.response.name}: {cause}")
        if request.type is not RequestType.STATE and cause != self._in_the_way:
            self._in_the_way = cause
            self._until_change = isinstance(error.reason, NackReason)
            self._changed()

    def _become(self, state: str, line: str) -> None:
        self._state = state
        self._lines.say(line)
        self._changed()
