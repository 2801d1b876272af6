"""ServerKeeper: what a server has beyond its command line, and its address spaces, for the server that follows it."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Final

from pyvfio.errors import VfioError
from pyvfio.kernel import Kernel
from virtiomem.persistence import DescriptorStore, ServiceManager, SlotFile, inherited, state_file
from virtiomem.spaces import KeptSpace, OpenSpace
from virtiomem.vhost_user import ServedRegionOptions

_log = logging.getLogger(__package__)
_VERSION: Final = 1


class ServerKeeper:
    """Keeps which address spaces a server has, with their descriptors, and which devices were added while it ran.

    One thread at a time uses it. What cannot be kept does not outlive the process; the log says so.
    """

    def __init__(self, file: SlotFile | None = None, store: DescriptorStore | None = None) -> None:
        """file, store: where it is kept; they stay the caller's. None: nothing is.

        Raises VfioError for content of file that is none of ours.
        """
        self._file = file
        self._store = store or DescriptorStore()
        self._spaces: dict[str, KeptSpace] = {}
        # Those that the server after this one has only if it is told so, too.
        self._told: set[str] = set()
        self._added: dict[str, ServedRegionOptions] = {}
        self._left: dict[str, KeptSpace] = {}
        if file is not None and file.content is not None:
            try:
                self._find(file.content)
            except VfioError as error:
                advice = "Remove it, and add again what was added while that server ran"
                raise VfioError(
                    error.errno or errno.EPROTO, f"go on from {file.path}", meaning=error.meaning, advice=advice
                ) from error

    @property
    def store(self) -> DescriptorStore:
        """Where descriptors are kept."""
        return self._store

    @property
    def left_spaces(self) -> tuple[str, ...]:
        """The names of the address spaces that were added to the server before, and nobody has taken up yet."""
        return tuple(name for name in self._left if name not in self._told)

    @property
    def added_regions(self) -> tuple[ServedRegionOptions, ...]:
        """The devices that were added while a server ran, this one or one before it."""
        return tuple(self._added.values())

    def opened(self, name: str, opening: Callable[[], OpenSpace], kernel: Kernel) -> OpenSpace:
        """The address space of this name: as the server before has left it, or else opened anew. Raises what opening
        raises."""
        left = self._left.pop(name, None)
        if left is not None:
            try:
                space = left.taken_up(self._store, kernel)
            except VfioError as error:
                _log.warning("%s is opened anew: %s", name, error)
                # A group or a device that is open in the store alone cannot be opened.
                wanted = {name for other in self._left.values() for name in other.descriptors}
                self._store.drop_unused(set(left.descriptors) - wanted)
            else:
                self._spaces[name] = left
                return space
        return opening()

    def space_added(self, space: OpenSpace, *, is_told: bool) -> None:
        """Keep an address space from now on. is_told: the server that follows is told to have it, or has it not."""
        (self._told.add if is_told else self._told.discard)(space.name)
        if self._store.is_lasting and space.name not in self._spaces:
            try:
                self._spaces[space.name] = KeptSpace.of(space, self._store)
            except VfioError as error:
                _log.warning("%s would be opened anew after this process: %s", space.name, error)
        self._write()

    def space_removed(self, name: str) -> None:
        """Keep it no longer."""
        kept = self._spaces.pop(name, None)
        self._write()
        if kept is not None:
            kept.dropped(self._store)

    def region_added(self, options: ServedRegionOptions) -> None:
        """Keep a device that was added while the server runs."""
        self._added[options.name] = options
        self._write()

    def region_removed(self, name: str) -> None:
        """Keep it no longer."""
        if self._added.pop(name, None) is not None:
            self._write()

    def settled(self) -> None:
        """All that is to be taken up is: what else the server before has left is let go."""
        self._left.clear()
        self._write()
        self._store.drop_unused()

    def _find(self, content: bytes) -> None:
        try:
            values = json.loads(content)
            if (version := values["version"]) != _VERSION:
                raise VfioError(errno.EPROTO, "kept server", meaning=f"it has version {version!r}, not {_VERSION}")
            spaces = [KeptSpace.parse(space) for space in values["spaces"]]
            self._told = set(map(str, values["told"]))
            self._added = {options.name: options for options in map(_options, values["regions"])}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            meaning = f"it is damaged: {type(error).__name__}: {error}"
            raise VfioError(errno.EPROTO, "kept server", meaning=meaning) from error
        if self._store.is_lasting:
            self._left = {space.name: space for space in spaces}

    def _write(self) -> None:
        if self._file is None:
            return
        data = {
            "version": _VERSION,
            "spaces": [space.data() for space in (*self._spaces.values(), *self._left.values())],
            "told": sorted(self._told.intersection({*self._spaces, *self._left})),
            "regions": [_data(region) for region in self._added.values()],
        }
        try:
            self._file.write(json.dumps(data).encode())
        except VfioError as error:
            _log.warning("what was added or removed is not kept: %s", error)


@contextmanager
def outliving(
    directory: Path | None, name: str, environment: MutableMapping[str, str]
) -> Iterator[tuple[ServerKeeper, ServiceManager | None]]:
    """The keeper of the server called name, for the length of a with block, and who is to be told when it serves.

    directory: where state is kept; None: nothing outlives the process. environment: the process's, out of which is
    taken what a service manager has said there. Raises VfioError if the state is another server's, or cannot be kept.
    """
    manager = ServiceManager.of(environment)
    with DescriptorStore(manager, inherited(environment)) as store:
        if directory is None:
            store.keep_nothing()
            yield ServerKeeper(None, store), manager
            return
        with SlotFile(state_file(directory, name).with_suffix(".server")) as file:
            yield ServerKeeper(file, store), manager


def _data(options: ServedRegionOptions) -> dict[str, object]:
    values = {field.name: getattr(options, field.name) for field in fields(options) if field.name != "record"}
    return {**values, "state": None if options.state is None else str(options.state)}


def _options(values: dict[str, object]) -> ServedRegionOptions:
    state = values.pop("state")
    return ServedRegionOptions(**values, state=None if state is None else Path(str(state)))  # type: ignore[arg-type]
