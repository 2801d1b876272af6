"""StandInGuest: plugs and unplugs what is requested as Linux's driver does, where there is no guest."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyvfio.resource import Resource
from pyvfio.units import format_size
from virtiomem.device import Request, RequestType, Response, ResponseType, VirtioMem
from virtiomem.discard import Telling
from virtiomem.runs import Run, subtract, union

FIRST_RETRY = 1.0
"""Seconds from the first BUSY to the next try."""

_LAST_RETRY = 60.0


class StandInGuest(Resource):
    """Plugs the lowest block and unplugs the highest, one block a request, in wire format.

    After BUSY it tries again, later each time; after NACK it waits for the next change of the config; after ERROR it
    gives up, as Linux does. It follows changes of the config in a thread of its own until close(). What it has plugged
    stays plugged then.
    """

    def __init__(self, device: VirtioMem, changed: Callable[[], object] = lambda: None) -> None:
        """Become the driver of device, of which nothing is plugged.

        changed: called when state has changed, from the stand-in's thread; what it raises is logged, and stops nothing.
        Raises FeaturesRefused.
        """
        self._device = device
        self._changed = changed
        self._telling = Telling("stand-in guest")
        # By number: a guest has that in its memory, which a migration takes along.
        self._plugged: list[Run] = []
        self._asking = threading.Lock()
        self._wake = threading.Event()
        self._ending = False
        self._state = "idle"
        self._waiting_for: str | None = None
        device.negotiate(int(device.features))
        super().__init__()
        self._thread = threading.Thread(target=self._run, name="stand-in guest", daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        """What it does, in words for people."""
        return f"stand-in: {self._state}"

    @property
    def waiting_for(self) -> str | None:
        """Why its last request was refused; None if it was acknowledged."""
        return self._waiting_for

    def config_changed(self) -> None:
        """virtio's configuration change interrupt. Safe from any thread, with any lock held."""
        self._wake.set()

    def request_refused(self, reason: str) -> None:
        """Keep why the last request was refused. No guest is told that, but whoever looks at this one is."""
        self._waiting_for = reason

    def load(self, state: bytes) -> None:
        """Give the device this state, and go on as the driver of the one that it was saved of.

        Raises what VirtioMem.load() raises; nothing has changed then.
        """
        with self._asking:
            self._device.load(state)
            if self._device.broken:
                # As a driver that finds DEVICE_NEEDS_RESET.
                self._device.device_reset()
                self._device.negotiate(int(self._device.features))
            config = self._device.config
            self._plugged = [
                Run((run.start - config.addr) // config.block_size, run.size // config.block_size)
                for run in self._device.plugged_runs
            ]
        self._wake.set()

    def _run(self) -> None:
        retry = FIRST_RETRY
        while not self._ending:
            self._wake.clear()
            answer = self._catch_up()
            if answer is ResponseType.ERROR:
                self._become("has given up: a request was answered ERROR")
                return
            if answer is ResponseType.BUSY:
                self._become(f"busy, tries again in {retry:g} s")
                self._wake.wait(retry)
                retry = min(2 * retry, _LAST_RETRY)
            else:
                if answer is ResponseType.ACK:
                    self._waiting_for = None
                self._become("idle")
                retry = FIRST_RETRY
                self._wake.wait()

    def _catch_up(self) -> ResponseType:
        """Ask until plugged is what is requested, or a request is refused; return the last answer."""
        answer = ResponseType.ACK
        while answer is ResponseType.ACK and not self._ending:
            with self._asking:
                wanted = self._wanted()
                if wanted is None:
                    break
                kind, block = wanted
                answer = self._ask(kind, block)
        return answer

    def _wanted(self) -> tuple[RequestType, int] | None:
        """What to ask for next, and for which block; None if plugged is what is requested, as far as it can be."""
        config, plugged = self._device.config, self._plugged
        held = sum(run.size for run in plugged) * config.block_size
        lowest = plugged[0].end if plugged and not plugged[0].start else 0
        fits = (lowest + 1) * config.block_size <= config.usable_region_size
        if held + config.block_size <= config.requested_size and fits:
            self._become(f"plugs up to {format_size(config.requested_size)}")
            return RequestType.PLUG, lowest
        if held > config.requested_size:
            self._become(f"unplugs down to {format_size(config.requested_size)}")
            return RequestType.UNPLUG, plugged[-1].end - 1
        return None

    def _ask(self, kind: RequestType, block: int) -> ResponseType:
        config = self._device.config
        request = Request(kind, config.addr + block * config.block_size, 1)
        answer = Response.parse(self._device.handle(bytes(request))).type
        if answer is ResponseType.ACK:
            change = [Run(block, 1)]
            plug = kind is RequestType.PLUG
            self._plugged = union([*self._plugged, *change]) if plug else subtract(self._plugged, change)
        return answer

    def _become(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._telling.tell(self._changed)

    def _release(self) -> None:
        if not self._inherited:
            self._ending = True
            self._wake.set()
            self._thread.join()

    def __repr__(self) -> str:
        return f"<StandInGuest of {self._device.name}>"
