"""What every kind of address space has: mappings, device addresses, dirty pages, and reasons to refuse a mapping."""

from pyvfio.dma.address_space import Access, AddressSpace, AttachesGroups, IovaRange, MappedRun, TakesUp
from pyvfio.dma.bits import JoinedBits, bitmap_of, bitmap_size, bits_of
from pyvfio.dma.dirty import DirtyBitmap, DirtyTracking, stretches, tracks_already
from pyvfio.dma.iova import Fit, IovaAllocator
from pyvfio.dma.map_call import MapCall
from pyvfio.dma.mapping_space import END, DmaCalls, Layout, MappingSpace
from pyvfio.dma.refusals import check_map_arguments, check_target, map_failure
from pyvfio.dma.shared_space import SharedSpace
from pyvfio.dma.span_index import SpanIndex
from pyvfio.dma.succession import SucceedingSpace

__all__ = [
    "END",
    "Access",
    "AddressSpace",
    "AttachesGroups",
    "DirtyBitmap",
    "DirtyTracking",
    "DmaCalls",
    "Fit",
    "IovaAllocator",
    "IovaRange",
    "JoinedBits",
    "Layout",
    "MapCall",
    "MappedRun",
    "MappingSpace",
    "SharedSpace",
    "SpanIndex",
    "SucceedingSpace",
    "TakesUp",
    "bitmap_of",
    "bitmap_size",
    "bits_of",
    "check_map_arguments",
    "check_target",
    "map_failure",
    "stretches",
    "tracks_already",
]
