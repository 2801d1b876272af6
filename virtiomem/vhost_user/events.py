"""What a vhost-user device tells the program around it; and ConfigChanges, which wakes whoever tells the guest."""

from __future__ import annotations

from typing import Self

from pyvfio.errors import VfioError
from pyvfio.kernel import EventFd, Kernel, LinuxKernel
from virtiomem.device import Config, Events, FeaturesRefused, ProtocolViolation, Request, RequestRefused


class FrontEndEvents:
    """What a vhost-user device tells the program around it: override the methods of interest.

    The thread that serves calls them, after the event. They must raise nothing.
    """

    def connected(self) -> None:
        """A front end has connected."""

    def gone_on(self) -> None:
        """The front end that was connected to the process before is connected to this one: it notices nothing."""

    def disconnected(self, reason: str) -> None:
        """The front end has gone, or its connection was closed. The device keeps its blocks, their memory and mappings.

        reason: in words, for people.
        """

    def attached(self, size: int) -> None:
        """size bytes of the front end's memory are the region from now on. Nothing of it is plugged."""

    def started(self, features: int) -> None:
        """The guest's driver has started the device, and has negotiated these features."""

    def stopped(self) -> None:
        """The driver, or the front end, has stopped the device."""

    def answered(self, request: bytes, response: bytes) -> None:
        """The device has answered a request of the guest. Both are in wire format."""

    def told_of_change(self) -> None:
        """The guest has been told that the config space has changed."""

    def driver_refused(self, error: FeaturesRefused) -> None:
        """The device cannot work with the features that the guest's driver accepted. The front end hears of it, too."""

    def request_refused(self, request: Request, error: RequestRefused) -> None:
        """request was answered BUSY without the device: the memory that is attached is not this guest's.

        What the device itself refuses its own events tell.
        """

    def refused(self, operation: str, error: VfioError) -> None:
        """The device cannot do what the front end asked for. operation: the message's name."""

    def broken(self, error: ProtocolViolation) -> None:
        """The guest's driver broke the protocol. It is not served any more until it resets the device."""


class ConfigChanges(Events):
    """The events of a VirtioMem: fd is signalled when the config has changed, whichever thread changed it."""

    def __init__(self, forward: Events | None = None, *, kernel: Kernel | None = None) -> None:
        """forward: gets every event, too. kernel: the one that fd is of (default: Linux)."""
        self._forward = forward or Events()
        self.fd = EventFd(kernel or LinuxKernel(), "config change", is_owned=True)

    def close(self) -> None:
        """Close fd. Closing twice is harmless. Close the device first."""
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
