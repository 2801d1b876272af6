"""DiscardCoordination: who may discard a guest's RAM, and who may pin it, without harming each other.

When pages are discarded that a device has pinned, the device goes on with pages that nobody else sees. So every user of
guest RAM claims what it needs, and a claim that excludes another's is refused.
"""

from __future__ import annotations

import enum
import errno
import threading
from collections import Counter
from types import TracebackType
from typing import ClassVar, Final, Self
from weakref import WeakKeyDictionary

from virtiomem.discard.errors import DiscardRefused
from virtiomem.discard.section import Backing


class DiscardUse(enum.Enum):
    """What a user of guest RAM needs of all others. Source: QEMU, system/physmem.c, ram_block_discard_*."""

    DISABLE = "no discards at all"
    """It pins all memory, and is told of no discard: vhost-vdpa, mlock, encrypted guests."""
    DISABLE_UNCOORDINATED = "no discards it is not told of"
    """It pins memory, and lets go of it when it is told of a discard: a DMA mapper behind a RamDiscardManager."""
    REQUIRE = "discards nobody is told of"
    """It discards without telling anyone: a balloon."""
    REQUIRE_COORDINATED = "discards its listeners are told of"
    """It discards after its listeners have let go: virtio-mem."""


_EXCLUDED_BY: Final = {
    DiscardUse.DISABLE: (DiscardUse.REQUIRE, DiscardUse.REQUIRE_COORDINATED),
    DiscardUse.DISABLE_UNCOORDINATED: (DiscardUse.REQUIRE,),
    DiscardUse.REQUIRE: (DiscardUse.DISABLE, DiscardUse.DISABLE_UNCOORDINATED),
    DiscardUse.REQUIRE_COORDINATED: (DiscardUse.DISABLE,),
}


class DiscardHold:
    """A claim of one user, until release() or the end of a with block.

    use: what is claimed; holder: the user's name, for messages.
    """

    def __init__(self, coordination: DiscardCoordination, use: DiscardUse, holder: str) -> None:
        self.use = use
        self.holder = holder
        self._coordination: DiscardCoordination | None = coordination

    @property
    def released(self) -> bool:
        """Whether the claim is over."""
        return self._coordination is None

    def release(self) -> None:
        """End the claim. Releasing twice is harmless."""
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
    """The claims on the RAM of one guest. Each claim counts on its own, so a user may hold several.

    Every memory has one, of(), which its users claim on if they are not told another: so those who must exclude each
    other do, without being told of each other. A guest whose RAM is several memories may have one for all of them.

    Methods may be called from any thread.
    """

    # An attribute of each memory, kept here because memory knows nothing of those who discard it.
    _of_memory: ClassVar[WeakKeyDictionary[Backing, DiscardCoordination]] = WeakKeyDictionary()
    _of_memory_lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, memory: Backing) -> DiscardCoordination:
        """The one of this memory: always the same, as long as the memory is there."""
        with cls._of_memory_lock:
            return cls._of_memory.setdefault(memory, cls())

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[DiscardUse, Counter[str]] = {use: Counter() for use in DiscardUse}

    def hold(self, use: DiscardUse, holder: str) -> DiscardHold:
        """Claim use in the name of holder. Raises DiscardRefused, which names who excludes it, with nothing claimed."""
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
        """The names of those who claim use, one for each claim, in the order of their first claims."""
        with self._lock:
            return tuple(self._holders[use].elements())

    @property
    def disabled(self) -> bool:
        """Whether a discard that nobody is told of would do harm. A balloon asks this before it inflates."""
        return bool(self.holders(DiscardUse.DISABLE) or self.holders(DiscardUse.DISABLE_UNCOORDINATED))

    @property
    def required(self) -> bool:
        """Whether there is a user who discards. Ask this before pinning all memory for a moment."""
        return bool(self.holders(DiscardUse.REQUIRE) or self.holders(DiscardUse.REQUIRE_COORDINATED))

    def _release(self, hold: DiscardHold) -> None:
        with self._lock:
            holders = self._holders[hold.use]
            holders[hold.holder] -= 1
            if not holders[hold.holder]:
                del holders[hold.holder]
