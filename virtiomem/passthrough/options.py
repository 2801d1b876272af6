"""PassthroughOptions: a device that a guest is to drive, and who may connect to its socket."""

from __future__ import annotations

import grp
import pwd
import re
from dataclasses import dataclass, field, replace
from typing import Final, Self

from pyvfio.units import parse_size
from pyvfio.unix_socket import Permissions

KEYS: Final = ("user", "group", "mode", "registers", "memory")
"""What parse() takes after the socket."""
_LARGEST_ID: Final = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class PassthroughOptions:
    """A device to serve over vfio-user.

    device: its PCI address, or the name of its network interface. path: of the socket that QEMU connects to.
    permissions: who may connect. maps_registers: whether the client may map registers from the device's own descriptor,
    as ServedDevice(shares_file=True) has it; otherwise each access to one is a message. memory: bytes of memory outside
    virtio-mem regions that the client may have mapped, and so pinned, at most; None: as many as it says.
    """

    device: str
    path: str
    permissions: Permissions = field(default_factory=Permissions)
    maps_registers: bool = True
    memory: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of the form DEVICE=SOCKET[,KEY=VALUE...], with the keys of KEYS. Raises ValueError, with a sentence."""
        place, *settings = text.split(",")
        device, equals, path = place.partition("=")
        if not (device and equals and path):
            raise ValueError(f"{text!r} is not DEVICE=SOCKET[,KEY=VALUE...]")
        options = cls(device, path)
        for setting in settings:
            key, equals, value = setting.partition("=")
            if key not in KEYS or not equals:
                raise ValueError(f"{setting!r} is none of {', '.join(f'{key}=' for key in KEYS)}")
            options = options._with(key, value)
        return options

    def _with(self, key: str, value: str) -> Self:
        if key == "registers":
            if value not in ("mapped", "messages"):
                raise ValueError(f"registers={value} is neither mapped nor messages")
            return replace(self, maps_registers=value == "mapped")
        if key == "memory":
            return replace(self, memory=parse_size(value))
        if key == "mode":
            if not re.fullmatch("0?[0-7]{3}", value):
                raise ValueError(f"mode={value} is not a mode such as 0660")
            return replace(self, permissions=replace(self.permissions, mode=int(value, 8)))
        number = _user(value) if key == "user" else _group(value)
        return replace(self, permissions=replace(self.permissions, **{key: number}))


def _user(name: str) -> int:
    if (number := _number(name)) is not None:
        return number
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ValueError(f"user={name}: this host has no such user") from None


def _group(name: str) -> int:
    if (number := _number(name)) is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(f"group={name}: this host has no such group") from None


def _number(text: str) -> int | None:
    if not re.fullmatch("[0-9]{1,10}", text):
        return None
    if (number := int(text)) > _LARGEST_ID:
        raise ValueError(f"{text} is not the number of a user or a group")
    return number
