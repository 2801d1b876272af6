"""LiveState: the state of a device that runs, but for its blocks; and what keeps it outside of the process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from virtiomem.device.config import Config, Feature, check_requested_size, usable_region_size
from virtiomem.device.errors import StateNotKept
from virtiomem.device.state import DeviceState
from virtiomem.runs import Run


class StateKeeper(Protocol):
    """Keeps the state of a device where the process's end does not reach it."""

    def keep(self, state: DeviceState) -> None:
        """Have state in place of the one before; nobody has heard of it yet.

        Called in one thread at a time, with locks of the device held. Raises OSError, with the one before kept: what
        was to be changed is not, and a guest that wanted it is answered BUSY.
        """

    def put_back(self, state: DeviceState) -> None:
        """As keep(), for the way back from a change that was kept and has failed then: state is what is so.

        Raises nothing. What cannot be kept now is kept with whatever comes next.
        """


class LiveState:
    """A Config that changes, and what the driver has negotiated. Each is replaced whole, so that reading takes no lock.

    Every change is kept before it counts. The host resizes while a request of the guest is carried out, however long
    that takes: whoever changes anything takes lock, for a moment and after every other lock of the device.

    value: the config. negotiated, broken: as DeviceState has them.
    """

    def __init__(self, config: Config, usable_extent: int, keeper: StateKeeper | None) -> None:
        """config: what it is at first, but for its usable size. usable_extent: as VirtioMem has it."""
        self.lock = threading.RLock()
        self._usable_extent = usable_extent
        self._keeper = keeper
        self.value = replace(config, usable_region_size=self._usable_for(config, config.requested_size))
        self.negotiated = Feature(0)
        self.broken = False
        # Those that are kept.
        self._blocks: Sequence[Run] = ()

    def resize(self, requested_size: int) -> Config:
        """Ask for requested_size bytes; return what the config is then. The usable region grows if it must.

        Raises InvalidArgument for a size that the region cannot have, and StateNotKept, with nothing changed.
        """
        with self.lock:
            config = self.value
            check_requested_size(requested_size, config.region_size, config.block_size)
            usable_size = max(config.usable_region_size, self._usable_for(config, requested_size))
            self._set(replace(config, requested_size=requested_size, usable_region_size=usable_size))
            return self.value

    def shrink(self, *, is_kept: bool) -> None:
        """Everything was unplugged at once: the usable region is what the requested size needs.

        is_kept: commit() has kept that, and nothing can fail. Raises StateNotKept, with nothing changed.
        """
        with self.lock:
            if is_kept:
                self.value = self._shrunk()
            else:
                self._set(self._shrunk())

    def negotiate(self, features: Feature) -> None:
        """The driver has accepted features. Raises StateNotKept after that: it is so all the same."""
        with self.lock:
            self.negotiated = features
            self._keep(self.value, features, self.broken, self._blocks)

    def break_off(self, *, broken: bool) -> None:
        """The driver has broken the protocol, or is reset. Raises StateNotKept after that: it is so all the same."""
        with self.lock:
            self.broken = broken
            if not broken:
                self.negotiated = Feature(0)
            self._keep(self.value, self.negotiated, broken, self._blocks)

    def commit(self, plugged: Sequence[Run], *, is_put_back: bool = False, is_shrunk: bool = False) -> None:
        """These runs of blocks are plugged from now on; it counts when plugged() says so. Raises StateNotKept.

        is_put_back: they still are, as what was committed has failed then; this raises nothing. is_shrunk: the usable
        region is about to shrink, too, unless all is put back.
        """
        with self.lock:
            if is_put_back:
                self._blocks = plugged
                if self._keeper is not None:
                    self._keeper.put_back(self._state(self.value, self.negotiated, self.broken, plugged))
                return
            self._keep(self._shrunk() if is_shrunk else self.value, self.negotiated, self.broken, plugged)
            self._blocks = plugged

    def plugged(self, size: int) -> None:
        """size bytes are plugged now."""
        with self.lock:
            self.value = replace(self.value, plugged_size=size)

    def load(self, state: DeviceState, *, is_resized: bool) -> None:
        """Be state from now on, whose blocks are plugged. Raises StateNotKept.

        is_resized: what is requested now is later than state.
        """
        with self.lock:
            config, ours = state.config, self.value
            if is_resized:
                usable_size = max(config.usable_region_size, ours.usable_region_size)
                config = replace(config, requested_size=ours.requested_size, usable_region_size=usable_size)
            self._keep(config, state.negotiated, state.broken, state.plugged)
            self.value, self.negotiated, self.broken = config, state.negotiated, state.broken
            self._blocks = state.plugged

    def _set(self, config: Config) -> None:
        self._keep(config, self.negotiated, self.broken, self._blocks)
        self.value = config

    def _keep(self, config: Config, negotiated: Feature, broken: bool, plugged: Sequence[Run]) -> None:
        if self._keeper is None:
            return
        try:
            self._keeper.keep(self._state(config, negotiated, broken, plugged))
        except OSError as error:
            raise StateNotKept(error) from error

    @staticmethod
    def _state(config: Config, negotiated: Feature, broken: bool, plugged: Sequence[Run]) -> DeviceState:
        config = replace(config, plugged_size=sum(run.size for run in plugged) * config.block_size)
        return DeviceState(config, negotiated, broken, tuple(plugged))

    def _shrunk(self) -> Config:
        return replace(self.value, usable_region_size=self._usable_for(self.value, self.value.requested_size))

    def _usable_for(self, config: Config, requested_size: int) -> int:
        return usable_region_size(config.region_size, requested_size, config.block_size, self._usable_extent)
