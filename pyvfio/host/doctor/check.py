"""Check: what was found, how bad it is, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How bad what was found is."""

    OK = "OK"
    WARN = "WARN"
    """It works, but not for everything, or not safely."""
    FAIL = "FAIL"
    """VFIO, or what was asked for, cannot work."""
    SKIP = "SKIP"
    """It follows from what another check found, whose fix is the one for this too."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    name: which one; it does not change from version to version. status: how bad it is. found: what is there. fix: what
    to do, a command if there is one; empty if all is well.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
