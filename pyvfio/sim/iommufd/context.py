"""The objects of an open /dev/iommu, by their numbers. Source: drivers/iommu/iommufd/main.c, struct iommufd_ctx."""

from __future__ import annotations

import errno
import itertools
from typing import TypeVar

from pyvfio.sim.iommufd.io_pagetable import IoasState
from pyvfio.sim.iommufd.object import IommufdObject, Tombstone
from pyvfio.sim.iommufd.pages import PageSet, Source
from pyvfio.sim.iommufd.shared_pages import SharedPages
from pyvfio.sim.machine import Machine
from pyvfio.sim.process import fail

T = TypeVar("T", bound=IommufdObject)


class IommufdContext:
    """Lives as long as a descriptor, a group or a device holds it; holders: how many of them do.

    per_process: pages are charged to the process, not to the user. compatible: the address space that answers a
    container's ioctls. is_noiommu: a group without an IOMMU has been attached, so none with one may be any more.
    pages: those that programs may map.
    """

    def __init__(self, machine: Machine, *, per_process: bool) -> None:
        self.machine = machine
        self.per_process = per_process
        self.holders = 1
        self.compatible: IoasState | None = None
        self.is_noiommu = False
        self.pages = SharedPages()
        self._objects: dict[int, IommufdObject] = {}

    @property
    def is_empty(self) -> bool:
        """Whether it has no objects."""
        return not self._objects

    def drop(self) -> None:
        """One holder is gone; with the last one, all objects are destroyed."""
        self.holders -= 1
        while not self.holders and self._objects:
            self.remove(next(thing for thing in self._objects.values() if not thing.users))

    def add(self, thing: IommufdObject) -> int:
        """Give an object the lowest number that is free: that number."""
        thing.id = next(number for number in itertools.count(1) if number not in self._objects)
        self._objects[thing.id] = thing
        return thing.id

    def remove(self, thing: IommufdObject) -> None:
        """Destroy an object that nothing uses."""
        del self._objects[thing.id]
        if thing is self.compatible:
            self.compatible = None
        thing.destroy()

    def bury(self, thing: IommufdObject) -> None:
        """Destroy an object in place of its owner. Its number is not used again."""
        tombstone = Tombstone()
        tombstone.id = thing.id
        self.remove(thing)
        self._objects[tombstone.id] = tombstone

    def find(self, number: int) -> IommufdObject | None:
        """None for no object that commands may use."""
        thing = self._objects.get(number)
        return thing if thing is not None and thing.is_published else None

    def get(self, number: int, kind: type[T]) -> T:
        """Raises OSError(ENOENT) for no object of this kind."""
        thing = self.find(number)
        if not isinstance(thing, kind):
            raise fail(errno.ENOENT)
        return thing

    def objects(self, kind: type[T]) -> list[T]:
        return [thing for thing in self._objects.values() if isinstance(thing, kind)]

    def new_ioas(self) -> IoasState:
        """A new address space, which has a number."""
        ioas = IoasState(self.machine.pages)
        self.add(ioas)
        return ioas

    def page_set(self, source: Source, *, writable: bool) -> PageSet:
        """The pages of a map call."""
        return PageSet(self.machine.pages, source, writable=writable, per_process=self.per_process)
