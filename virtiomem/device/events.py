"""What the device tells the program around it: events, and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from virtiomem.device.answers import RefusalReason, ResponseType
from virtiomem.device.config import Config
from virtiomem.device.errors import RequestRefused
from virtiomem.device.requests import Request, RequestType


class Events:
    """Override what is of interest. Called with the device's lock held, after the change: be quick, raise nothing."""

    def config_changed(self, config: Config) -> None:
        """Notify the guest: virtio's configuration change interrupt. The new config may equal the old."""

    def size_changed(self, plugged_size: int) -> None:
        """plugged_size (bytes) has changed. Rate limited; the last value is always delivered."""

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        """request was answered ERROR, NACK or BUSY: error.reason says which and why.

        The failure that led to it, if there was one, is the error's __cause__.
        """


@dataclass(frozen=True, slots=True)
class Statistics:
    """How often each thing has happened since the device was made. What never happened has no key.

    responses: answers to the guest, by request and response. refusals: what was refused, by reason: requests of the
    guest, and resets and loads that met a busy device. violations: requests that broke the protocol.
    """

    responses: Mapping[tuple[RequestType, ResponseType], int]
    refusals: Mapping[RefusalReason, int]
    violations: int


class Counters:
    """What Statistics is a snapshot of."""

    def __init__(self) -> None:
        self.responses: Counter[tuple[RequestType, ResponseType]] = Counter()
        self.refusals: Counter[RefusalReason] = Counter()
        self.violations = 0

    def snapshot(self) -> Statistics:
        """What has been counted so far."""
        return Statistics(
            MappingProxyType(dict(self.responses)), MappingProxyType(dict(self.refusals)), self.violations
        )


class RateLimited:
    """Hands values to deliver at most once each interval (seconds): the first at once, then the latest when due.

    It has no timer: whoever runs the event loop calls flush() once clock() has reached due.
    """

    def __init__(self, deliver: Callable[[int], None], interval: float, clock: Callable[[], float]) -> None:
        self._deliver = deliver
        self._interval = interval
        self._clock = clock
        self._quiet_until: float | None = None
        self._pending: int | None = None

    @property
    def due(self) -> float | None:
        """When the value that waits may be delivered; None if none waits."""
        return self._quiet_until if self._pending is not None else None

    def put(self, value: int) -> None:
        self._pending = value
        self.flush()

    def flush(self) -> None:
        now = self._clock()
        if self._pending is None or (self._quiet_until is not None and now < self._quiet_until):
            return
        value, self._pending = self._pending, None
        self._quiet_until = now + self._interval
        self._deliver(value)


class Throttle:
    """Lets each key pass once an interval (seconds), so that no guest fills its host's log."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        self._interval = interval
        self._clock = clock
        self._quiet_until: dict[Hashable, float] = {}

    def passes(self, key: Hashable) -> bool:
        now = self._clock()
        if now < self._quiet_until.get(key, now):
            return False
        self._quiet_until[key] = now + self._interval
        return True
