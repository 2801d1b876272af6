"""Who may discard RAM while who has it pinned.

Discarding pages that a device has pinned leaves the device on pages nobody else sees. So users of guest RAM say what
they need, and those that exclude each other are refused.
"""

from __future__ import annotations

import enum
import errno
import threading
from collections import Counter
from types import TracebackType
from typing import Final, Self

from virtiomem.discard.errors import DiscardRefused


class DiscardUse(enum.Enum):
    """What a user of guest RAM needs of everybody else. Source: QEMU, system/physmem.c, ram_block_discard_*."""

    DISABLE = "no discards at all"
    """Pins all memory and is told of no discard: vhost-vdpa, mlock, encrypted guests."""
    DISABLE_UNCOORDINATED = "no discards it is not told of"
    """Pins memory, and unmaps before a discard it is told of: a DMA mapper behind a RamDiscardManager."""
    REQUIRE = "discards nobody is told of"
    """Discards at will: a balloon."""
    REQUIRE_COORDINATED = "discards its listeners are told of"
    """Discards after its listeners have let go: virtio-mem."""


_EXCLUDED_BY: Final = {
    DiscardUse.DISABLE: (DiscardUse.REQUIRE, DiscardUse.REQUIRE_COORDINATED),
    DiscardUse.DISABLE_UNCOORDINATED: (DiscardUse.REQUIRE,),
    DiscardUse.REQUIRE: (DiscardUse.DISABLE, DiscardUse.DISABLE_UNCOORDINATED),
    DiscardUse.REQUIRE_COORDINATED: (DiscardUse.DISABLE,),
}


class DiscardHold:
    """One user's claim, until release() or the end of a with block. Releasing twice is harmless."""

    def __init__(self, coordination: DiscardCoordination, use: DiscardUse, holder: str) -> None:
        self.use = use
        self.holder = holder
        self._coordination: DiscardCoordination | None = coordination

    @property
    def released(self) -> bool:
        return self._coordination is None

    def release(self) -> None:
        coordination, self._coordination = self._coordination, None
        if coordination is not None:
            coordination._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class DiscardCoordination:
    """The claims on one guest's RAM. Safe from any thread; each claim counts on its own, so a user may hold several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[DiscardUse, Counter[str]] = {use: Counter() for use in DiscardUse}

    def hold(self, use: DiscardUse, holder: str) -> DiscardHold:
        """Claim use in the name of holder. Raises DiscardRefused, naming who excludes it; nothing is claimed then."""
        with self._lock:
            against = {name: other for other in _EXCLUDED_BY[use] for name in self._holders[other]}
            if against:
                raise DiscardRefused(
                    errno.EBUSY,
                    f"{holder} needs {use.value}",
                    meaning=" and ".join(f"{name} needs {other.value}" for name, other in against.items()),
                    advice="They cannot share a guest's memory: leave one of them out",
                )
            self._holders[use][holder] += 1
        return DiscardHold(self, use, holder)

    def holders(self, use: DiscardUse) -> tuple[str, ...]:
        """Who claims use, one entry for each claim, in the order of their first."""
        with self._lock:
            return tuple(self._holders[use].elements())

    @property
    def disabled(self) -> bool:
        """Whether discards that nobody is told of would do harm: what a balloon asks before it inflates."""
        return bool(self.holders(DiscardUse.DISABLE) or self.holders(DiscardUse.DISABLE_UNCOORDINATED))

    @property
    def required(self) -> bool:
        """Whether somebody discards: what one asks who is about to pin everything for a moment."""
        return bool(self.holders(DiscardUse.REQUIRE) or self.holders(DiscardUse.REQUIRE_COORDINATED))

    def _release(self, hold: DiscardHold) -> None:
        with self._lock:
            holders = self._holders[hold.use]
            holders[hold.holder] -= 1
            if not holders[hold.holder]:
                del holders[hold.holder]
