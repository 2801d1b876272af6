"""A server that another one follows: address spaces and devices, given and added, are as they were."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pyvfio import Container, Ioas, VfioError
from pyvfio.abi import vfio
from pyvfio.faults import Fault, FaultyKernel
from pyvfio.sim import SimKernel
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE
from tests.support.virtiomem.servers import Guest, Monitor, blocks, held
from virtiomem import ResponseType
from virtiomem.manager import RegionDefaults, RegionRequest, Server, ServerKeeper
from virtiomem.persistence import DescriptorStore, NotifySocket, ServiceManager, SlotFile
from virtiomem.spaces import Received, SpaceKind, SpaceOptions, lent_container
from virtiomem.vhost_user import ServedRegionOptions

ACK = ResponseType.ACK
DEVICES = ("0000:00:03.0", "0000:00:04.0", "0000:00:05.0")
OF_THE_MACHINE = ("container", "iommufd", "group", "device")


class Store(DescriptorStore):
    """One that keeps the simulated kernel's descriptors in a dictionary, and all others with a service manager."""

    def __init__(self, kernel: FaultyKernel, kept: dict[str, int], notify: NotifySocket) -> None:
        left = [(name, os.dup(fd)) for name, fd in notify.stored]
        super().__init__(ServiceManager(str(notify.path)), left)
        self._kernel = kernel
        self._kept = kept
        self._used: set[str] = set()

    def keep(self, fd: int, kind: str) -> str:
        if kind not in OF_THE_MACHINE:
            return super().keep(fd, kind)
        name = f"{kind}.{len(self._kept):012x}"
        self._kept[name] = self._kernel.dup(fd)
        self._used.add(name)
        return name

    def use(self, name: str) -> int:
        if name not in self._kept:
            return super().use(name)
        self._used.add(name)
        return self._kernel.dup(self._kept[name])

    def drop(self, name: str) -> None:
        if name in self._kept:
            self._kernel.close(self._kept.pop(name))
        else:
            super().drop(name)

    def drop_unused(self, names: Collection[str] | None = None) -> None:
        super().drop_unused(names)
        for name in self._kept.keys() - self._used:
            if names is None or name in names:
                self.drop(name)


@dataclass
class Scene:
    """A machine with servers that follow one another. kept: the descriptors that are kept of the machine's."""

    directory: Path
    notify: NotifySocket
    stack: ExitStack
    machine: SimKernel = field(default_factory=lambda: SimKernel(edu_devices=3))
    kept: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kernel = FaultyKernel(self.machine)
        self.monitor = Monitor(self.machine, self.stack)

    @contextmanager
    def server(self) -> Iterator[Server]:
        """The next one, with a device at "given", whose end leaves all to the one after it."""
        with (
            SlotFile(self.directory / "server") as file,
            Store(self.kernel, self.kept, self.notify) as store,
            Server(
                str(self.directory / "control"),
                lambda: None,
                kernel=self.kernel,
                say=self.said.append,
                keeper=ServerKeeper(file, store),
            ) as server,
        ):
            try:
                yield server
            finally:
                if not server.closed:
                    server.hand_over()

    def options(self, name: str, server: Server) -> ServedRegionOptions:
        defaults = RegionDefaults(
            region_size=REGION_SIZE,
            block_size=BLOCK,
            requested_size=REGION_SIZE,
            address=REGION_ADDRESS,
            state=self.directory / "state",
        )
        request = RegionRequest(str(self.directory / name), name=name)
        return defaults.options(request, name, server.region_options, kernel=self.machine, containers=0, spaces=0)

    def guest(self, name: str, address: int) -> Guest:
        guest = Guest(str(self.directory / name), address)
        self.stack.callback(guest.front_end.close)
        return guest


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    ending = threading.Event()
    with ExitStack() as stack:
        notify = stack.enter_context(NotifySocket(tmp_path))

        def take() -> None:
            while not ending.wait(0.002):
                notify.take(os.getpid())

        thread = threading.Thread(target=take)
        thread.start()
        stack.callback(thread.join)
        stack.callback(ending.set)
        yield Scene(tmp_path, notify, stack)


def mapped(scene: Scene, server: Server) -> list[list[tuple[int, int]]]:
    found = []
    for space in server.spaces:
        assert isinstance(space.space, Container | Ioas)
        found.append(held(scene.machine, space.space))
    return found


@pytest.mark.parametrize("kind", SpaceKind)
def test_all_that_a_server_had_the_next_one_has(scene: Scene, kind: SpaceKind) -> None:
    owner, _ = scene.monitor.container(DEVICES[2])
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1], kind), keep=False)
        server.add_region(given := scene.options("given", server), keep=False)
        server.go_on()
        server.add_space(SpaceOptions(DEVICES[1:2], kind, "added"))
        fd = scene.monitor.kernel.send(owner.fd, scene.machine)
        server.adopt_space(
            lambda: lent_container(os.open("/dev/null", os.O_RDWR), "lent", scene.kernel, received=_as(fd))
        )
        added = scene.options("more", server)
        server.add_region(added)
        guests = [scene.guest("given", given.address), scene.guest("more", added.address)]
        for guest in guests:
            assert guest.plug(0, 3) == ACK
        before = mapped(scene, server)
        assert [len(each) for each in before] == [6, 6, 7]
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1], kind), keep=False)
        server.add_region(given, keep=False)
        server.go_on()
        assert [space.name for space in server.spaces] == [DEVICES[0], "added", "lent"]
        assert [region.managed.name for region in server.regions] == ["given", "more"]
        assert mapped(scene, server) == before
        for guest in guests:
            # Once more than there are answers.
            assert guest.front_end.called()
            assert guest.unplug(1) == ACK
            assert guest.plug(7) == ACK
        assert mapped(scene, server)[0] == sorted(
            (iova + distance, size) for iova, size in blocks(0, 2, 7) for distance in (0, added.address - given.address)
        )
        server.remove_space("added")
        server.remove_region("more", force=True)
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1], kind), keep=False)
        server.add_region(given, keep=False)
        server.go_on()
        assert [space.name for space in server.spaces] == [DEVICES[0], "lent"]
        assert [region.managed.name for region in server.regions] == ["given"]
        assert mapped(scene, server)[0] == blocks(0, 2, 7)
        assert guests[0].front_end.called()
        assert guests[0].plug(1) == ACK
    assert not [line for line in scene.said if "left out" in line]


def _as(fd: int) -> Received:
    """Stands for fd, as simulated processes share no descriptors with this one."""

    def received(placeholder: int) -> int:
        os.close(placeholder)
        return fd

    return received


def test_what_no_longer_is_on_the_command_line_is_let_go(scene: Scene) -> None:
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1]), keep=False)
        server.go_on()
        assert len(scene.kept) == 3
    with scene.server() as server:
        # It was not added while the server ran: what is on the command line counts.
        server.add_space(SpaceOptions(DEVICES[1:2]), keep=False)
        server.go_on()
        assert [space.name for space in server.spaces] == [DEVICES[1]]
        assert len(scene.kept) == 3


def test_a_start_that_fails_leaves_all_to_the_next_one(scene: Scene) -> None:
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1]), keep=False)
        server.add_region(given := scene.options("given", server), keep=False)
        server.go_on()
        guest = scene.guest("given", given.address)
        assert guest.plug(0, 3) == ACK
        before = mapped(scene, server)
    scene.kernel.arm(Fault(nth=1, name="ioctl", request=vfio.VFIO_IOMMU_MAP_DMA, errno=errno.EIO))
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1]), keep=False)
        with pytest.raises(VfioError, match="EIO"):
            server.add_region(given, keep=False)
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1]), keep=False)
        server.add_region(given, keep=False)
        server.go_on()
        assert mapped(scene, server) == before
        assert guest.front_end.called()
        assert guest.plug(5) == ACK


@pytest.mark.parametrize("lost", OF_THE_MACHINE)
@pytest.mark.parametrize("kind", SpaceKind)
def test_an_address_space_of_which_something_was_not_kept_is_opened_anew(
    scene: Scene, kind: SpaceKind, lost: str
) -> None:
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1], kind), keep=False)
        server.add_region(given := scene.options("given", server), keep=False)
        server.go_on()
        guest = scene.guest("given", given.address)
        assert guest.plug(0, 3) == ACK
        before = mapped(scene, server)
    for name in [name for name in scene.kept if name.startswith(f"{lost}.")]:
        scene.kernel.close(scene.kept.pop(name))
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1], kind), keep=False)
        server.add_region(given, keep=False)
        server.go_on()
        assert mapped(scene, server) == before


def test_a_server_may_be_handed_over_twice(scene: Scene) -> None:
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1]), keep=False)
        server.add_region(given := scene.options("given", server), keep=False)
        server.go_on()
        server.go_on()
        assert scene.guest("given", given.address).plug(0, 3) == ACK
        before = mapped(scene, server)
        server.hand_over()
        server.hand_over()
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1]), keep=False)
        server.add_region(given, keep=False)
        server.go_on()
        assert mapped(scene, server) == before


def test_a_server_that_is_stopped_leaves_nothing_to_anybody(scene: Scene) -> None:
    with scene.server() as server:
        server.add_space(SpaceOptions(DEVICES[:1]), keep=False)
        server.add_region(scene.options("given", server), keep=False)
        server.go_on()
        server.close()
        assert scene.kept == {}
        assert server.closed
