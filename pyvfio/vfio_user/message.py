"""Message: a command or a reply, with the descriptors that came with it."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final, Self, TypeVar

from pyvfio.errors import VfioError
from pyvfio.vfio_user import abi
from pyvfio.vfio_user.abi import vfio_user_header

S = TypeVar("S", bound=ctypes.Structure)

HEADER_SIZE: Final = ctypes.sizeof(vfio_user_header)
_PREFIX: Final = "VFIO_USER_"
_NAMES: Final = {
    value: name.removeprefix(_PREFIX)
    for name, value in vars(abi).items()
    if name.startswith(_PREFIX) and not name.startswith((f"{_PREFIX}F_", f"{_PREFIX}DEFAULT_"))
}


class Message:
    """A message. The end of a with block closes the descriptors that were not taken.

    identity: what the sender calls it, and its reply bears too. command: a VFIO_USER_*, or any other number. flags:
    VFIO_USER_F_*. error: an errno, of a reply that says that the command failed. payload: what follows the header.
    """

    def __init__(self, header: vfio_user_header, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        self.identity: int = header.msg_id
        self.command: int = header.cmd
        self.flags: int = header.flags
        self.error: int = header.error_no
        self.payload = payload
        self._fds = list(fds)

    @property
    def name(self) -> str:
        """The command's name in the specification, without its prefix; its number if it has none."""
        return name_of(self.command)

    @property
    def is_reply(self) -> bool:
        """Whether it answers a command."""
        return self.flags & abi.VFIO_USER_F_TYPE_MASK == abi.VFIO_USER_F_TYPE_REPLY

    @property
    def wants_reply(self) -> bool:
        """Whether the sender of this command waits for an answer."""
        return not self.flags & abi.VFIO_USER_F_NO_REPLY

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that came with it and were not taken. They are closed with the message."""
        return tuple(self._fds)

    def parse(self, kind: type[S]) -> S:
        """The payload as a struct of this kind. Raises VfioError (EINVAL) if it has another size."""
        self.require_size(ctypes.sizeof(kind))
        return kind.from_buffer_copy(self.payload)

    def parse_head(self, kind: type[S]) -> S:
        """The first bytes of the payload as a struct of this kind. Raises VfioError (EINVAL) if it is shorter."""
        if len(self.payload) < ctypes.sizeof(kind):
            raise self.refused(f"its payload has {len(self.payload)} bytes, and needs {ctypes.sizeof(kind)}")
        return kind.from_buffer_copy(self.payload)

    def require_size(self, size: int) -> None:
        """Raises VfioError (EINVAL) unless the payload has size bytes."""
        if len(self.payload) != size:
            raise self.refused(f"its payload has {len(self.payload)} bytes instead of {size}")

    def require_fds(self, *counts: int) -> None:
        """Raises VfioError (EINVAL) unless one of these numbers of descriptors came with it."""
        if len(self._fds) not in counts:
            told = " or ".join(map(str, counts))
            raise self.refused(f"{len(self._fds)} descriptors came with it instead of {told}")

    def take_fds(self) -> tuple[int, ...]:
        """Take the descriptors, which are the caller's from now on."""
        fds, self._fds = tuple(self._fds), []
        return fds

    def refused(self, meaning: str, code: int = errno.EINVAL) -> VfioError:
        """The error for a command that cannot be carried out; the session goes on."""
        return VfioError(code, f"vfio-user {self.name}", meaning=meaning)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._fds:
            os.close(self._fds.pop())


def name_of(command: int) -> str:
    """The command's name in the specification, without its prefix; its number if it has none."""
    return _NAMES.get(command, f"command {command}")


def command(identity: int, number: int, payload: bytes, *, wants_reply: bool = True) -> bytes:
    """A command, as it goes over the socket."""
    flags = abi.VFIO_USER_F_TYPE_COMMAND | (0 if wants_reply else abi.VFIO_USER_F_NO_REPLY)
    return bytes(vfio_user_header(identity, number, HEADER_SIZE + len(payload), flags, 0)) + payload


def reply(to: Message, payload: bytes = b"") -> bytes:
    """The answer to a command, as it goes over the socket."""
    size = HEADER_SIZE + len(payload)
    return bytes(vfio_user_header(to.identity, to.command, size, abi.VFIO_USER_F_TYPE_REPLY, 0)) + payload


def refusal(to: Message, code: int) -> bytes:
    """The answer to a command that failed with the errno code, as it goes over the socket."""
    flags = abi.VFIO_USER_F_TYPE_REPLY | abi.VFIO_USER_F_ERROR
    return bytes(vfio_user_header(to.identity, to.command, HEADER_SIZE, flags, code))
