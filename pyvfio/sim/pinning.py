"""Pages that type1 and iommufd take for devices, and charge for."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pyvfio.sim.charges import Account, Charges
from pyvfio.sim.ioas import Source
from pyvfio.sim.pages import PageTracker, Pin
from pyvfio.sim.user import fail


class Pinning:
    """is_register: whether a device's registers are mapped at an address, which are not memory."""

    def __init__(
        self, pages: PageTracker, charges: Charges, is_register: Callable[[int], bool], version: tuple[int, int]
    ) -> None:
        self._pages = pages
        self._charges = charges
        self._is_register = is_register
        self._version = version

    def for_type1(self, vaddr: int, size: int, *, write: bool) -> Pin | None:
        """None for a device's registers. Raises OSError: EFAULT, ENOMEM."""
        if self._is_register(vaddr) and self._is_register(vaddr + size - 1):
            return None
        pin = self._pages.pin(vaddr, size, write=write, unshares=self._version >= (6, 2))
        try:
            self._charges.lock(pin.charged)
        except OSError:
            self._pages.unpin(pin)
            raise
        return pin

    def release_type1(self, pin: Pin) -> None:
        self._pages.unpin(pin)
        self._charges.unlock(pin.charged)

    def for_iommufd(self, source: Source, account: Account, *, write: bool) -> Pin:
        """Raises OSError: EFAULT, also for a device's registers, and ENOMEM."""
        if source.file is not None:
            pin = self._pages.pin_file(source.file, source.start, source.size)
        elif self._is_register(source.start):
            raise fail(errno.EFAULT)
        else:
            pin = self._pages.pin(source.start, source.size, write=write, unshares=True)
        try:
            self._charges.pin(account, pin.charged)
        except OSError:
            self._pages.unpin(pin)
            raise
        return pin

    def release_iommufd(self, pin: Pin, account: Account) -> None:
        self._pages.unpin(pin)
        self._charges.unpin(account, pin.charged)

    def recharge_iommufd(self, pin: Pin, account: Account, size: int) -> None:
        """Charge size bytes for the pin from now on. Raises OSError(ENOMEM)."""
        if size > pin.charged:
            self._charges.pin(account, size - pin.charged)
        else:
            self._charges.unpin(account, pin.charged - size)
        pin.charged = size

    def source_in_file(self, fd: int, start: int, size: int) -> Source:
        """Raises OSError(EBADF) for no descriptor, OSError(EINVAL) for one of no memory file."""
        return Source(start, size, self._pages.memory_file(fd))

    def physical(self, address: int, size: int) -> Pin | None:
        """What a device reaches at a physical address of a machine without an IOMMU; None where there is no memory."""
        return self._pages.reach(address, size)
