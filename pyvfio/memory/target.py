"""DmaTarget: what devices can be let reach, and who lets them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Protocol

from pyvfio.kernel import Kernel
from pyvfio.resource import Resource


class MemoryUser(Protocol):
    """What lets devices reach memory. DmaTarget.hold() keeps the pages for it until DmaTarget.release()."""

    def iova_of(self, memory: DmaTarget, offset: int, size: int) -> int | None:
        """An address at which devices reach some of these bytes, the first that is mapped there; None if none is.

        It is asked with the memory's lock held, and takes no lock that is taken before that one.
        """


class DmaTarget(Resource, ABC):
    """What can be mapped for DMA: size bytes at an address of this process. Offsets are bytes from its start.

    After close() it goes back as soon as no MemoryUser and no view uses it any more, and stays until then.

    kernel: the kernel that it is from. size: bytes. address: where it begins in this process; 0 once it has gone back.
    fd: the descriptor of its file; None without one. file_offset: where in that file it begins, in bytes.
    """

    _has_own_lock = True

    kernel: Kernel
    size: int
    address: int
    fd: int | None
    file_offset: int

    def __init__(self, parent: Resource | None = None) -> None:
        """parent: the resource that closes this one when it is closed itself; None for none. The lock is its own."""
        # By identity, as every user hashes; a dictionary, so that holding twice is holding once.
        self._users: dict[MemoryUser, None] = {}
        super().__init__(parent)

    @property
    def lock(self) -> threading.RLock:
        """While a thread has it, no other one discards pages, closes this, or changes its file.

        The order is: an address space's lock, this one, the lock of a MemoryUser's own record. Nobody who has this one
        waits for an address space.
        """
        return self._lock

    @property
    def is_pinnable(self) -> bool:
        """Whether it is memory, whose pages the kernel can pin at their address: not a device's registers."""
        return True

    @property
    def has_own_file(self) -> bool:
        """Whether its file, if it has one, was made for it: an iommufd can map such a file by its descriptor."""
        return True

    def hold(self, user: MemoryUser) -> None:
        """Keep all of it until release(user), even if it is closed before. Address spaces call it, before they ask the
        kernel to map. Holding twice is holding once.

        user: asked, before pages are given back, whether devices reach them. Raises ClosedError.
        """
        with self._lock:
            self.require_open()
            self._users[user] = None

    def release(self, user: MemoryUser) -> None:
        """Let go of what hold(user) keeps, if it does. Raises OSError if the kernel does not take the pages back."""
        with self._lock:
            self._users.pop(user, None)
            self._free_if_unused()

    def refusal(self, code: int) -> tuple[str, str] | None:
        """Why the kernel refuses to map this with the errno code, and advice, where this knows better than any address
        space; None otherwise."""
        del code
        return None

    def is_populated(self, offset: int, size: int) -> bool:
        """Whether it is known that every page of the range is there. For messages: explaining a failure must not become
        one."""
        del offset, size
        return False

    @abstractmethod
    def _free_if_unused(self) -> None:
        """Give the address space back if this is closed and nothing uses it. Raises OSError."""

    def _release(self) -> None:
        self._free_if_unused()
