"""Address spaces that a manager opens for devices: containers of groups, and those of an iommufd."""

from virtiomem.spaces.open_space import OpenSpace, SpaceKind
from virtiomem.spaces.opening import SpaceOptions, open_space

__all__ = [
    "OpenSpace",
    "SpaceKind",
    "SpaceOptions",
    "open_space",
]
