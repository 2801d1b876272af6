"""What a server tells the program around it."""

from __future__ import annotations

from pyvfio.vfio_user.guest_range import GuestRange


class ServerEvents:
    """What a server tells the program around it: override the methods of interest.

    The thread that serves calls them, after the event. They must raise nothing. A client can cause any number of them.
    """

    def connected(self) -> None:
        """A client has connected."""

    def turned_away(self) -> None:
        """Another client has connected while there was one, and its connection was closed."""

    def agreed(self) -> None:
        """The client and this server have agreed on a version: the session has begun."""

    def refused(self, command: str, error: OSError) -> None:
        """A command was answered with an error, or not at all if the client wanted no reply. command: its name."""

    def not_mapped(self, part: GuestRange, error: OSError) -> None:
        """The client believes that its device reaches part of its memory, and it does not: QEMU looks at no error here.

        Bus mastering is not switched on while that is so.
        """

    def still_mapped(self, address: int, error: OSError) -> None:
        """What the client took away at this address could not be unmapped. It is tried again."""

    def not_ended(self, step: str, error: OSError) -> None:
        """A step of a session's end failed, and the others were made."""

    def disconnected(self, reason: str) -> None:
        """The session is over, and its end was made. reason: in words, for people."""
