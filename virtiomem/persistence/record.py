"""Record: what is kept of a device that is served, to and from bytes."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from pyvfio.errors import VfioError

_VERSION: Final = 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class MemoryIdentity:
    """The file that a region's memory is, by its device and inode number, and the byte where the region begins.

    born: as birth() has it: many file systems give the number of a file that is gone to the next one. name: of its
    descriptor in the DescriptorStore; None: it is in none.
    """

    device: int
    inode: int
    offset: int
    born: int = 0
    name: str | None = field(default=None, compare=False)

    def may_be(self, other: MemoryIdentity) -> bool:
        """Whether both are the same memory, by all that is known of both."""
        is_known = bool(self.born and other.born)
        return replace(self, born=0) == replace(other, born=0) and (not is_known or self.born == other.born)


@dataclass(frozen=True, slots=True)
class InHand:
    """The last request of the guest's.

    position: where in the ring it was, as VHOST_USER_GET_VRING_BASE has it. request, answer: as the guest wrote the one
    and reads the other, once it is told. following: the position after it. run: which run of the ring it was in.
    """

    position: int
    request: bytes
    answer: bytes
    following: int = 0
    run: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A device at one moment, for a process that goes on from there.

    boot: of the host: no memory of another one is left. state: bytes of a DeviceState. memory: the region's; None: none
    was attached. in_hand: None: nothing was asked yet. session: values of JSON that tell of the connected front end;
    None: none is, or it is not to be gone on with.

    The bytes are a JSON object, with "version".
    """

    boot: str
    state: bytes
    memory: MemoryIdentity | None = None
    in_hand: InHand | None = None
    session: Mapping[str, object] | None = None

    def __bytes__(self) -> bytes:
        memory, in_hand = self.memory, self.in_hand
        data = {
            "version": _VERSION,
            "boot": self.boot,
            "state": self.state.hex(),
            "memory": memory and [memory.device, memory.inode, memory.offset, memory.name],
            "born": memory and memory.born,
            "in_hand": in_hand
            and [in_hand.position, in_hand.request.hex(), in_hand.answer.hex(), in_hand.following, in_hand.run],
            "session": self.session,
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
                memory and replace(_memory(*memory), born=born),
                in_hand and _in_hand(*in_hand),
                None if (session := values.get("session")) is None else dict(session),
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise _refused(f"it is damaged: {type(error).__name__}: {error}") from error


def boot_id() -> str:
    """Of the host, since it was started the last time."""
    return _BOOT_ID.read_text().strip()


def _refused(meaning: str) -> VfioError:
    return VfioError(errno.EPROTO, "kept state", meaning=meaning)


def _memory(device: str, inode: str, offset: str, name: object = None) -> MemoryIdentity:
    return MemoryIdentity(int(device), int(inode), int(offset), name=None if name is None else str(name))


def _in_hand(position: object, request: str, answer: str, following: object = 0, run: object = "") -> InHand:
    return InHand(int(str(position)), bytes.fromhex(request), bytes.fromhex(answer), int(str(following)), str(run))
