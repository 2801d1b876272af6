"""virtio-mem for Python: a resizable memory region, in step with every device that does DMA to it."""

from virtiomem.blocks import BlockMap
from virtiomem.config import Config, Feature
from virtiomem.coordination import DiscardCoordination, DiscardUse
from virtiomem.device import VirtioMem
from virtiomem.dirty import DirtyLog, DirtyTracker, TracksDirty
from virtiomem.discard import RamDiscardManager
from virtiomem.dma import DmaMapper
from virtiomem.errors import (
    BusyReason,
    DeviceBusy,
    DiscardRefused,
    FeaturesRefused,
    GuestMappingRefused,
    ListenerDiverged,
    ProtocolViolation,
    Refusal,
    StateRefused,
)
from virtiomem.events import Events, Statistics
from virtiomem.guest_mappings import GuestMapping
from virtiomem.planner import Limit, Limits, Plan, Row, Verdict, plan
from virtiomem.registration import Divergence
from virtiomem.requests import BlockState, Request, RequestType, Response, ResponseType
from virtiomem.runs import Run
from virtiomem.section import Backing, RamDiscardListener, RamDiscardSource, Section
from virtiomem.viommu import GuestIommu

__all__ = [
    "Backing",
    "BlockMap",
    "BlockState",
    "BusyReason",
    "Config",
    "DeviceBusy",
    "DirtyLog",
    "DirtyTracker",
    "DiscardCoordination",
    "DiscardRefused",
    "DiscardUse",
    "Divergence",
    "DmaMapper",
    "Events",
    "Feature",
    "FeaturesRefused",
    "GuestIommu",
    "GuestMapping",
    "GuestMappingRefused",
    "Limit",
    "Limits",
    "ListenerDiverged",
    "Plan",
    "ProtocolViolation",
    "RamDiscardListener",
    "RamDiscardManager",
    "RamDiscardSource",
    "Refusal",
    "Request",
    "RequestType",
    "Response",
    "ResponseType",
    "Row",
    "Run",
    "Section",
    "StateRefused",
    "Statistics",
    "TracksDirty",
    "Verdict",
    "VirtioMem",
    "plan",
]
