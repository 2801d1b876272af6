"""Address spaces that a manager opens for devices, or is lent by a process that has opened them."""

from virtiomem.spaces.kept import KeptSpace
from virtiomem.spaces.lent import LentType, Received, as_received, lent_container, lent_iommufd
from virtiomem.spaces.open_space import OpenSpace, SpaceKind
from virtiomem.spaces.opening import SpaceOptions, open_space, space_name

__all__ = [
    "KeptSpace",
    "LentType",
    "OpenSpace",
    "Received",
    "SpaceKind",
    "SpaceOptions",
    "as_received",
    "lent_container",
    "lent_iommufd",
    "open_space",
    "space_name",
]
