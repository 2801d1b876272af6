"""What QEMU is told of a device that is served to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

_REPLY_TIMEOUT: Final = 120_000
"""Milliseconds that QEMU waits for a reply: pinning all of a guest's memory takes longer than its 5 seconds."""


def qemu_option(path: str, *, identity: str = "") -> str:
    """The value of QEMU's -device for the device that is served at path. identity: its id in QEMU; empty for none.

    Source: QEMU 11.1, hw/vfio-user/pci.c.
    """
    option: dict[str, object] = {
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": str(Path(path).absolute())},
        "x-msg-timeout": _REPLY_TIMEOUT,
    }
    if identity:
        option["id"] = identity
    return json.dumps(option, separators=(",", ":"))
