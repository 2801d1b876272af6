"""Servers that are killed: each is forked from one process that has everything imported, within milliseconds."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyvfio import Container
from pyvfio.drivers.edu import edu_addresses
from pyvfio.kernel import LinuxKernel
from pyvfio.sim import SimKernel
from virtiomem.control import ControlServer
from virtiomem.discard import DiscardCoordination
from virtiomem.manager import Server, ServerKeeper
from virtiomem.persistence import DescriptorStore, NotifySocket, ServiceManager, SlotFile
from virtiomem.serving import EventLoop
from virtiomem.spaces import SpaceOptions
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions

PROGRAM = "import sys; from tests.support.vhost_user.mortal import main; main(*sys.argv[1:])"


class Mortal:
    """Serves at path, with a control socket at control, in processes that follow one another."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self.path = str(directory / "mem")
        self.control = directory / "control"
        self._pid = 0
        self._lock = threading.Lock()

    @property
    def keeper(self) -> int:
        """The number of the process that keeps descriptors."""
        return self._process.pid

    def start(self) -> None:
        """Serve. Returns when connections are taken."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write("serve\n")
            self._process.stdin.flush()
            self._pid = int(self._process.stdout.readline())

    def replace(self) -> None:
        """Kill, and start."""
        self.kill()
        self.start()

    def upgrade(self) -> None:
        """Have it end as a service manager does, and start."""
        self._end(signal.SIGTERM)
        self.start()

    def kill(self) -> None:
        """As kill -9 does. Twice is harmless, and from any thread."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        with self._lock:
            pid, self._pid = self._pid, 0
            if pid:
                assert self._process.stdout is not None
                os.kill(pid, number)
                assert self._process.stdout.readline().strip() == "gone"


@contextmanager
def mortal(
    directory: Path,
    address: int,
    region_size: int,
    block_size: int,
    *,
    keeps: bool = False,
    devices: Sequence[str] | None = None,
    requested: int | None = None,
) -> Iterator[Mortal]:
    """Every server serves a device like this, whose blocks are mapped into a simulated device's container.

    keeps: descriptors are kept for the next one. devices: of the machine, in whose containers blocks are mapped in
    place of that; their descriptors are kept, too. requested: bytes, to begin with (default: all).
    """
    arguments = [str(directory), *map(str, (address, region_size, block_size)), "keeps" * keeps]
    arguments += [
        str(region_size if requested is None else requested),
        *([] if devices is None else ["real", *devices]),
    ]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COVERAGE": ""},
    ) as process:
        servers = Mortal(process, directory)
        try:
            yield servers
        finally:
            servers.kill()
            process.kill()


def main(
    directory: str, address: str, region_size: str, block_size: str, keeps: str, requested: str, *devices: str
) -> None:
    """For each line read: fork a server, print its pid when it serves, and "gone" when it has gone."""
    place = Path(directory)
    options = ServedRegionOptions(
        str(place / "mem"),
        "vm0",
        int(address),
        int(region_size),
        int(block_size),
        requested_size=int(requested),
        state=place / "vm0.state",
    )
    notify = NotifySocket(place)
    for _ in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            store = DescriptorStore()
            if keeps:
                left = [(name, os.dup(fd)) for name, fd in notify.stored]
                store = DescriptorStore(ServiceManager(str(notify.path)), left)
            if devices:
                _serve_devices(options, place, writing, store, devices[1:])
            else:
                _serve(options, place, writing, store)
            os._exit(0)
        os.close(writing)
        process = os.pidfd_open(pid)
        waiting = {process, reading}
        while process in waiting:
            ready = select.select([*waiting, notify.fileno()], [], [])[0]
            notify.take(pid)
            if reading in ready:
                waiting.discard(reading)
                os.close(reading)
                print(pid, flush=True)
            elif process in ready:
                waiting.discard(process)
        os.close(process)
        os.waitpid(pid, 0)
        print("gone", flush=True)


def _serve_devices(
    options: ServedRegionOptions, place: Path, ready: int, store: DescriptorStore, devices: Sequence[str]
) -> None:
    """As virtiomem serve does."""
    with (
        EventLoop([], kernel=LinuxKernel()) as loop,
        SlotFile(place / "vm0.server") as file,
        Server(str(place / "control"), loop.stop, kernel=LinuxKernel(), keeper=ServerKeeper(file, store)) as server,
    ):
        for device in devices:
            server.add_space(SpaceOptions((device,)), keep=False)
        server.add_region(options, keep=False)
        server.go_on()
        signal.signal(signal.SIGTERM, lambda *_: loop.stop())
        os.write(ready, b"x")
        loop.run()
        server.hand_over()


def _serve(options: ServedRegionOptions, place: Path, ready: int, store: DescriptorStore) -> None:
    kernel = SimKernel(edu_devices=1)
    with (
        EventLoop([], kernel=LinuxKernel()) as loop,
        ControlServer(str(place / "control"), loop.stop) as control,
        Container(kernel=kernel) as container,
    ):
        container.open_device(edu_addresses(kernel)[0])
        with ServedRegion(
            options,
            [container],
            kernel=kernel,
            coordination=DiscardCoordination(),
            changed=control.changed,
            say=lambda _: None,
            store=store,
        ) as served:
            store.drop_unused()
            control.manage(served.managed)
            os.write(ready, b"x")
            loop.run()
