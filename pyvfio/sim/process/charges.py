"""What pinned pages are charged to. Source: mm/util.c, account_locked_vm; drivers/iommu/iommufd/pages.c."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from pyvfio.sim.process.failure import fail


class Account(enum.Enum):
    """Where iommufd counts pages, decided when they are mapped."""

    PROCESS = "process"
    """VmLck, where type1 counts too."""
    USER = "user"
    """All of the user's processes together, which no file shows."""
    NONE = "none"
    """iommufd does not count what CAP_IPC_LOCK pins."""


@dataclass(slots=True)
class UserCharges:
    """locked: bytes, by all processes of the one user there is."""

    locked: int = 0


@dataclass(slots=True)
class Charges:
    """RLIMIT_MEMLOCK of one process in bytes, None for unlimited, and what is counted. exempt: CAP_IPC_LOCK.

    program: how many bytes the process has locked by itself, which count with what is pinned for it.
    """

    limit: int | None
    exempt: bool
    program: Callable[[], int]
    locked: int = 0
    pinned: int = 0
    """VmPin: what iommufd has pinned."""
    user: UserCharges = field(default_factory=UserCharges)

    @property
    def locked_in_all(self) -> int:
        """VmLck."""
        return self.locked + self.program()

    def lock(self, size: int, *, exempt: bool) -> None:
        """As type1 does; exempt: without a limit. Raises OSError(ENOMEM) beyond it."""
        # Reading what the program has locked takes longer than all the rest of a mapping.
        if not exempt:
            self.require_room(size)
        self.locked += size

    def unlock(self, size: int) -> None:
        self.locked -= size

    def pin(self, account: Account, size: int) -> None:
        """As iommufd does. Raises OSError(ENOMEM) beyond the limit."""
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
        """For so many bytes of locked memory more. Raises OSError(ENOMEM)."""
        self._require(self.locked_in_all + size)

    def _require(self, total: int) -> None:
        if self.limit is not None and total > self.limit:
            raise fail(errno.ENOMEM)
