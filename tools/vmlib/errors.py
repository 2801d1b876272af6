"""What can go wrong around a machine, as opposed to in it."""

from __future__ import annotations


class VmError(Exception):
    """The machine cannot be had, or did not end by itself. The message says what to do."""


class Unavailable(VmError):
    """A prerequisite is missing: QEMU, a kernel, apt."""
