"""Pictures of the blocks of a region, for terminals and web pages."""

from virtiomem.draw.bar import bar
from virtiomem.draw.svg import block_map_svg

__all__ = [
    "bar",
    "block_map_svg",
]
