"""What an iommufd knows by number. Source: drivers/iommu/iommufd/main.c, struct iommufd_object."""

from __future__ import annotations


class IommufdObject:
    """id: its number, which is its own until it is destroyed. users: how many others hold it, so that it cannot be.

    is_published: whether commands find it.
    """

    def __init__(self) -> None:
        self.id = 0
        self.users = 0
        self.is_published = True

    def destroy(self) -> None:
        """Let go of what it holds: it is destroyed by its owner, or its iommufd is closed."""


class Tombstone(IommufdObject):
    """Keeps a number from being used again, after something else than its owner destroyed what had it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_published = False
