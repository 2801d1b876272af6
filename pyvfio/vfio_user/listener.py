"""DmaListener: who is told what of a client's memory the device may reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pyvfio.vfio_user.guest_range import GuestRange


class DmaListener(Protocol):
    """Told of one session's ranges, in order, and asked to have them mapped at the end of a burst.

    Ranges of a session never overlap, and what is unmapped was mapped before. The client waits for its replies until
    settle(): so a guest that takes all of its memory away and gives it back in other pieces costs what has changed.
    """

    def map(self, part: GuestRange, fd: int | None) -> None:
        """The device may reach part, from the next settle() on.

        fd: a descriptor of the file that it is in, None if part.place is; it is the caller's, so dup it to keep it.
        Raises OSError, with nothing changed: the client gets its errno.
        """

    def unmap(self, part: GuestRange) -> None:
        """The device may not reach part, which map() told of, from the next settle() on."""

    def settle(self) -> Mapping[int, OSError]:
        """Have mapped what was told of, and nothing else; why a range is not as it was told, by the range's address.

        A range that could not be mapped is forgotten, as if it had been unmapped. One that could not be unmapped is
        tried again at the next call. Raises nothing.
        """

    def end(self) -> Mapping[int, OSError]:
        """The session is over and the device has stopped: as if each range had been unmapped, then settle()."""


class NoMemory:
    """A DmaListener for a device that does no DMA: every range is taken note of, and none is mapped."""

    def map(self, part: GuestRange, fd: int | None) -> None:
        """Does nothing."""

    def unmap(self, part: GuestRange) -> None:
        """Does nothing."""

    def settle(self) -> Mapping[int, OSError]:
        """Nothing can fail."""
        return {}

    def end(self) -> Mapping[int, OSError]:
        """Nothing is mapped."""
        return {}
