"""Which QEMUs judge."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from vmlib.errors import Unavailable
from vmlib.qemu import PROGRAM, recent_qemu


def machine_qemu() -> Path:
    """The one that is installed. Raises Unavailable."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise Unavailable(f"{PROGRAM} is not installed: apt-get install --no-install-recommends qemu-system-x86")
    return Path(found)


JUDGES: Mapping[str, Callable[[], Path]] = {"machine": machine_qemu, "recent": recent_qemu}


def available(name: str) -> Path:
    """A judge by its name. Where nothing may be missing (CI), a missing one is a failure, elsewhere a skip."""
    try:
        return JUDGES[name]()
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"QEMU is required here: {error}")
        pytest.skip(str(error))
