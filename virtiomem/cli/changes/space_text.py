"""An address space as text for people."""

from __future__ import annotations

from pyvfio.units import format_size
from virtiomem.control import ManagedPassed, ManagedSpace


def passed_line(passed: ManagedPassed) -> str:
    """What virtiomem spaces says of a device that a guest drives."""
    if not passed.connected:
        return f"  {passed.device}: no guest has it, at {passed.socket}"
    missing = f"; {format_size(passed.unmapped)} could not be mapped: it does no DMA" if passed.unmapped else ""
    return f"  {passed.device}: a guest has it, and {format_size(passed.memory)} beside its plugged blocks{missing}"


def space_line(space: ManagedSpace) -> str:
    """What virtiomem spaces says of it."""
    what = space.kind if space.ioas_id is None else f"IOAS {space.ioas_id} of an iommufd"
    whose = "lent by another process" if space.lent else ", ".join(space.devices)
    left = "" if space.mappings_left is None else f", {space.mappings_left} left"
    return f"{space.name}: {what}, {whose}; {space.mappings} mapping{'' if space.mappings == 1 else 's'}{left}"
