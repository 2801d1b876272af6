"""What an iommufd knows by number. Source: drivers/iommu/iommufd/main.c."""

from __future__ import annotations


class IommufdObject:
    """users: how many others hold it; it is destroyed only when nobody does. Its number is its own until then.

    is_published: commands find it.
    """

    def __init__(self) -> None:
        self.id = 0
        self.users = 0
        self.is_published = True

    def release(self) -> None:
        """It is destroyed, or its iommufd is closed: let go of what it holds."""


class Tombstone(IommufdObject):
    """Keeps a number from being used again: what had it was destroyed by something else than its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.is_published = False
