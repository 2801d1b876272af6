"""What the two ends of a session tell each other first: the version of the protocol, and limits, as JSON."""

from __future__ import annotations

import ctypes
import errno
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, Self

from pyvfio.errors import VfioError
from pyvfio.vfio_user import abi
from pyvfio.vfio_user.abi import vfio_user_version
from pyvfio.vfio_user.connection import MOST_FDS

MAJOR: Final = 0
MINOR: Final = 0
_HEAD: Final = ctypes.sizeof(vfio_user_version)
_LARGEST: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one end takes of the other. The defaults are those of the specification, for an end that says nothing.

    max_msg_fds: descriptors with one message. max_data_xfer_size: bytes of data in one message. max_dma_maps: ranges of
    memory at a time. pgsizes: a bit for each page size that such a range may be made of, in bytes.
    """

    max_msg_fds: int = 1
    max_data_xfer_size: int = abi.VFIO_USER_DEFAULT_MAX_TRANSFER_SIZE
    max_dma_maps: int = 65535
    pgsizes: int = 4096

    def within(self, other: Limits) -> Limits:
        """What both ends take."""
        return Limits(
            min(self.max_msg_fds, other.max_msg_fds),
            min(self.max_data_xfer_size, other.max_data_xfer_size),
            min(self.max_dma_maps, other.max_dma_maps),
            self.pgsizes,
        )


OURS: Final = Limits(max_msg_fds=MOST_FDS)
"""What either end takes here."""


@dataclass(frozen=True, slots=True)
class Version:
    """A payload of VFIO_USER_VERSION.

    major, minor: the version that its sender proposes or accepts. limits: what the sender takes. told: which of them it
    told, by name; the others are the defaults.
    """

    major: int
    minor: int
    limits: Limits
    told: frozenset[str]

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Raises VfioError (EINVAL) for what is no such payload."""
        if len(payload) < _HEAD:
            raise _malformed("it is too short")
        head = vfio_user_version.from_buffer_copy(payload)
        told = _capabilities(payload[_HEAD:]) if len(payload) > _HEAD else {}
        known = {field.name: told[field.name] for field in fields(Limits) if field.name in told}
        for name, value in known.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
                raise _malformed(f"{name} is no positive number")
        return cls(head.major, head.minor, Limits(**known), frozenset(known))  # type: ignore[arg-type]


def proposal() -> bytes:
    """The payload of a client that takes what either end takes here."""
    return _payload(MINOR, asdict(OURS))


def answer(version: Version) -> tuple[bytes, Limits]:
    """The payload of a server's reply to a client's proposal, and what both ends take from now on.

    The reply tells nothing that the client did not, and so is never longer: QEMU has no more room. Raises VfioError
    (EOPNOTSUPP) for another major version.
    """
    if version.major != MAJOR:
        arguments = {"major": version.major}
        raise VfioError(errno.EOPNOTSUPP, "vfio-user VERSION", arguments, f"version {MAJOR}.{MINOR} is spoken here")
    limits = OURS.within(version.limits)
    told = {name: value for name, value in asdict(limits).items() if name in version.told}
    return _payload(min(version.minor, MINOR), told), limits


def _payload(minor: int, told: Mapping[str, int]) -> bytes:
    head = bytes(vfio_user_version(MAJOR, minor))
    if not told:
        return head
    return head + json.dumps({"capabilities": told}, separators=(",", ":")).encode() + b"\0"


def _capabilities(data: bytes) -> Mapping[str, object]:
    """The capabilities in the JSON that follows the version. Raises VfioError (EINVAL)."""
    text, zero, rest = data.partition(b"\0")
    if not zero or rest.strip(b"\0"):
        raise _malformed("its capabilities do not end with a zero byte")
    try:
        told = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise _malformed("its capabilities are no JSON") from error
    capabilities = told.get("capabilities", {}) if isinstance(told, dict) else None
    if not isinstance(capabilities, dict):
        raise _malformed("its capabilities are no object of JSON")
    return capabilities


def _malformed(meaning: str) -> VfioError:
    return VfioError(errno.EINVAL, "vfio-user VERSION", meaning=meaning)
