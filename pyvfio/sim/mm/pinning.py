"""Pages that type1 and iommufd take for devices, and charge for."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.sim.iommufd.io_pagetable import Source
from pyvfio.sim.mm.pages import PageTracker
from pyvfio.sim.mm.pin import Pin
from pyvfio.sim.process.charges import Account
from pyvfio.sim.process.user import fail

if TYPE_CHECKING:
    from pyvfio.sim.process.process import Process
    from pyvfio.sim.vfio.mappings import DmaMapping


class Pinning:
    """Of the memory of all processes."""

    def __init__(self, pages: PageTracker, version: tuple[int, int]) -> None:
        self._pages = pages
        self._version = version

    def for_type1(self, mapping: DmaMapping, process: Process, *, write: bool) -> Pin | None:
        """The pages at the mapping's address in process, which may be another than its owner, who is charged for them.

        None for a device's registers. Raises OSError: EFAULT; ENOMEM beyond the limit of either.
        Source: vfio_pin_pages_remote, vfio_lock_acct.
        """
        if process.window(mapping.vaddr) and process.window(mapping.vaddr + mapping.size - 1):
            return None
        try:
            pin = self._pages.pin(process, mapping.vaddr, mapping.size, write=write, unshares=self._version >= (6, 2))
        except OSError:
            if not mapping.is_exempt:
                self._require_room_before_hole(mapping, process, write=write)
            raise
        try:
            if mapping.owner is not process and not mapping.is_exempt:
                process.charges.require_room(pin.charged)
            mapping.owner.charges.lock(pin.charged, exempt=mapping.is_exempt)
        except OSError:
            self._pages.unpin(pin)
            raise
        return pin

    def _require_room_before_hole(self, mapping: DmaMapping, process: Process, *, write: bool) -> None:
        """Pages are counted as they are met: beyond the limit, no hole is. Raises OSError(ENOMEM)."""
        size = self._pages.reachable(process, mapping.vaddr, mapping.size, write=write)
        if size:
            pin = self._pages.pin(process, mapping.vaddr, size, write=write, unshares=self._version >= (6, 2))
            self._pages.unpin(pin)
            process.charges.require_room(pin.charged)

    def release_type1(self, mapping: DmaMapping) -> None:
        if mapping.pin is not None:
            self._pages.unpin(mapping.pin)
            mapping.owner.charges.unlock(mapping.pin.charged)

    def for_iommufd(self, source: Source, account: Account, *, write: bool) -> Pin:
        """Raises OSError: EFAULT, also for a device's registers, and ENOMEM."""
        process = source.process
        if source.file is not None:
            pin = self._pages.pin_file(source.file, source.start, source.size)
        elif process.has_ended or process.window(source.start):
            raise fail(errno.EFAULT)
        else:
            pin = self._pages.pin(process, source.start, source.size, write=write, unshares=True)
        try:
            process.charges.pin(account, pin.charged)
        except OSError:
            self._pages.unpin(pin)
            raise
        return pin

    def release_iommufd(self, pin: Pin, process: Process, account: Account) -> None:
        self._pages.unpin(pin)
        process.charges.unpin(account, pin.charged)

    def recharge_iommufd(self, pin: Pin, process: Process, account: Account, size: int) -> None:
        """Charge size bytes for the pin from now on. Raises OSError(ENOMEM)."""
        if size > pin.charged:
            process.charges.pin(account, size - pin.charged)
        else:
            process.charges.unpin(account, pin.charged - size)
        pin.charged = size

    def source_in_file(self, process: Process, fd: int, start: int, size: int) -> Source:
        """Raises OSError(EBADF) for no descriptor."""
        return Source(process, start, size, self._pages.memory_file(fd))

    def physical(self, address: int, size: int) -> Pin | None:
        """What a device without an IOMMU reaches at a physical address; None where there is no memory."""
        return self._pages.reach(address, size)

    def physical_range(self, pin: Pin, offset: int) -> tuple[int, int]:
        """Where the pinned page lies, and how many bytes of the pin from there on."""
        return self._pages.physical(pin, offset)

    def physical_address(self, address: int) -> int:
        """Of what this process has at an address now."""
        return self._pages.physical_of(address)
