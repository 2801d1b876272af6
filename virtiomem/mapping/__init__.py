"""Listeners that keep DMA mappings in step with what is plugged."""

from virtiomem.mapping.dirty import DirtyLog, DirtyTracker, TracksDirty
from virtiomem.mapping.dma import DmaMapper
from virtiomem.mapping.guest_mappings import GuestMapping
from virtiomem.mapping.viommu import GuestIommu

__all__ = [
    "DirtyLog",
    "DirtyTracker",
    "DmaMapper",
    "GuestIommu",
    "GuestMapping",
    "TracksDirty",
]
