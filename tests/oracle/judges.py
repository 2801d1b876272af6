"""Which QEMUs judge."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from vmlib.errors import Unavailable
from vmlib.qemu import PROGRAM, recent_qemu


def machine_qemu() -> Path:
    """The one that is installed. Raises Unavailable."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise Unavailable(f"{PROGRAM} is not installed: apt-get install --no-install-recommends qemu-system-x86")
    return Path(found)


JUDGES: Mapping[str, Callable[[], Path]] = {"machine": machine_qemu, "recent": recent_qemu}
