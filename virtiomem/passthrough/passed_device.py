"""PassedDevice: a device that a guest drives, served over vfio-user in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from pyvfio.device import Device
from pyvfio.kernel import Kernel
from pyvfio.resource import Resource
from pyvfio.vfio_user import GuestMemory, GuestRange, ServedDevice, Server, ServerEvents
from virtiomem.control import ManagedPassed
from virtiomem.passthrough.identity import IdentityListener, Regions
from virtiomem.passthrough.options import PassthroughOptions
from virtiomem.serving import Lines, Worker


class PassedDevice(Resource):
    """Serves from the beginning until close(), one client after the other.

    However a client goes, the device is stopped before the guest's memory is unmapped: interrupts off, reset, bus
    master off. What the guest has plugged stays mapped until it is unplugged, or its region is served no more.
    """

    def __init__(
        self,
        options: PassthroughOptions,
        device: Device,
        memory: GuestMemory,
        regions: Regions,
        *,
        kernel: Kernel,
        changed: Callable[[], object],
        say: Callable[[str], object],
    ) -> None:
        """device: open in memory's address space; both stay the caller's. regions: where the guest has its virtio-mem
        regions, all of which the mappers of their devices map into that address space. kernel: what waits. changed:
        called after every change that a status shows, from any thread. say: called with a line about each thing that
        happens, from the thread that serves: it must not wait for a reader.

        Raises VfioError if the socket cannot be made; nothing is served then.
        """
        self._options = options
        self._device = device
        self._memory = memory
        self._events = _Told(changed, lambda line: say(f"{device.address}: {line}"))
        # A simulated device has no file that anybody could map.
        shares_file = None if options.maps_registers else False
        with ExitStack() as stack:
            self._server = stack.enter_context(
                Server(
                    options.path,
                    ServedDevice(device, shares_file=shares_file),
                    IdentityListener(memory.listener(), regions, options.memory),
                    events=self._events,
                    permissions=options.permissions,
                    kernel=kernel,
                )
            )
            worker = Worker(f"pass {device.address}", [self._server], kernel=kernel, failed=self._events.failed)
            stack.callback(worker.close)
            super().__init__()
            self._stack = stack.pop_all()

    @property
    def device(self) -> Device:
        """The device that is served."""
        return self._device

    @property
    def options(self) -> PassthroughOptions:
        """What was asked for."""
        return self._options

    @property
    def status(self) -> ManagedPassed:
        """As a control socket shows it. Safe from any thread."""
        return ManagedPassed(
            device=self._device.address,
            socket=self._options.path,
            connected=self._server.connected,
            memory=sum(part.size for part in self._memory.mapped()),
            unmapped=self._events.unmapped,
        )

    def _release(self) -> None:
        self._stack.close()

    def __repr__(self) -> str:
        return f"<PassedDevice {self._device.address} at {self._options.path}{' closed' if self.closed else ''}>"


class _Told(ServerEvents):
    """Says what a server tells, and keeps what a status shows of it."""

    def __init__(self, changed: Callable[[], object], say: Callable[[str], object]) -> None:
        self._changed = changed
        # What a client makes happen, it can make happen as often as it likes.
        self._say = Lines(say).say
        self._unmapped: dict[int, int] = {}

    @property
    def unmapped(self) -> int:
        """Bytes that the client takes for mapped."""
        return sum([*self._unmapped.values()])

    def connected(self) -> None:
        self._changed()

    def turned_away(self) -> None:
        self._say("another client was turned away: there is one")

    def agreed(self) -> None:
        self._say("a virtual machine has the device")
        self._changed()

    def refused(self, command: str, error: OSError) -> None:
        """QEMU asks for what not every device has: that is no news."""

    def not_mapped(self, part: GuestRange, error: OSError) -> None:
        if not self._unmapped:
            self._say(f"the device gets no bus mastering: {error}")
        self._unmapped[part.address] = part.size
        self._changed()

    def still_mapped(self, address: int, error: OSError) -> None:
        self._say(f"{address:#x} is tried again: {error}")

    def not_ended(self, step: str, error: OSError) -> None:
        self._say(f"{step} failed at the end of the session: {error}")

    def disconnected(self, reason: str) -> None:
        self._say(
            f"the virtual machine has the device no more: {reason}; it is stopped, and what it could reach unmapped"
        )
        self._unmapped = {}
        self._changed()

    def failed(self, error: Exception) -> None:
        """What no client may cause."""
        self._say(f"it is served no more: {error!r}")
