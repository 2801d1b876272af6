"""OpenSpace: an address space, with what was opened for it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import ExitStack

from pyvfio.device import Device
from pyvfio.dma import AddressSpace, TakesUp
from pyvfio.errors import ClosedError, VfioError
from pyvfio.resource import Resource


class SpaceKind(enum.StrEnum):
    """What an address space is of."""

    CONTAINER = "container"
    """VFIO's own container, of type1: its devices come with their groups."""
    IOMMUFD = "iommufd"
    """An IOAS of an iommufd: its devices come by their own nodes."""


class OpenSpace(Resource):
    """An address space until close(), which closes what was opened for it: what others have mapped there is theirs.

    name: what the host calls it. space: what maps. kind: what it is of. devices: those that were opened for it; those
    of another process are not among them. ioas_id: the number of the IOAS in its iommufd; None for a container.
    is_lent: whether another process owns it, and has handed its descriptor over. is_taken_up: whether a process before
    this one has had it, and may have mapped there.
    """

    def __init__(
        self,
        name: str,
        space: AddressSpace,
        stack: ExitStack,
        *,
        kind: SpaceKind,
        devices: Sequence[Device] = (),
        ioas_id: int | None = None,
        is_lent: bool = False,
        is_taken_up: bool = False,
    ) -> None:
        """stack: closes all that was opened; it is the OpenSpace's from now on."""
        self.name = name
        self.space = space
        self.kind = kind
        self.devices = tuple(devices)
        self.ioas_id = ioas_id
        self.is_lent = is_lent
        self.is_taken_up = is_taken_up
        self._stack = stack
        super().__init__()

    def hand_over(self) -> None:
        """Close it, and change nothing: what is mapped stays for a process that has its descriptors."""
        is_open = not isinstance(self.space, Resource) or not self.space.closed
        if is_open and isinstance(self.space, TakesUp):
            self.space.hand_over()
        self.close()

    @property
    def is_gone(self) -> bool:
        """Whether the address space is there no more: another process owned it, and has ended."""
        try:
            _ = self.space.page_sizes
        except ClosedError:
            return True
        except VfioError:
            # Its last group has left, and another one may come.
            return False
        return False

    def _release(self) -> None:
        self._stack.close()

    def __repr__(self) -> str:
        return f"<OpenSpace {self.name}{' closed' if self.closed else ''}>"
