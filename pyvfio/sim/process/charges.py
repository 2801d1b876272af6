"""What pinned pages are charged to. Source: mm/util.c, account_locked_vm; drivers/iommu/iommufd/pages.c."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from pyvfio.sim.process.failure import fail


class Account(enum.Enum):
    """Where iommufd counts pages. It decides when they are mapped."""

    PROCESS = "process"
    """VmLck, where type1 counts too."""
    USER = "user"
    """All of the user's processes together, which no file shows."""
    NONE = "none"
    """iommufd does not count what CAP_IPC_LOCK pins."""


@dataclass(slots=True)
class UserCharges:
    """The user of all processes. locked: how many bytes iommufd has charged to it."""

    locked: int = 0


@dataclass(slots=True)
class Charges:
    """What one process is charged for. limit: RLIMIT_MEMLOCK in bytes, None for unlimited; exempt: CAP_IPC_LOCK.

    program: tells how many bytes the process has locked by itself, which count too. locked, pinned: bytes that are
    pinned for devices, counted in VmLck and in VmPin.
    """

    limit: int | None
    exempt: bool
    program: Callable[[], int]
    locked: int = 0
    pinned: int = 0
    user: UserCharges = field(default_factory=UserCharges)

    @property
    def locked_in_all(self) -> int:
        """VmLck in bytes."""
        return self.locked + self.program()

    def lock(self, size: int, *, exempt: bool) -> None:
        """Charge size bytes as type1 does. Raises OSError(ENOMEM) beyond the limit, which exempt lifts."""
        # Reading what the program has locked takes longer than all the rest of a mapping.
        if not exempt:
            self.require_room(size)
        self.locked += size

    def require_mlock(self, size: int) -> None:
        """The program is to lock size bytes that it has not locked yet, which exempt lifts the limit for too.

        Raises OSError: EPERM where nothing may be locked, ENOMEM beyond the limit. Source: mm/mlock.c, do_mlock.
        """
        if not self.exempt:
            if self.limit == 0:
                raise fail(errno.EPERM)
            self.require_room(size)

    def unlock(self, size: int) -> None:
        self.locked -= size

    def pin(self, account: Account, size: int) -> None:
        """Charge size bytes as iommufd does. Raises OSError(ENOMEM) beyond the limit."""
        match account:
            case Account.PROCESS:
                self.lock(size, exempt=False)
            case Account.USER:
                self._require(self.user.locked + size)
                self.user.locked += size
        self.pinned += size

    def unpin(self, account: Account, size: int) -> None:
        self.pinned -= size
        if account is Account.PROCESS:
            self.locked -= size
        elif account is Account.USER:
            self.user.locked -= size

    def require_room(self, size: int) -> None:
        """Raises OSError(ENOMEM) if size bytes more of locked memory exceed the limit."""
        self._require(self.locked_in_all + size)

    def _require(self, total: int) -> None:
        if self.limit is not None and total > self.limit:
            raise fail(errno.ENOMEM)
