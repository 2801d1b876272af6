"""How a system call fails."""

from __future__ import annotations

import os


def fail(code: int) -> OSError:
    """The OSError of a system call that returns this errno."""
    return OSError(code, os.strerror(code))
