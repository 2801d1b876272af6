"""virtio-mem for Python: a resizable memory region, in step with every device that does DMA to it."""

from virtiomem.blocks import BlockMap
from virtiomem.config import Config, Feature
from virtiomem.coordination import DiscardCoordination, DiscardUse
from virtiomem.device import VirtioMem
from virtiomem.discard import RamDiscardManager
from virtiomem.dma import DmaMapper
from virtiomem.errors import (
    BusyReason,
    DeviceBusy,
    DiscardRefused,
    FeaturesRefused,
    ListenerDiverged,
    ProtocolViolation,
)
from virtiomem.events import Events, Statistics
from virtiomem.planner import Limit, Limits, Plan, Row, Verdict, plan
from virtiomem.registration import Divergence
from virtiomem.requests import BlockState, Request, RequestType, Response, ResponseType
from virtiomem.runs import Run
from virtiomem.section import Backing, RamDiscardListener, RamDiscardSource, Section

__all__ = [
    "Backing",
    "BlockMap",
    "BlockState",
    "BusyReason",
    "Config",
    "DeviceBusy",
    "DiscardCoordination",
    "DiscardRefused",
    "DiscardUse",
    "Divergence",
    "DmaMapper",
    "Events",
    "Feature",
    "FeaturesRefused",
    "Limit",
    "Limits",
    "ListenerDiverged",
    "Plan",
    "ProtocolViolation",
    "RamDiscardListener",
    "RamDiscardManager",
    "RamDiscardSource",
    "Request",
    "RequestType",
    "Response",
    "ResponseType",
    "Row",
    "Run",
    "Section",
    "Statistics",
    "Verdict",
    "VirtioMem",
    "plan",
]
