"""Pages that type1 pins for its mappings, and whom it charges. Source: drivers/vfio/vfio_iommu_type1.c."""

from __future__ import annotations

import errno

from pyvfio.sim.iommu import Version
from pyvfio.sim.mm import PageTracker, Pin, RegisterPin
from pyvfio.sim.process import Process, fail
from pyvfio.sim.vfio.mappings import DmaMapping


class Type1Pages:
    """Pins memory for the mappings of a container. version: from Linux 6.2 on, pages that were never written are
    unshared."""

    def __init__(self, memory: PageTracker, version: Version) -> None:
        self._memory = memory
        self._unshares = version >= (6, 2)

    def pin(self, mapping: DmaMapping, process: Process, *, write: bool) -> Pin:
        """The pages at the mapping's address in process; the mapping's owner, maybe another, is charged for them.

        A device's registers are charged to nobody. Raises OSError: EFAULT, for registers that do not answer too; ENOMEM
        beyond the limit of either. Source: vfio_pin_pages_remote, follow_fault_pfn, vfio_lock_acct.
        """
        found = process.area(mapping.vaddr)
        if found is not None and (registers := found[0].registers) is not None:
            area, first = found
            if not registers.answers or first + mapping.size > area.size:
                raise fail(errno.EFAULT)
            return RegisterPin(mapping.size, registers, first, is_lost_by_silence=False)
        try:
            pin = self._memory.pin(process, mapping.vaddr, mapping.size, write=write, unshares=self._unshares)
        except OSError:
            if not mapping.is_exempt:
                self._require_room_before_hole(mapping, process, write=write)
            raise
        try:
            if mapping.owner is not process and not mapping.is_exempt:
                process.charges.require_room(pin.charged)
            mapping.owner.charges.lock(pin.charged, exempt=mapping.is_exempt)
        except OSError:
            self._memory.unpin(pin)
            raise
        return pin

    def unpin(self, mapping: DmaMapping) -> None:
        """Nothing of it is pinned and charged any more."""
        if mapping.pin is not None:
            self._memory.unpin(mapping.pin)
            mapping.owner.charges.unlock(mapping.pin.charged)

    def _require_room_before_hole(self, mapping: DmaMapping, process: Process, *, write: bool) -> None:
        """Raises OSError(ENOMEM) if the pages before the hole exceed the limit: they are counted as they are met."""
        size = self._memory.reachable(process, mapping.vaddr, mapping.size, write=write)
        if size:
            pin = self._memory.pin(process, mapping.vaddr, size, write=write, unshares=self._unshares)
            self._memory.unpin(pin)
            process.charges.require_room(pin.charged)
