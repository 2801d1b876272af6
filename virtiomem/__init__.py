"""virtio-mem for Python: a resizable memory region, in step with every device that does DMA to it."""

from typing import TYPE_CHECKING

from pyvfio.deferred import deferred

if TYPE_CHECKING:
    from virtiomem.device import (
        BlockMap,
        BlockState,
        BusyReason,
        Config,
        DeviceBusy,
        ErrorReason,
        Events,
        Feature,
        FeaturesRefused,
        NackReason,
        ProtocolViolation,
        RefusalReason,
        Request,
        RequestRefused,
        RequestType,
        Response,
        ResponseType,
        StateRefused,
        Statistics,
        VirtioMem,
    )
    from virtiomem.discard import (
        Backing,
        DiscardCoordination,
        DiscardRefused,
        DiscardUse,
        Divergence,
        KeepsBooks,
        ListenerDiverged,
        RamDiscardListener,
        RamDiscardManager,
        RamDiscardSource,
        Section,
    )
    from virtiomem.mapping import (
        DirtyLog,
        DirtyTracker,
        DmaMapper,
        GuestDomain,
        GuestIommu,
        GuestMapping,
        GuestMappingRefused,
        Refusal,
        TracksDirty,
    )
    from virtiomem.planner import Limit, Limits, Plan, Row, Verdict, plan
    from virtiomem.runs import Run
else:
    # A room is imported when the first of its names is asked for: `import virtiomem` costs next to nothing.
    __getattr__, __dir__ = deferred(
        __name__,
        {
            "virtiomem.device": (
                "BlockMap BlockState BusyReason Config DeviceBusy ErrorReason Events Feature FeaturesRefused "
                "NackReason ProtocolViolation RefusalReason Request RequestRefused RequestType Response "
                "ResponseType StateRefused Statistics VirtioMem"
            ),
            "virtiomem.discard": (
                "Backing DiscardCoordination DiscardRefused DiscardUse Divergence KeepsBooks ListenerDiverged "
                "RamDiscardListener RamDiscardManager RamDiscardSource Section"
            ),
            "virtiomem.mapping": (
                "DirtyLog DirtyTracker DmaMapper GuestDomain GuestIommu GuestMapping GuestMappingRefused "
                "Refusal TracksDirty"
            ),
            "virtiomem.planner": "Limit Limits Plan Row Verdict plan",
            "virtiomem.runs": "Run",
        },
    )

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
    "ErrorReason",
    "Events",
    "Feature",
    "FeaturesRefused",
    "GuestDomain",
    "GuestIommu",
    "GuestMapping",
    "GuestMappingRefused",
    "KeepsBooks",
    "Limit",
    "Limits",
    "ListenerDiverged",
    "NackReason",
    "Plan",
    "ProtocolViolation",
    "RamDiscardListener",
    "RamDiscardManager",
    "RamDiscardSource",
    "Refusal",
    "RefusalReason",
    "Request",
    "RequestRefused",
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
