"""Server: serves any number of vhost-user devices in one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pyvfio.eventfd import EventFd
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.resource import Resource
from virtiomem.vhost_user.device import VhostUserDevice


class Server(Resource):
    """run() serves until stop(). The devices stay the caller's."""

    def __init__(
        self,
        devices: Sequence[VhostUserDevice],
        *,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: the one of the devices' VirtioMem."""
        self._devices = tuple(devices)
        self._kernel = kernel or LinuxKernel()
        self._clock = clock
        self._stop = EventFd(self._kernel, "stop")
        super().__init__()

    def run(self) -> None:
        while self.turn():
            pass

    def turn(self, timeout: float | None = None) -> bool:
        """Wait for something to do (timeout: seconds at most) and do it; False after stop()."""
        owners = {fd: device for device in self._devices for fd in device.descriptors}
        ready = self._kernel.poll([self._stop.fileno(), *owners], self._patience(timeout))
        if self._stop.fileno() in ready:
            return False
        for fd in ready:
            # What went before may have closed it.
            if fd in owners[fd].descriptors:
                owners[fd].ready(fd)
        for device in self._devices:
            device.device.flush_events()
        return True

    def stop(self) -> None:
        """End run(), now or when it begins. From any thread, or a signal handler."""
        self._stop.signal()

    def _patience(self, timeout: float | None) -> float | None:
        """Until the next event that a device holds back."""
        times = [due for device in self._devices if (due := device.device.next_event_time) is not None]
        if not times:
            return timeout
        due = max(min(times) - self._clock(), 0)
        return due if timeout is None else min(due, timeout)

    def _release(self) -> None:
        self._stop.close()

    def __repr__(self) -> str:
        return f"<Server of {len(self._devices)} devices>"
