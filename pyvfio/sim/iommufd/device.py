"""Devices bound to an iommufd, and what their DMA goes through. Source: drivers/iommu/iommufd/device.c, viommu.c."""

from __future__ import annotations

import errno

from pyvfio.sim.iommufd.context import IommufdContext
from pyvfio.sim.iommufd.driver import IommuDriver, MachineIommu, NoIommuDriver, VirtualId
from pyvfio.sim.iommufd.io_pagetable import Area, IoasState
from pyvfio.sim.iommufd.object import IommufdObject
from pyvfio.sim.iommufd.page_tables import NestedTable, PageTable
from pyvfio.sim.iommufd.viommu import VirtualIommu
from pyvfio.sim.process import fail

Table = PageTable | NestedTable


class BoundDevice(IommufdObject):
    """A device that is bound to the iommufd; whoever bound it holds it. driver: of the IOMMU that it is behind.

    virtual: what a guest's IOMMU calls it. tables: the page tables that it is attached to, by PASID; None: without one.
    """

    def __init__(self, iommufd: IommufdContext, driver: IommuDriver) -> None:
        super().__init__()
        self.users = 1
        self.driver = driver
        self.virtual: VirtualDevice | None = None
        self.tables: dict[int | None, Table] = {}
        self._iommufd = iommufd

    def translate(self, iova: int, size: int, flag: int) -> list[tuple[Area, int, int]] | None:
        """As IoasState.translate(), for a transfer without a PASID. No device here moves data through a nested one."""
        table = self.tables.get(None)
        return table.translate(iova, size, flag) if isinstance(table, PageTable) else None

    def attach(self, target: int, pasid: int | None = None) -> int:
        """Attach it to a page table, or to an address space through one: the number of the page table.

        Raises OSError(EBUSY) if it is attached already.
        """
        return self._change(target, pasid, replaces=False)

    def replace(self, target: int, pasid: int | None = None) -> int:
        """As attach(), in place of what it is attached to. Raises OSError(EINVAL) if it is attached to nothing."""
        return self._change(target, pasid, replaces=True)

    def attach_or_replace(self, target: int, pasid: int | None = None) -> int:
        """As attach(), or as replace() if it is attached."""
        return self._change(target, pasid, replaces=pasid in self.tables)

    def detach(self, pasid: int | None = None) -> None:
        """End an attachment, if there is one."""
        if pasid in self.tables:
            table = self.tables.pop(pasid)
            if pasid is None:
                self._tell_driver(None)
            self._left(table, pasid)

    def unbind(self) -> None:
        """It is gone, and with it what a virtual IOMMU called it."""
        for pasid in list(self.tables):
            self.detach(pasid)
        if self.virtual is not None:
            self._iommufd.bury(self.virtual)
        self._iommufd.remove(self)

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
        """Attach it through a page table that an earlier attachment made, or through a new one."""
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
            self._tell_driver(table)
        table.users += 1
        self.tables[pasid] = table
        if before is not None:
            self._left(before, pasid)

    def _tell_driver(self, table: Table | None) -> None:
        virtual = self.virtual
        self.driver.attach(table, None if virtual is None else VirtualId(virtual.viommu.hardware, virtual.virtual_id))

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
        if table.automatic and not table.users:
            self._iommufd.remove(table)


class FunctionDevice(BoundDevice):
    """A function of the machine. It holds the iommufd."""

    def __init__(self, iommufd: IommufdContext, address: str) -> None:
        """Raises OSError(EPERM) if something else has a device of its group, or it could forge interrupts.

        A device without an IOMMU has no group to speak of, and may do what it likes.
        """
        machine = iommufd.machine
        driver: IommuDriver = NoIommuDriver()
        if not machine.lacks_iommu(address):
            if not machine.remaps_interrupts and not machine.sysfs.iommufd_allows_unsafe_interrupts:
                raise fail(errno.EPERM)
            machine.dma_owners.claim(address, iommufd)
            driver = MachineIommu(machine)
        super().__init__(iommufd, driver)
        self._address = address
        iommufd.add(self)
        iommufd.holders += 1

    def unbind(self) -> None:
        super().unbind()
        if self.driver.translates:
            self._iommufd.machine.dma_owners.disclaim(self._address)
        self._iommufd.drop()


class VirtualDevice(IommufdObject):
    """A device behind a virtual IOMMU, and the number that the guest's IOMMU has for it."""

    def __init__(self, viommu: VirtualIommu, device: BoundDevice, virtual_id: int) -> None:
        super().__init__()
        self.viommu = viommu
        self.device = device
        self.virtual_id = virtual_id
        viommu.users += 1
        viommu.devices[virtual_id] = device.driver
        device.virtual = self

    def destroy(self) -> None:
        self.viommu.users -= 1
        del self.viommu.devices[self.virtual_id]
        self.device.virtual = None
