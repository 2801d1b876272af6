"""The parts of a PCI device by name: "bar0" for a region, "msix" for interrupts."""

from __future__ import annotations

import difflib
import errno
from enum import IntEnum

from pyvfio.device.open_device import DeviceFlags, OpenDevice
from pyvfio.errors import InvalidArgument


def part_index(device: OpenDevice, names: type[IntEnum], part: int | str) -> int:
    """The index that part says: a number as it is, a name as names has it, in either case.

    Raises InvalidArgument for a name that names has not, and for any name of a device that is not PCI.
    """
    if not isinstance(part, str):
        return int(part)
    operation = f"find {part!r} of {device.address}"
    if not device.info.flags & DeviceFlags.PCI:
        raise InvalidArgument(errno.EINVAL, operation, meaning="it is no PCI device, and its parts have numbers only")
    known = {member.name.lower(): int(member) for member in names}
    try:
        return known[part.lower()]
    except KeyError:
        alike = difflib.get_close_matches(part.lower(), known, 1)
        meaning = f"it is none of {', '.join(known)}"
        advice = f"Did you mean {alike[0]!r}?" if alike else ""
        raise InvalidArgument(errno.EINVAL, operation, meaning=meaning, advice=advice) from None
