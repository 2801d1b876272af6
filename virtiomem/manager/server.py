"""Server: devices that are served and address spaces that map them, which come and go while guests run."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pyvfio.errors import DeviceBusy, InvalidArgument, VfioError
from pyvfio.kernel import Kernel
from pyvfio.resource import Resource
from virtiomem.control import ControlServer, check_name
from virtiomem.discard import DiscardCoordination
from virtiomem.manager.defaults import check_beside
from virtiomem.manager.keeping import ServerKeeper
from virtiomem.manager.passed import PassedDevices
from virtiomem.passthrough import PassedDevice, PassthroughOptions
from virtiomem.runs import Run
from virtiomem.spaces import OpenSpace, SpaceKind, SpaceOptions, open_space, space_name
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions

_PATIENCE: Final = 60.0
"""Seconds that a change waits for the one before it."""


@dataclass(frozen=True, slots=True)
class _Region:
    """A region that is served, as it was asked for. closing: closes it, and then its trace."""

    options: ServedRegionOptions
    served: ServedRegion
    closing: ExitStack


class Server(Resource):
    """Serves from the beginning until close(). Nothing of it is mapped, open or listening then.

    Every region is mapped into every address space. One change is made at a time, and each is made whole or not at all;
    guests are served meanwhile, and only a request to the region that is just being mapped waits. Methods may be called
    from any thread.

    control: the control socket. kernel: what maps, and opens devices.
    """

    def __init__(
        self,
        path: str,
        stop: Callable[[], None],
        *,
        kernel: Kernel,
        say: Callable[[str], object] = lambda _: None,
        keeper: ServerKeeper | None = None,
    ) -> None:
        """path: of the control socket. stop: what its stop command calls. say: as ServedRegion has it. keeper: keeps
        what there is for the server that follows, and has what the one before left; it stays the caller's.

        Raises VfioError if the socket cannot be made.
        """
        self.kernel = kernel
        self._say = say
        self._keeper = keeper or ServerKeeper()
        self._coordination = DiscardCoordination()
        self._changes = threading.Lock()
        self._is_replaced = False
        # Each change puts another one in its place: whoever looks needs no lock.
        self._regions: Mapping[str, _Region] = {}
        self._spaces: Mapping[str, OpenSpace] = {}
        self._passed = PassedDevices(self._runs)
        self.control = ControlServer(path, stop)
        super().__init__()

    @property
    def regions(self) -> tuple[ServedRegion, ...]:
        """Those that are served just now, in the order in which they were added."""
        return tuple(region.served for region in self._regions.values())

    @property
    def region_options(self) -> tuple[ServedRegionOptions, ...]:
        """What is served just now, as it was asked for; a block size that nobody named is there, too."""
        return tuple(region.options for region in self._regions.values())

    @property
    def spaces(self) -> tuple[OpenSpace, ...]:
        """The address spaces just now, in the order in which they were added."""
        return tuple(self._spaces.values())

    @property
    def passed(self) -> tuple[PassedDevice, ...]:
        """The devices that a guest drives just now, in the order in which they were passed."""
        return self._passed.devices

    @property
    def containers(self) -> int:
        """How many of the address spaces are containers, which have a limit of mappings."""
        return sum(space.kind is SpaceKind.CONTAINER for space in self.spaces)

    def region(self, name: str) -> ServedRegion:
        """The region of the device with this name. Raises InvalidArgument if there is none."""
        return self._region(name).served

    def add_region(self, options: ServedRegionOptions, *, trace: Path | None = None, keep: bool = True) -> ServedRegion:
        """Serve another device, mapped into every address space. It is the server's, and shown by the control socket.

        trace: the file that what its guest asks is written to, from its start; None for options.record. keep: have the
        server that follows serve it, too, without being told.
        Raises InvalidArgument if its name, socket or addresses are another's, and what ServedRegion raises; nothing of
        it stays then.
        """
        check_name(options.name)
        with self._changing(f"serve {options.name}"):
            check_beside(options, self.region_options)
            # What is not to outlive the process may still have a socket that was there before it.
            is_kept = options.state is not None or not self._keeper.store.is_lasting
            with ExitStack() as closing:
                given = options
                if trace is not None:
                    given = replace(options, record=closing.enter_context(trace.open("w", encoding="utf-8")))
                served = closing.enter_context(
                    ServedRegion(
                        given,
                        [space.space for space in self.spaces if not space.is_gone],
                        taken_up=[space.space for space in self.spaces if space.is_taken_up and not space.is_gone],
                        store=self._keeper.store if is_kept else None,
                        kernel=self.kernel,
                        coordination=self._coordination,
                        changed=self.control.changed,
                        say=self._say,
                    )
                )
                self.control.manage(served.managed)
                self._regions = {**self._regions, options.name: _Region(options, served, closing.pop_all())}
                self._passed.refresh()
                if keep:
                    self._keeper.region_added(options)
        return served

    def remove_region(self, name: str, *, force: bool = False) -> None:
        """Serve the device no more: all of it is unmapped, and what its guest has plugged stays the guest's memory.

        What is kept of it beyond the process stays, so that add_region() with the same options goes on. Raises
        InvalidArgument if there is none, and DeviceBusy, with nothing changed, if a guest whose front end is connected
        has blocks plugged, which it can give back to nobody then, unless force; and what closing it raises: it is not
        served any more then.
        """
        with self._changing(f"remove {name}"):
            region = self._region(name)
            plugged = region.served.managed.device.plugged_size
            if plugged and region.served.connected and not force:
                raise DeviceBusy(
                    errno.EBUSY,
                    f"remove {name}",
                    {"plugged": plugged},
                    "its guest has blocks plugged, and its front end is connected: nobody will be there to unplug them",
                    "Resize it to nothing first, or say that this is meant (--yes)",
                )
            self._forget(name)
            self._keeper.region_removed(name)
            region.served.give_up()
            region.closing.close()

    def reset_region(self, name: str) -> int:
        """The guest of a device has ended for good: see ServedRegion.reset(), whose result and errors these are.

        Raises InvalidArgument if there is no such device, too.
        """
        with self._changing(f"reset {name}"):
            return self._region(name).served.reset()

    def add_space(self, options: SpaceOptions, *, keep: bool = True) -> OpenSpace:
        """Open an address space and map every region into it: all that is plugged, and what will be.

        keep: have the server that follows have it, too, without being told.
        Raises InvalidArgument for a name that another one has, and what open_space() and ServedRegion.join() raise;
        nothing is mapped or open then.
        """
        name = space_name(options, self.kernel)
        return self.adopt_space(
            lambda: self._keeper.opened(name, lambda: open_space(options, self.kernel), self.kernel), keep=keep
        )

    def go_on(self) -> None:
        """Have what the server before had beyond what add_space() and add_region() have been told, and keep no more.

        What cannot be had again is said, and costs nobody else anything.
        """
        for name in self._keeper.left_spaces:
            try:
                self.adopt_space(lambda name=name: self._keeper.opened(name, _gone(name), self.kernel))  # type: ignore[misc]
            except VfioError as error:
                self._say(f"address space {name} is left out: {error}")
        for options in self._keeper.added_regions:
            try:
                self.add_region(options)
            except VfioError as error:
                self._say(f"{options.name} is left out: {error}")
        self._keeper.settled()

    def hand_over(self) -> None:
        """Close it, and leave all to the server that follows: front ends, what is plugged and what is mapped.

        Without a service manager that keeps descriptors this is close().
        """
        if not self._keeper.store.is_lasting:
            self.close()
            return
        with self._changes, ExitStack() as leaving:
            self._is_replaced = True
            for region in self.regions:
                leaving.callback(region.hand_over)
            for space in self.spaces:
                leaving.callback(space.hand_over)
            # A request that is being carried out is answered first: a guest that got BUSY instead would wait.
            for region in self.regions:
                leaving.callback(region.pause)
        self.close()

    def adopt_space(self, opening: Callable[[], OpenSpace], *, keep: bool = True) -> OpenSpace:
        """As add_space(), for an address space that opening opens. It is the server's, and closed here on a failure."""
        with self._changing("add address space"), ExitStack() as undo:
            space = undo.enter_context(opening())
            check_name(space.name)
            if space.name in self._spaces:
                meaning = "another address space has that name"
                raise InvalidArgument(errno.EEXIST, "add address space", {"name": space.name}, meaning)
            self._keeper.space_added(space, is_told=not keep)
            undo.callback(self._keeper.space_removed, space.name)
            for region in self.regions:
                region.join(space.space, takes_up=space.is_taken_up)
                undo.callback(region.leave, space.space)
            self._spaces = {**self._spaces, space.name: space}
            undo.pop_all()
        self.control.changed()
        return space

    def remove_space(self, name: str) -> None:
        """Unmap every region from an address space, and close what was opened for it.

        Raises InvalidArgument if there is none, and what ServedRegion.leave() raises: it stays then, with all that is
        mapped, or the devices' divergences say what is not. What closing it raises comes when it is gone.
        """
        with self._changing(f"remove address space {name}"):
            if name not in self._spaces:
                raise InvalidArgument(errno.ENOENT, f"remove address space {name}", meaning=_one_of(self._spaces))
            space = self._spaces[name]
            self._passed.require_free(space)
            with ExitStack() as undo:
                for region in reversed(self.regions):
                    # One whose owner has gone is in the devices that were there before alone.
                    if space.space in region.address_spaces:
                        region.leave(space.space)
                        undo.callback(region.join, space.space)
                undo.pop_all()
            self._spaces = {other: kept for other, kept in self._spaces.items() if kept is not space}
            self.control.changed()
            self._keeper.space_removed(name)
            space.close()

    def pass_device(self, options: PassthroughOptions) -> PassedDevice:
        """Serve a device to a guest, which drives it: one that is open in an address space of the server.

        All regions of the server are that guest's: the device reaches what is plugged of each, and the memory that the
        guest boots from. Raises InvalidArgument for a device that is not open here or is passed already, and what
        PassedDevice raises; nothing is served then.
        """
        with self._changing(f"pass {options.device}"):
            device = self._passed.add(options, self.spaces, self.kernel, self.control.changed, self._say)
        self.control.changed()
        return device

    def _runs(self) -> list[Run]:
        return [Run(region.address, region.region_size) for region in self.region_options]

    def give_up(self) -> None:
        """Answer plugs that take long BUSY, and every later one: close() is about to follow. Safe from any thread."""
        for region in self.regions:
            region.give_up()

    def _region(self, name: str) -> _Region:
        if name not in self._regions:
            raise InvalidArgument(errno.ENOENT, f"device {name}", meaning=_one_of(self._regions))
        return self._regions[name]

    def _forget(self, name: str) -> None:
        self.control.forget(name)
        self._regions = {other: region for other, region in self._regions.items() if other != name}

    @contextmanager
    def _changing(self, operation: str) -> Iterator[None]:
        """For the length of a with block nobody else changes what there is. Raises DeviceBusy, ClosedError."""
        self.require_open()
        if not self._changes.acquire(timeout=_PATIENCE):
            raise DeviceBusy(
                errno.EBUSY, operation, meaning=f"another change has not ended for {_PATIENCE:.0f} seconds"
            )
        try:
            # It may have been closed meanwhile.
            self.require_open()
            if self._is_replaced:
                raise DeviceBusy(errno.EBUSY, operation, meaning="the server is being replaced", advice="Try again")
            yield
        finally:
            self._changes.release()

    def _release(self) -> None:
        # Last of all the control socket, which whoever has asked for a stop waits for; and without the lock, which a
        # client may wait for.
        with ExitStack() as last:
            last.callback(self.control.close)
            if self._inherited:
                # The parent's threads and mappings are not here; each object gives its own copies up.
                self._close_all()
                return
            # Before the first of them is waited for, and once more for what a change that was under way has added.
            self.give_up()
            with self._changes:
                self.give_up()
                self._close_all()

    def _close_all(self) -> None:
        if not self._inherited:
            for space in self.spaces:
                # Those that were handed over are kept; nobody needs these any more.
                if not space.closed:
                    self._keeper.space_removed(space.name)
        with ExitStack() as closing:
            for space in self.spaces:
                closing.callback(space.close)
            for name, region in self._regions.items():
                closing.callback(region.closing.close)
                closing.callback(self.control.forget, name)
            # First of all: no guest drives a device any more whose memory is unmapped.
            closing.callback(self._passed.close)

    def __repr__(self) -> str:
        return f"<Server {self.control.path}>"


def _one_of(names: Mapping[str, object]) -> str:
    return f"there is none of that name: there are {', '.join(names)}" if names else "there is none"


def _gone(name: str) -> Callable[[], OpenSpace]:
    """Opens an address space that cannot be opened anew: nobody says what it is of."""

    def opening() -> OpenSpace:
        raise VfioError(errno.ENOENT, f"address space {name}", meaning="its descriptors were not kept")

    return opening
