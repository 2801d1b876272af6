"""What the device tells the program around it, and how often."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from virtiomem.device.config import Config
from virtiomem.device.errors import RequestRefused
from virtiomem.device.requests import Request


class Events:
    """What a device tells the program around it: override the methods of interest.

    They are called after the change, in any thread, with a lock of the device held. They must be quick. What one raises
    is logged, counted in Statistics.failures_to_tell, and changes no answer.
    """

    def config_changed(self, config: Config) -> None:
        """The guest is to be notified, by virtio's configuration change interrupt. config may equal the old one."""

    def size_changed(self, plugged_size: int) -> None:
        """plugged_size bytes are plugged now. Calls are rate limited; the last value is always delivered."""

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        """request was answered ERROR, NACK or BUSY: error.reason says which and why.

        The failure that led to it, if there was one, is the error's __cause__.
        """


class RateLimited:
    """Delivers values at most once an interval: the first one at once, later ones when they are due, only the latest.

    It has no timer: whoever runs the event loop calls flush() once clock() has reached due.
    """

    def __init__(self, deliver: Callable[[int], None], interval: float, clock: Callable[[], float]) -> None:
        """deliver: what takes a value. interval: seconds, by clock."""
        self._deliver = deliver
        self._interval = interval
        self._clock = clock
        self._quiet_until: float | None = None
        self._pending: int | None = None

    @property
    def due(self) -> float | None:
        """When, by clock, the value that waits may be delivered; None if none waits."""
        return self._quiet_until if self._pending is not None else None

    def put(self, value: int) -> None:
        """Deliver value now if the interval is over, or keep it until then."""
        self._pending = value
        self.flush()

    def flush(self) -> None:
        """Deliver the value that waits, if it is due."""
        now = self._clock()
        if self._pending is None or (self._quiet_until is not None and now < self._quiet_until):
            return
        value, self._pending = self._pending, None
        self._quiet_until = now + self._interval
        self._deliver(value)


class Throttle:
    """Lets each key pass once an interval, so that no guest fills its host's log."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        """interval: seconds, by clock."""
        self._interval = interval
        self._clock = clock
        self._quiet_until: dict[Hashable, float] = {}

    def passes(self, key: Hashable) -> bool:
        """Whether key has not passed within the last interval. If so, it has passed now."""
        now = self._clock()
        if now < self._quiet_until.get(key, now):
            return False
        self._quiet_until[key] = now + self._interval
        return True
