"""Timeouts: what a number of seconds means, in every call that waits."""

from __future__ import annotations

import errno
import math
import time

from pyvfio.errors import InvalidArgument


class Deadline:
    """The end of a timeout that begins now.

    None and infinity wait for ever, zero and negative numbers do not wait, and any other number is seconds, however
    many.
    """

    def __init__(self, timeout: float | None) -> None:
        """Raises InvalidArgument for what is no number."""
        try:
            seconds = math.inf if timeout is None else timeout * 1.0
        except OverflowError:
            # An int with more digits than a float has: for ever, or long past.
            seconds = math.inf if timeout is not None and timeout > 0 else 0.0
        if math.isnan(seconds):
            raise InvalidArgument(errno.EINVAL, "wait", {"timeout": timeout}, "it is not a number of seconds")
        self._end = time.monotonic() + max(seconds, 0.0)

    @property
    def left(self) -> float | None:
        """How many seconds are left, 0 at the least; None for ever."""
        return None if self._end == math.inf else max(self._end - time.monotonic(), 0)

    @property
    def has_passed(self) -> bool:
        """Whether nothing is left."""
        return self.left == 0
