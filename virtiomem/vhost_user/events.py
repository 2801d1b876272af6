"""What a vhost-user device tells the program around it, and how a config change reaches whoever tells the guest."""

from __future__ import annotations

from typing import Self

from pyvfio.errors import VfioError
from pyvfio.kernel import EventFd, Kernel, LinuxKernel
from virtiomem.device import Config, Events, ProtocolViolation, Request, RequestRefused


class FrontEndEvents:
    """Override what is of interest. Called by the thread that serves, after the event: raise nothing."""

    def connected(self) -> None:
        """A front end has come."""

    def disconnected(self, reason: str) -> None:
        """It has gone, or was sent away. The device keeps its blocks, their memory and mappings."""

    def attached(self, size: int) -> None:
        """The front end's memory for the region has been mapped, size bytes; nothing of it is plugged."""

    def started(self, features: int) -> None:
        """The guest's driver has started the device, with these features negotiated."""

    def stopped(self) -> None:
        """The driver, or the front end, has stopped the device."""

    def answered(self, request: bytes, response: bytes) -> None:
        """A guest's request and what it was answered, in wire format."""

    def told_of_change(self) -> None:
        """The guest has been told that the config space has changed."""

    def refused(self, operation: str, error: VfioError) -> None:
        """Something the front end asked for cannot be done."""

    def broken(self, error: ProtocolViolation) -> None:
        """The guest's driver broke the protocol: it is served no more until it resets the device."""


class ConfigChanges(Events):
    """Events of a VirtioMem that signal fd when the config has changed, whichever thread changed it.

    forward: gets every event too.
    """

    def __init__(self, forward: Events | None = None, *, kernel: Kernel | None = None) -> None:
        self._forward = forward or Events()
        self.fd = EventFd(kernel or LinuxKernel(), "config change")

    def close(self) -> None:
        """Closing twice is harmless. Close the device first."""
        self.fd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def config_changed(self, config: Config) -> None:
        self.fd.signal()
        self._forward.config_changed(config)

    def size_changed(self, plugged_size: int) -> None:
        self._forward.size_changed(plugged_size)

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        self._forward.request_refused(request, error)
