"""Record: what is kept of a device that is served, to and from bytes."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from pyvfio.errors import VfioError

_VERSION: Final = 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class MemoryIdentity:
    """The file that a region's memory is, by its device and inode number, and the byte where the region begins.

    born: as birth() has it: many file systems give the number of a file that is gone to the next one.
    """

    device: int
    inode: int
    offset: int
    born: int = 0

    def may_be(self, other: MemoryIdentity) -> bool:
        """Whether both are the same memory, by all that is known of both."""
        is_known = bool(self.born and other.born)
        return replace(self, born=0) == replace(other, born=0) and (not is_known or self.born == other.born)


@dataclass(frozen=True, slots=True)
class InHand:
    """The last request of the guest's.

    position: where in the ring it was, as VHOST_USER_GET_VRING_BASE has it. request, answer: as the guest wrote the one
    and reads the other, once it is told.
    """

    position: int
    request: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A device at one moment, for a process that goes on from there.

    boot: of the host: no memory of another one is left. state: bytes of a DeviceState. memory: the region's; None: none
    was attached. in_hand: None: nothing was asked yet.

    The bytes are a JSON object, with "version".
    """

    boot: str
    state: bytes
    memory: MemoryIdentity | None = None
    in_hand: InHand | None = None

    def __bytes__(self) -> bytes:
        memory, in_hand = self.memory, self.in_hand
        data = {
            "version": _VERSION,
            "boot": self.boot,
            "state": self.state.hex(),
            "memory": memory and [memory.device, memory.inode, memory.offset],
            "born": memory and memory.born,
            "in_hand": in_hand and [in_hand.position, in_hand.request.hex(), in_hand.answer.hex()],
        }
        return json.dumps(data).encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises VfioError (EPROTO) for what this version of the library cannot have written."""
        try:
            values = json.loads(data)
            if (version := values["version"]) != _VERSION:
                raise _refused(f"it has version {version!r}, and this library reads version {_VERSION}")
            memory, in_hand = values["memory"], values["in_hand"]
            born = int(values.get("born") or 0)
            return cls(
                str(values["boot"]),
                bytes.fromhex(values["state"]),
                memory and replace(MemoryIdentity(*map(int, memory)), born=born),
                in_hand and InHand(int(in_hand[0]), *map(bytes.fromhex, in_hand[1:])),
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise _refused(f"it is damaged: {type(error).__name__}: {error}") from error


def boot_id() -> str:
    """Of the host, since it was started the last time."""
    return _BOOT_ID.read_text().strip()


def _refused(meaning: str) -> VfioError:
    return VfioError(errno.EPROTO, "kept state", meaning=meaning)
