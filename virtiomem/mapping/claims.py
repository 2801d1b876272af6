"""Claims: which addresses of an address space are whose, so that no two map what only one of them can unmap."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakSet

from pyvfio.dma import AddressSpace
from pyvfio.errors import AlreadyMapped
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

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else has claimed any of the addresses; nobody does so for the length of the with block."""
        with self._claims.still() as claims:
            yield not any(intersect([other.run], [self.run]) for other in claims if other is not self)


class Claims:
    """The claims on one address space, shared by all who map into it. Methods may be called from any thread."""

    # An attribute of each address space, kept here because an address space knows nothing of mappers.
    _of_space: ClassVar[WeakKeyDictionary[AddressSpace, Claims]] = WeakKeyDictionary()
    _of_space_lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, space: AddressSpace) -> Claims:
        """The claims on this address space: always the same object, as long as the address space is there."""
        with cls._of_space_lock:
            return cls._of_space.setdefault(space, cls())

    def __init__(self) -> None:
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

    @contextmanager
    def still(self) -> Iterator[Sequence[Claim]]:
        """All claims, to which none is added, and of which none is given up, for the length of the with block."""
        with self._lock:
            yield tuple(self._claims)

    def give_up(self, claim: Claim) -> None:
        """Claim.release()."""
        with self._lock:
            self._claims.discard(claim)
