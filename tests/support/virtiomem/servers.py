"""A server in this process, on the simulated kernel, with a virtual machine monitor that is another process of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pyvfio import Container, Ioas, Iommufd, Memory, MemoryKind
from pyvfio.drivers.edu import Edu
from pyvfio.faults import FaultyKernel, Rule
from pyvfio.sim import SimKernel
from pyvfio.sim.iommufd import IoasState, IommufdFile
from pyvfio.sim.vfio import ContainerState
from tests.support.vhost_user.driver import PackedDriver, SplitDriver, ask, started
from tests.support.vhost_user.front_end import (
    BLOCK,
    REGION_ADDRESS,
    REGION_SIZE,
    REGION_USER_ADDRESS,
    Elsewhere,
    FrontEnd,
    Shared,
    region,
)
from virtiomem import RequestType, ResponseType
from virtiomem.control import ControlClient
from virtiomem.manager import RegionDefaults, RegionRequest, Server, ServerCommands
from virtiomem.vhost_user.abi.vhost_user import VhostUserMemoryRegion

STAGING_IOVA, STAGING_SIZE = 0x1000_0000, 1 << 20


class _FrontEnd(FrontEnd):
    """One whose region is elsewhere."""

    address = REGION_ADDRESS

    def regions(self) -> list[VhostUserMemoryRegion]:
        ram, _ = super().regions()
        return [ram, region(self.address, REGION_SIZE, REGION_USER_ADDRESS)]


class Guest:
    """A front end with a guest whose driver runs, of a device of a server."""

    def __init__(self, path: str, address: int = REGION_ADDRESS, region: Shared | None = None) -> None:
        self.address = address
        self.front_end = _FrontEnd(Elsewhere(path), region=region)
        self.front_end.address = address
        self.driver: SplitDriver | PackedDriver = started(self.front_end, "split")

    def ask(self, kind: RequestType, block: int = 0, count: int = 0) -> ResponseType:
        response = ask(self.driver, kind, self.address + block * BLOCK, count)
        assert response is not None
        return response.type

    def plug(self, block: int, count: int = 1) -> ResponseType:
        return self.ask(RequestType.PLUG, block, count)

    def unplug(self, block: int, count: int = 1) -> ResponseType:
        return self.ask(RequestType.UNPLUG, block, count)


class Monitor:
    """A virtual machine monitor: another process of the machine, which owns devices and lends their address spaces."""

    def __init__(self, machine: SimKernel, stack: ExitStack) -> None:
        self.kernel = machine.spawn()
        self.lent: list[int] = []
        self._machine = machine
        self._stack = stack

    def received(self, fd: int) -> int:
        """What came over the socket stands for what was lent before: simulated processes share no descriptors."""
        if not self.lent:
            return fd
        os.close(fd)
        return self.kernel.send(self.lent.pop(0), self._machine)

    def container(self, address: str = "0000:00:03.0") -> tuple[Container, Edu]:
        """A container with a device, for whose transfers memory of the monitor's own is mapped."""
        container = self._stack.enter_context(Container(kernel=self.kernel))
        device = container.open_device(address)
        container.map_dma(STAGING_IOVA, self.staging(), 0, STAGING_SIZE)
        return container, self._stack.enter_context(Edu(device))

    def staging(self) -> Memory:
        memory = Memory.allocate(MemoryKind.ANONYMOUS, STAGING_SIZE, kernel=self.kernel)
        memory.populate(0, STAGING_SIZE)
        return self._stack.enter_context(memory)

    def iommufd(self) -> Iommufd:
        return self._stack.enter_context(Iommufd(kernel=self.kernel))

    def lend(self, owner: Container | Iommufd) -> int:
        """The descriptor to hand over."""
        self.lent.append(owner.fd)
        return owner.fd


class Running:
    """machine: the simulated one. kernel: the server's, which can be made to fail. path: of the control socket."""

    def __init__(self, stack: ExitStack, directory: Path, devices: int, state: Path | None) -> None:
        self.machine = SimKernel(edu_devices=devices)
        self.kernel = FaultyKernel(self.machine)
        self.path = directory / "control"
        self.directory = directory
        self.told: list[str] = []
        self.monitor = Monitor(self.machine, stack)
        self.defaults = RegionDefaults(
            region_size=REGION_SIZE, block_size=BLOCK, requested_size=REGION_SIZE, address=REGION_ADDRESS, state=state
        )
        self.server = stack.enter_context(
            Server(str(self.path), lambda: None, kernel=self.kernel, say=self.told.append)
        )
        ServerCommands(self.server, "vm0", self.defaults, self.monitor.received)
        self.client = stack.enter_context(ControlClient(self.path))
        self._stack = stack

    def guest(self, name: str = "mem") -> Guest:
        """A guest of a device that is added for it."""
        path = str(self.directory / name)
        options_of = self.defaults.options(
            RegionRequest(path, name=name),
            name,
            self.server.region_options,
            kernel=self.machine,
            containers=0,
            spaces=0,
        )
        self.server.add_region(options_of)
        guest = Guest(path, options_of.address)
        self._stack.callback(guest.front_end.close)
        return guest

    def arm(self, *rules: Rule) -> None:
        self.kernel.arm(*rules)


@contextmanager
def running(directory: Path, *, devices: int = 2, state: Path | None = None) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(stack, directory, devices, state)


def held(machine: SimKernel, space: Container | Ioas) -> list[tuple[int, int]]:
    """What the kernel has mapped there, by whichever process: iova and size, ascending."""
    if isinstance(space, Ioas):
        iommufd = machine.process.file(space.iommufd.fd, IommufdFile)
        assert iommufd is not None
        return [
            (area.iova, area.size)
            for state in iommufd.context.objects(IoasState)
            if state.id == space.id
            for area in state.areas
        ]
    state = machine.process.file(space.fd, ContainerState)
    assert state is not None
    return [(mapping.iova, mapping.size) for mapping in state.mappings]


def descriptors() -> int:
    """How many this process has open, without those that the simulated kernel keeps of files that were mapped.

    A thread of an earlier test may close the last of its own meanwhile: a leak is to have more than before.
    """
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum("memfd:guest" not in link for link in links)


def blocks(*numbers: int) -> list[tuple[int, int]]:
    """Mappings of these blocks of the region."""
    return [(REGION_ADDRESS + number * BLOCK, BLOCK) for number in numbers]
