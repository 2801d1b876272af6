"""Progress: how far a resize is, how fast it is, and how much longer it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyvfio.commandline import Output
from pyvfio.units import format_size
from virtiomem.control import ControlClient, DeviceStatus

_REDRAW = 0.2


class Progress:
    """A line about a resize that is drawn over and over on a terminal, and nowhere else."""

    def __init__(self, output: Output, start: DeviceStatus, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._start = start
        self._clock = clock
        self._began = clock()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return self._clock() - self._began

    def line(self, status: DeviceStatus) -> str:
        """How far the device is, in a line."""
        done = abs(status.plugged_size - self._start.plugged_size)
        left = abs(status.requested_size - status.plugged_size)
        text = f"{format_size(status.plugged_size)} of {format_size(status.requested_size)}"
        rate = done / self.seconds if self.seconds > 0 else 0.0
        if rate:
            text += f", {rate / (1 << 20):.0f} MiB/s"
        if rate and left:
            text += f", {left / rate:.0f} s left"
        return text + (f", waiting: {status.waiting_for}" if status.waiting_for else "")

    def draw(self, status: DeviceStatus) -> None:
        """Draw the line, over the one before."""
        if self._output.terminal and not self._output.json:
            self._output.redraw_line(self.line(status))

    def end(self) -> None:
        """Wipe the line out."""
        if self._output.terminal and not self._output.json:
            self._output.redraw_line()

    def follow(self, client: ControlClient, name: str, timeout: float | None) -> DeviceStatus:
        """Draw until what is requested is plugged, or timeout seconds have passed; return the device's status then.

        name: the device's.
        """
        revision = -1
        while True:
            left = _REDRAW if timeout is None else min(_REDRAW, timeout - self.seconds)
            revision, devices = client.show(after=revision, timeout=max(left, 0.0))
            status = next(device for device in devices if device.name == name)
            if status.plugged_size == status.requested_size or (timeout is not None and self.seconds >= timeout):
                self.end()
                return status
            self.draw(status)
