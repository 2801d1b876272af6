"""Devices bound to an iommufd, and what their DMA goes through. Source: drivers/iommu/iommufd/device.c."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.sim.iommufd.driver import IommuDriver
from pyvfio.sim.iommufd.hw_pagetable import PageTable
from pyvfio.sim.iommufd.io_pagetable import Area, IoasState
from pyvfio.sim.iommufd.nested import NestedTable
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.process.user import fail

if TYPE_CHECKING:
    from pyvfio.sim.iommufd.main import IommufdState
    from pyvfio.sim.iommufd.viommu import VirtualDevice

Table = PageTable | NestedTable


class BoundDevice(IommufdObject):
    """A device that has been bound to the iommufd: another object holds it as long. tables: by PASID, None for none."""

    def __init__(self, iommufd: IommufdState, driver: IommuDriver) -> None:
        super().__init__()
        self.users = 1
        self.driver = driver
        self.virtual: VirtualDevice | None = None
        self.tables: dict[int | None, Table] = {}
        self._iommufd = iommufd

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[Area, int, int]] | None:
        """Nested tables are of IOMMUs whose devices move no data here."""
        table = self.tables.get(None)
        return table.translate(iova, size, flag) if isinstance(table, PageTable) else None

    def attach(self, target: int, pasid: int | None = None) -> int:
        """The number of the page table it uses then. Raises OSError(EBUSY) if it is attached already."""
        return self._change(target, pasid, replaces=False)

    def replace(self, target: int, pasid: int | None = None) -> int:
        """Raises OSError(EINVAL) if it is not attached."""
        return self._change(target, pasid, replaces=True)

    def attach_or_replace(self, target: int, pasid: int | None = None) -> int:
        return self._change(target, pasid, replaces=pasid in self.tables)

    def detach(self, pasid: int | None = None) -> None:
        if pasid in self.tables:
            table = self.tables.pop(pasid)
            if pasid is None:
                self.driver.attach(self, None)
            self._left(table, pasid)

    def detach_all(self) -> None:
        for pasid in list(self.tables):
            self.detach(pasid)

    def _change(self, target: int, pasid: int | None, *, replaces: bool) -> int:
        thing = self._iommufd.find(target)
        match thing:
            case None:
                raise fail(errno.ENOENT)
            case IoasState():
                return self._automatic(thing, pasid, replaces=replaces)
            case PageTable() | NestedTable():
                self._put(thing, pasid, replaces=replaces)
                return thing.id
            case _:
                raise fail(errno.EINVAL)

    def _automatic(self, ioas: IoasState, pasid: int | None, *, replaces: bool) -> int:
        """Through a page table that an earlier attachment made, or a new one, which goes with the last attachment."""
        for table in self._iommufd.objects(PageTable):
            if table.ioas is ioas and table.automatic and self._takes(table):
                try:
                    self._put(table, pasid, replaces=replaces)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                else:
                    return table.id
        table = PageTable(ioas, self.driver, 0, None)
        self._iommufd.add(table)
        try:
            self._put(table, pasid, replaces=replaces)
        except OSError:
            self._iommufd.remove(table)
            raise
        table.automatic = True
        return table.id

    def _put(self, table: Table, pasid: int | None, *, replaces: bool) -> None:
        before = self.tables.get(pasid)
        if replaces and before is None:
            raise fail(errno.EINVAL)
        if not replaces and before is not None:
            raise fail(errno.EBUSY)
        if table is before:
            return
        self._check_pasid(table, pasid)
        if not self._takes(table):
            raise fail(errno.EINVAL)
        if pasid is None:
            self.driver.attach(self, table)
        table.users += 1
        self.tables[pasid] = table
        if before is not None:
            self._left(before, pasid)

    def _takes(self, table: Table) -> bool:
        return table.driver.owner is self.driver.owner or not self.driver.translates

    def _check_pasid(self, table: Table, pasid: int | None) -> None:
        plain = self.tables.get(None)
        if pasid is None:
            is_fine = table.takes_pasids or not self.tables.keys() - {None}
        else:
            is_fine = table.takes_pasids and (plain is None or plain.takes_pasids)
            bits = self.driver.max_pasid_log2
            is_fine = is_fine and pasid > 0 and (not bits or pasid < 1 << bits)
        if not is_fine:
            raise fail(errno.EINVAL)

    def _left(self, table: Table, pasid: int | None) -> None:
        table.users -= 1
        if table.faults is not None:
            table.faults.forget(self, pasid)
        if isinstance(table, PageTable) and table.automatic and not table.users:
            self._iommufd.remove(table)
