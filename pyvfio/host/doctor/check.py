"""What a check found."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    OK = "OK"
    WARN = "WARN"
    """It works, but not for everything, or not safely."""
    FAIL = "FAIL"
    """VFIO, or what was asked for, cannot work."""
    SKIP = "SKIP"
    """It follows from what another check found, whose fix is the one for this too."""


@dataclass(frozen=True, slots=True)
class Check:
    """name: stable; found: what is there; fix: what to do, a command where one does it; empty if all is well."""

    name: str
    status: Status
    found: str
    fix: str = ""
