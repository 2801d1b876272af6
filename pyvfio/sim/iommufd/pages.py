"""Pages that iommufd pins for address spaces, and whom it charges. Source: drivers/iommu/iommufd/pages.c."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass, replace

from pyvfio.sim.mm import PageTracker, Pin, RegisterPin
from pyvfio.sim.process import Account, Process, RegisterFile, fail


@dataclass(frozen=True, slots=True)
class Source:
    """Where pages come from. start: an address of the process, or an offset in a file; size: bytes.

    process: the one that has mapped them, whose limit they are charged against. file: its device and inode. registers:
    of a device, in a dma-buf, in place of pages.
    """

    process: Process
    start: int
    size: int
    file: tuple[int, int] | None = None
    registers: RegisterFile | None = None


class PageSet:
    """The pages of one map call. They are pinned while an address space with a domain maps some of them.

    Each page that is mapped so is charged once. writable: devices may write. per_process: VmLck counts them, not the
    user.
    """

    def __init__(self, memory: PageTracker, source: Source, *, writable: bool, per_process: bool) -> None:
        self._memory = memory
        is_exempt = source.process.charges.exempt
        self._account = Account.NONE if is_exempt else Account.PROCESS if per_process else Account.USER
        self._used: list[tuple[int, int]] = []
        self.source = source
        self.writable = writable
        self.pin: Pin | None = None

    def use(self, offset: int, size: int) -> None:
        """An address space maps size bytes from offset. Raises OSError: EFAULT where no page can be had, ENOMEM beyond
        the limit."""
        if self.pin is None:
            self.pin = self._pinned()
        self._used.append((offset, size))
        self._recharge(self.pin)

    def drop(self, offset: int, size: int) -> None:
        """One that did maps them no more."""
        self._used.remove((offset, size))
        if self.pin is not None:
            self._recharge(self.pin)
            if not self._used:
                self._memory.unpin(self.pin)
                self.source.process.charges.unpin(self._account, self.pin.charged)
                self.pin = None

    def charge_for(self, process: Process) -> tuple[Account, int]:
        """The account, and how many bytes process would be charged if the pages became its own."""
        is_moved = self._account is not Account.NONE and self.source.process is not process
        return self._account, self.pin.charged if self.pin is not None and is_moved else 0

    def hand_over(self, process: Process) -> None:
        """Make the pages those of process, which has been charged for them."""
        self.source.process.charges.unpin(*self.charge_for(process))
        self.source = replace(self.source, process=process)

    def _pinned(self) -> Pin:
        """Pin and charge all of them. A device's registers are no memory: OSError(EFAULT)."""
        source, process = self.source, self.source.process
        if source.registers is not None:
            if source.start + source.size > source.registers.size:
                raise fail(errno.EINVAL)
            if not source.registers.registers.answers:
                raise fail(errno.ENODEV)
            return RegisterPin(source.size, source.registers.registers, source.start, is_lost_by_silence=True)
        if source.file is not None:
            pin = self._memory.pin_file(source.file, source.start, source.size)
        elif process.has_ended or process.has_registers_at(source.start):
            raise fail(errno.EFAULT)
        else:
            pin = self._memory.pin(process, source.start, source.size, write=self.writable, unshares=True)
        try:
            process.charges.pin(self._account, pin.charged)
        except OSError:
            self._memory.unpin(pin)
            raise
        return pin

    def _recharge(self, pin: Pin) -> None:
        """Charge what is used from now on. Raises OSError(ENOMEM)."""
        if self.source.registers is not None:
            return
        size, charges = _covered(self._used), self.source.process.charges
        if size > pin.charged:
            charges.pin(self._account, size - pin.charged)
        else:
            charges.unpin(self._account, pin.charged - size)
        pin.charged = size


def change_process(pages: Collection[PageSet], process: Process) -> None:
    """Make pages in files those of process. Raises OSError(ENOMEM); nothing has changed then.

    For a moment both processes are charged, so what is counted for the user must have room for the pages twice.
    """
    charged: list[tuple[Account, int]] = []
    try:
        for each in pages:
            process.charges.pin(*each.charge_for(process))
            charged.append(each.charge_for(process))
    except OSError:
        for account, size in charged:
            process.charges.unpin(account, size)
        raise
    for each in pages:
        each.hand_over(process)


def _covered(ranges: list[tuple[int, int]]) -> int:
    """Bytes that lie in any of the ranges of (offset, size)."""
    covered = reached = 0
    for offset, size in sorted(ranges):
        covered += max(0, offset + size - max(offset, reached))
        reached = max(reached, offset + size)
    return covered
