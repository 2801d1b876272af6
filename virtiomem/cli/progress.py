"""How far a resize is, how fast, and how much longer."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyvfio.commandline import Output
from pyvfio.units import format_size
from virtiomem.control import ControlClient, DeviceStatus

_REDRAW = 0.2


class Progress:
    """A line that is drawn over and over on a terminal, and only at the end elsewhere."""

    def __init__(self, output: Output, start: DeviceStatus, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._start = start
        self._clock = clock
        self._began = clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def line(self, status: DeviceStatus) -> str:
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
        if self._output.terminal and not self._output.json:
            print(f"\r\x1b[K{self.line(status)}", end="", file=self._output.stream, flush=True)

    def end(self) -> None:
        if self._output.terminal and not self._output.json:
            print("\r\x1b[K", end="", file=self._output.stream, flush=True)

    def follow(self, client: ControlClient, name: str, timeout: float | None) -> DeviceStatus:
        """Draw until what is requested is plugged, or timeout seconds have passed: the device then."""
        revision = -1
        while True:
            left = _REDRAW if timeout is None else min(_REDRAW, timeout - self.seconds)
            revision, devices = client.show(after=revision, timeout=max(left, 0.0))
            status = next(device for device in devices if device.name == name)
            if status.plugged_size == status.requested_size or (timeout is not None and self.seconds >= timeout):
                self.end()
                return status
            self.draw(status)
