"""Statistics: how often a device answered and refused what; and the log of refusals, which no guest can fill."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pyvfio.units import format_size
from virtiomem.device.answers import BusyReason, RefusalReason, ResponseType
from virtiomem.device.errors import ProtocolViolation, RequestRefused
from virtiomem.device.events import Throttle
from virtiomem.device.requests import RequestType

_log = logging.getLogger(__package__)


@dataclass(frozen=True, slots=True)
class Statistics:
    """How often each thing has happened since the device was made. What never happened has no key.

    responses: answers to the guest, by request and response. refusals: what was refused, by reason: requests of the
    guest, and resets and loads that met a busy device. violations: requests that broke the protocol. failures_to_tell:
    calls to Events, and to listeners after a discard, that have raised something. stray_bytes: pages that somebody has
    touched in unplugged blocks, and that were given back.
    """

    responses: Mapping[tuple[RequestType, ResponseType], int]
    refusals: Mapping[RefusalReason, int]
    violations: int
    failures_to_tell: int = 0
    stray_bytes: int = 0


class Counters:
    """The counters of a device, of which Statistics is a snapshot. What is refused is logged, too.

    The device's lock guards who counts; a snapshot may be taken in any thread.
    """

    def __init__(self, name: str, throttle: Throttle) -> None:
        """name: the device's, for the log. throttle: lets a log entry pass once an interval for each reason."""
        self._name = name
        self._throttle = throttle
        self._lock = threading.Lock()
        self._responses: Counter[tuple[RequestType, ResponseType]] = Counter()
        self._refusals: Counter[RefusalReason] = Counter()
        self._violations = 0
        self._stray_bytes = 0

    def answered(self, request: RequestType, response: ResponseType) -> None:
        """A request was answered."""
        with self._lock:
            self._responses[request, response] += 1

    def refused(self, error: RequestRefused) -> None:
        """A request was refused, or a reset or load met a busy device."""
        reason = error.reason
        with self._lock:
            self._refusals[reason] += 1
        if self._throttle.passes(reason):
            # A reset or load is no request of the guest, and has no answer.
            what = "is busy" if isinstance(reason, BusyReason) else f"answers {reason.response.name}"
            count = self._refusals[reason]
            _log.warning("%s %s (%s, %d times so far): %s", self._name, what, reason.value, count, error)

    def violated(self, error: ProtocolViolation) -> None:
        """A request broke the protocol."""
        self._violations += 1
        if self._throttle.passes(ProtocolViolation):
            _log.warning("%s needs a reset: %s", self._name, error)

    def strayed(self, size: int, block: int) -> None:
        """size bytes, none or more, of the unplugged blocks from this one on were given back: somebody touched them."""
        with self._lock:
            self._stray_bytes += size
        if size and self._throttle.passes("stray"):
            _log.warning(
                "%s: %s of the unplugged blocks from block %d on were touched, and are given back; %s so far",
                *(self._name, format_size(size), block, format_size(self._stray_bytes)),
            )

    def snapshot(self, failures_to_tell: int) -> Statistics:
        """What has been counted so far, with what others have counted of failures to tell."""
        with self._lock:
            return Statistics(
                MappingProxyType(dict(self._responses)),
                MappingProxyType(dict(self._refusals)),
                self._violations,
                failures_to_tell,
                self._stray_bytes,
            )
