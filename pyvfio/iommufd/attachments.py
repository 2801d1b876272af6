"""Attachments: what the DMA of each device of an iommufd goes through."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvfio.iommufd.object import Translation


class Attachable(Protocol):
    """A device, as far as this record needs to know it."""

    def detach(self, *, pasid: int | None = None) -> None:
        """Stop the device's DMA, or only the DMA that carries pasid."""


class Attachments:
    """The only record of which device is attached to what. Every iommufd has one; its devices write it.

    A device has one target for the DMA without a PASID, which stands under None here, and one for each PASID.

    changes: how often a device or a page table has come or gone. The kernel may then tell other IOVA ranges.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._targets: dict[tuple[Attachable, int | None], Translation] = {}

    def changed(self) -> None:
        """Count a device or a page table that has come or gone."""
        self.changes += 1

    def enter(self, device: Attachable, pasid: int | None, target: Translation) -> None:
        """Record that the device's DMA goes through target, in place of what it went through before.

        Entered before the kernel is asked, so that whatever ends the call, a device that may be attached is detached
        before its target goes.
        """
        self.changed()
        # A device that moves comes last in the order of attachment.
        self._targets = {key: place for key, place in self._targets.items() if key != (device, pasid)} | {
            (device, pasid): target
        }

    def restore(self, device: Attachable, pasid: int | None, target: Translation | None) -> None:
        """Record what was before enter(), whose call has changed nothing. target: None for nothing."""
        if target is not None:
            self.enter(device, pasid, target)
        else:
            self.remove(device, pasid)

    def remove(self, device: Attachable, pasid: int | None) -> None:
        """Record that this DMA of the device goes nowhere."""
        self.changed()
        self._targets.pop((device, pasid), None)

    def forget(self, device: Attachable) -> None:
        """Remove all that is recorded of a device, which is closed: the kernel has detached it."""
        for pasid in [pasid for other, pasid in self._targets if other is device]:
            self.remove(device, pasid)

    def target(self, device: Attachable, pasid: int | None = None) -> Translation | None:
        """What this DMA of the device goes through; None if it goes nowhere."""
        return self._targets.get((device, pasid))

    def pasids(self, device: Attachable) -> Mapping[int, Translation]:
        """What the device's DMA goes through, by the PASID that it carries."""
        entries = tuple(self._targets.items())
        found = {pasid: place for (other, pasid), place in entries if other is device and pasid is not None}
        return MappingProxyType(found)

    def devices(self, target: Translation) -> tuple[Attachable, ...]:
        """The devices with DMA that goes through target or through what was made from it, in order of attachment."""
        entries = tuple(self._targets.items())
        return tuple(dict.fromkeys(device for (device, _), place in entries if place.stands_on(target)))

    def detach_all(self, target: Translation) -> None:
        """Detach every device from target itself, which is about to be destroyed. Raises VfioError."""
        through = [(device, pasid) for (device, pasid), place in self._targets.items() if place is target]
        # Detaching a device without a PASID may attach it elsewhere, so its PASIDs come first.
        for device, pasid in sorted(through, key=lambda entry: entry[1] is None):
            device.detach(pasid=pasid)
