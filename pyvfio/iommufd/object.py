"""IommufdObject: what every object of an iommufd has and does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.resource import Resource


class IommufdObject(Resource, ABC):
    """An object that the kernel knows by a number in an iommufd, until it is closed.

    parent: the iommufd, or the object of it, that this one was made from; closing the parent closes this one first.
    iommufd: the iommufd of both. kernel: the kernel it was opened in. id: its number; 0 before the kernel has given it
    one.
    """

    iommufd: Iommufd
    id: int = 0

    def __init__(self, parent: Iommufd | IommufdObject) -> None:
        """Become a child of parent. The kernel is asked for the object in an _allocation() afterwards.

        Raises ClosedError if the parent is closed.
        """
        parent.require_open()
        self.parent = parent
        self.iommufd = parent if isinstance(parent, Iommufd) else parent.iommufd
        self.kernel = self.iommufd.kernel
        super().__init__(parent)

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the object."""

    def stands_on(self, other: Iommufd | IommufdObject) -> bool:
        """Whether this is other, was made from it, or was made from an object that stands on it."""
        place: Iommufd | IommufdObject = self
        while isinstance(place, IommufdObject) and place is not other:
            place = place.parent
        return place is other

    @contextmanager
    def _allocation(self, *needed: IommufdObject | None) -> Iterator[None]:
        """Make the kernel's object and set id within the block; an exception from the block closes this one.

        needed: objects beside the parent that must be closed after this one; None stands for none. Raises ClosedError
        if one of them is closed.
        """
        try:
            # Nobody closes the parent between the kernel's answer and the number.
            with self._lock:
                self.require_open()
                for other in needed:
                    if other is not None:
                        self._need(other)
                yield
        except BaseException:
            self.close()
            raise

    def _release(self) -> None:
        if self.id and not self._inherited:
            self._destroy()

    def _destroy(self) -> None:
        """Have the kernel destroy the object. Raises VfioError (EBUSY) while something else uses it."""
        self.iommufd.destroy(self.id, self.name)

    def __repr__(self) -> str:
        origin = f" of {self.parent!r}" if isinstance(self.parent, IommufdObject) else ""
        return f"<{type(self).__name__} {self.id}{origin}{' closed' if self._closed else ''}>"


class Translation(IommufdObject):
    """What the DMA of a device can go through: an Ioas, a HwPageTable, or a NestedPageTable.

    Devices that are attached to it are detached before it is destroyed.
    """

    @property
    def may_hold_mappings(self) -> bool:
        """Whether DMA that goes through it may find something mapped."""
        return True

    def _destroy(self) -> None:
        self.iommufd.attachments.detach_all(self)
        super()._destroy()
