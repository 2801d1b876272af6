"""An address space as text for people."""

from __future__ import annotations

from virtiomem.control import ManagedSpace


def space_line(space: ManagedSpace) -> str:
    """What virtiomem spaces says of it."""
    what = space.kind if space.ioas_id is None else f"IOAS {space.ioas_id} of an iommufd"
    whose = "lent by another process" if space.lent else ", ".join(space.devices)
    left = "" if space.mappings_left is None else f", {space.mappings_left} left"
    return f"{space.name}: {what}, {whose}; {space.mappings} mapping{'' if space.mappings == 1 else 's'}{left}"
