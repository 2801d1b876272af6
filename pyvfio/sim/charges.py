"""What pinned pages are charged to. Source: mm/util.c, account_locked_vm; drivers/iommu/iommufd/pages.c."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from dataclasses import dataclass

from pyvfio.sim.user import fail


class Account(enum.Enum):
    """Where pages are counted."""

    PROCESS = "process"
    """VmLck. type1 counts there, whoever pins; with CAP_IPC_LOCK without a limit."""
    USER = "user"
    """All of the user's processes together, which no file shows."""
    NONE = "none"
    """iommufd does not count what CAP_IPC_LOCK pins."""


@dataclass(slots=True)
class Charges:
    """RLIMIT_MEMLOCK in bytes, None for unlimited, and what is counted. exempt: CAP_IPC_LOCK.

    program: how many bytes the process has locked by itself, which count with what is pinned for it.
    """

    limit: int | None
    exempt: bool
    program: Callable[[], int]
    locked: int = 0
    user: int = 0
    pinned: int = 0
    """VmPin: what iommufd has pinned."""

    @property
    def locked_in_all(self) -> int:
        """VmLck."""
        return self.locked + self.program()

    def lock(self, size: int) -> None:
        """As type1 does. Raises OSError(ENOMEM) beyond the limit."""
        # Reading what the program has locked takes longer than all the rest of a mapping.
        if not self.exempt:
            self._require(self.locked_in_all + size)
        self.locked += size

    def unlock(self, size: int) -> None:
        self.locked -= size

    def pin(self, account: Account, size: int) -> None:
        """As iommufd does. Raises OSError(ENOMEM) beyond the limit."""
        match account:
            case Account.PROCESS:
                self.lock(size)
            case Account.USER:
                self._require(self.user + size)
                self.user += size
        self.pinned += size

    def unpin(self, account: Account, size: int) -> None:
        self.pinned -= size
        if account is Account.PROCESS:
            self.locked -= size
        elif account is Account.USER:
            self.user -= size

    def _require(self, total: int) -> None:
        if not self.exempt and self.limit is not None and total > self.limit:
            raise fail(errno.ENOMEM)
