"""What every kind of address space shares: mappings, IOVAs, dirty pages, and why a mapping is refused."""

from pyvfio.dma.address_space import Access, AddressSpace, IovaRange, MappedRun
from pyvfio.dma.dirty import DirtyBitmap, DirtyTracking, bitmap_size, bits_of, stretches
from pyvfio.dma.iova import Fit, IovaAllocator
from pyvfio.dma.mapping_space import END, MapCall, MappingSpace
from pyvfio.dma.refusals import check_map_arguments, map_failure

__all__ = [
    "END",
    "Access",
    "AddressSpace",
    "DirtyBitmap",
    "DirtyTracking",
    "Fit",
    "IovaAllocator",
    "IovaRange",
    "MapCall",
    "MappedRun",
    "MappingSpace",
    "bitmap_size",
    "bits_of",
    "check_map_arguments",
    "map_failure",
    "stretches",
]
