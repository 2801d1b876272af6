"""Listeners that keep DMA mappings in step with what is plugged."""

from virtiomem.mapping.dirty import DirtyLog, DirtyTracker, TracksDirty
from virtiomem.mapping.dma import DmaMapper
from virtiomem.mapping.errors import GuestMappingRefused, Refusal
from virtiomem.mapping.guest_domain import GuestDomain
from virtiomem.mapping.guest_mappings import GuestMapping
from virtiomem.mapping.joined import join, joined, part
from virtiomem.mapping.viommu import GuestIommu

__all__ = [
    "DirtyLog",
    "DirtyTracker",
    "DmaMapper",
    "GuestDomain",
    "GuestIommu",
    "GuestMapping",
    "GuestMappingRefused",
    "Refusal",
    "TracksDirty",
    "join",
    "joined",
    "part",
]
