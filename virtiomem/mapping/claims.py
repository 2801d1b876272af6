"""Claims: which addresses of an address space are whose, so that no two map what only one of them can unmap."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakSet

from pyvfio.dma import AddressSpace
from pyvfio.errors import AlreadyMapped
from virtiomem.mapping.turns import Turns
from virtiomem.runs import Run, intersect


class Claim:
    """Addresses that one mapper maps, until release(), or until nobody has the claim any more.

    name: the mapper's. run: the addresses. shared: whether others may claim them, too, as shared.
    """

    def __init__(self, claims: Claims, name: str, run: Run, *, shared: bool) -> None:
        self.name = name
        self.run = run
        self.shared = shared
        self._claims = claims

    def release(self) -> None:
        """Give the addresses up. Releasing twice is harmless."""
        self._claims.give_up(self)

    def undisturbed(self, act: Callable[[bool], None]) -> None:
        """Call act with whether nobody else has claimed any of the addresses. Nobody does so before it returns."""
        self._claims.undisturbed(self, act)


class Claims:
    """The claims on one address space, shared by all who map into it. Methods may be called from any thread.

    turns: of those who map much at once.
    """

    # An attribute of each address space, kept here because an address space knows nothing of mappers.
    _of_space: ClassVar[WeakKeyDictionary[AddressSpace, Claims]] = WeakKeyDictionary()
    _of_space_lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, space: AddressSpace) -> Claims:
        """The claims on this address space: always the same object, as long as the address space is there."""
        with cls._of_space_lock:
            return cls._of_space.setdefault(space, cls())

    def __init__(self) -> None:
        self.turns = Turns()
        self._lock = threading.Lock()
        # A mapper that was dropped maps nothing more, and must not keep others out.
        self._claims: WeakSet[Claim] = WeakSet()

    def take(self, name: str, run: Run, *, shared: bool = False) -> Claim:
        """Claim the addresses of run for a mapper with this name. Raises AlreadyMapped, which names who has them."""
        claim = Claim(self, name, run, shared=shared)
        with self._lock:
            for other in self._claims:
                if intersect([other.run], [run]) and not (shared and other.shared):
                    raise AlreadyMapped(
                        errno.EEXIST,
                        f"register {name}",
                        {"iova": run.start, "size": run.size},
                        f"{other.run.start:#_x}-{other.run.end - 1:#_x} belongs to the {other.name}, which is "
                        "registered for it",
                        "Register one mapper for each address space, or regions at addresses of their own",
                    )
            self._claims.add(claim)
        return claim

    def undisturbed(self, claim: Claim, act: Callable[[bool], None]) -> None:
        """Claim.undisturbed()."""
        # No context manager of our own: an exception between its beginning and its block would leave the lock taken.
        with self._lock:
            act(not any(intersect([other.run], [claim.run]) for other in self._claims if other is not claim))

    def give_up(self, claim: Claim) -> None:
        """Claim.release()."""
        with self._lock:
            self._claims.discard(claim)
