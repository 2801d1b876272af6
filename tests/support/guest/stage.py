"""Stage: a device served to real guests, whose every request is written down."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self, TextIO

from vmlib.guest import Guest
from vmlib.kernels import Image

from pyvfio import Kernel, SharedMemory, VfioError
from tests.support.guest.view import View, expected, total
from virtiomem import Config, Events, Request, RequestType, Response, ResponseType, Run
from virtiomem.runs import subtract
from virtiomem.serving import EventLoop
from virtiomem.trace import RecordedVirtioMem
from virtiomem.vhost_user import ConfigChanges, FrontEndEvents, VhostUserDevice

ADDRESS = 0x1_0000_0000
SIZE = 2 << 30
PATIENCE = 300.0
"""Seconds until what is waited for has failed to come."""

Exchange = tuple[Request, Response]


class Stage(FrontEndEvents, Events):
    """Serves in a thread of its own. The region's memory is a file that outlives any front end.

    exchanges: every request and its answer. words: what else happened, in order.
    """

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None],
        *,
        block_size: int = 2 << 20,
        packed: bool = True,
        kernel: Kernel | None = None,
        record: TextIO | None = None,
    ) -> None:
        """kernel: of what the region is to be mapped into. record: where a trace of what the guest asks goes, to be
        replayed with one address space."""
        self.exchanges: list[Exchange] = []
        self.words: list[str] = []
        self.booted_with = 0
        self._say = say
        self._happened = threading.Condition()
        self._socket = str(directory / "device")
        with ExitStack() as stack:
            self._file = os.memfd_create("region", os.MFD_CLOEXEC)
            stack.callback(os.close, self._file)
            os.ftruncate(self._file, SIZE)
            changes = stack.enter_context(ConfigChanges(self))
            memory = stack.enter_context(SharedMemory(SIZE, kernel=kernel))
            self.memory = memory
            self.device = stack.enter_context(
                RecordedVirtioMem(memory, address=ADDRESS, block_size=block_size, events=changes, prealloc=False)
            )
            if record is not None:
                self.device.record(record)
            served = stack.enter_context(
                VhostUserDevice(self._socket, self.device, memory, changes, self, packed=packed)
            )
            server = stack.enter_context(EventLoop([served]))
            serving = threading.Thread(target=server.run)
            serving.start()
            stack.callback(serving.join)
            stack.callback(server.stop)
            self._cleanup = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @contextmanager
    def guest(self, image: Image, **options: object) -> Iterator[Guest]:
        """A guest that has booted, with nothing plugged yet unless the device has."""
        starts = self.words.count("started")
        backend = f"memory-backend-file,mem-path=/proc/{os.getpid()}/fd/{self._file}"
        with Guest(image, self._socket, ADDRESS, SIZE, backend=backend, **options) as guest:  # type: ignore[arg-type]
            guest.wait_until_booted()
            self.wait_for("the driver to start", lambda: self.words.count("started") > starts)
            if not self.device.plugged_size:
                self.booted_with = total(guest)
            yield guest

    def wait_for(self, what: str, holds: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Until it holds, looked at after everything that happens."""
        with self._happened:
            assert self._happened.wait_for(holds, patience), f"{what} did not come about: {self.words[-5:]}"

    def reach(self, guest: Guest, size: int) -> None:
        """Ask for size bytes, and see the guest get there: its own view and the device's are the same."""
        before, first = self.device.plugged_size, len(self.exchanges)
        self.device.resize(size)
        self.arrive(guest, before, first)

    def arrive(self, guest: Guest, before: int, first: int) -> None:
        """See the guest get to what it was asked for. before: what was plugged then; first: which exchange is new."""
        size = self.device.config.requested_size
        self.wait_for(f"{size:#x} bytes plugged", lambda: self.device.plugged_size == size)
        wanted = expected(self.device, before)
        view = self._settled(guest, wanted)
        counts = ", ".join(f"{count} {name}" for name, count in self.counted(first).items())
        self._say(f"{size >> 20} MiB: {view} = plugged {self.device.plugged_size >> 20} MiB; {counts or 'no request'}")
        assert view == wanted
        self.check_memory()

    def check_memory(self) -> None:
        """No page of the region's memory is outside of what is plugged."""
        assert os.fstat(self._file).st_blocks * 512 <= self.device.plugged_size
        for run in subtract([Run(ADDRESS, SIZE)], self.device.plugged_runs):
            assert not self.memory.resident(run.start - ADDRESS, run.size)

    def counted(self, first: int = 0) -> dict[str, int]:
        """How often there was which request with which answer, from the first exchange on."""
        counts: dict[str, int] = {}
        for request, response in self.exchanges[first:]:
            name = f"{request.type.name} {response.type.name}"
            counts[name] = counts.get(name, 0) + 1
        return counts

    def answers(self, kind: RequestType) -> list[ResponseType]:
        return [response.type for request, response in self.exchanges if request.type is kind]

    def _settled(self, guest: Guest, wanted: View) -> View:
        """What the guest says once it has done what follows the last answer, which nobody else is told of."""
        deadline = time.monotonic() + PATIENCE
        while (view := View.of(guest, self.booted_with)) != wanted and time.monotonic() < deadline:
            pass
        return view

    # What the device tells.

    def _note(self, word: str) -> None:
        with self._happened:
            self.words.append(word)
            self._happened.notify_all()

    def connected(self) -> None:
        self._note("connected")

    def disconnected(self, reason: str) -> None:
        self._note(f"disconnected: {reason}")

    def attached(self, size: int) -> None:
        self._note(f"attached {size:#x}")

    def started(self, features: int) -> None:
        self._say(f"the driver started with features {features:#x}")
        self._note("started")

    def stopped(self) -> None:
        self._note("stopped")

    def answered(self, request: bytes, response: bytes) -> None:
        with self._happened:
            self.exchanges.append((Request.parse(request, len(response)), Response.parse(response)))
            self._happened.notify_all()

    def told_of_change(self) -> None:
        self._note("told of a change")

    def refused(self, operation: str, error: VfioError) -> None:
        self._note(f"refused {operation}: {error}")

    def broken(self, error: VfioError) -> None:
        self._note(f"broken: {error}")

    def config_changed(self, config: Config) -> None:
        self._note(f"requested {config.requested_size >> 20} MiB")
