"""The virtio-mem device: its region, its blocks, its requests and the rules for them."""

from typing import TYPE_CHECKING

from pyvfio.deferred import deferred

if TYPE_CHECKING:
    from virtiomem.device.answers import BusyReason, ErrorReason, NackReason, RefusalReason, ResponseType
    from virtiomem.device.blocks import BlockMap
    from virtiomem.device.config import (
        MINIMUM_BLOCK_SIZE,
        USABLE_EXTENT,
        Config,
        Feature,
        check_block_size,
        check_region,
        check_requested_size,
        default_block_size,
        usable_region_size,
    )
    from virtiomem.device.device import VirtioMem
    from virtiomem.device.errors import (
        DeviceBusy,
        FeaturesRefused,
        ProtocolViolation,
        RequestRefused,
        StateNotKept,
        StateRefused,
    )
    from virtiomem.device.events import Events, Throttle
    from virtiomem.device.live_state import StateKeeper
    from virtiomem.device.requests import (
        REQUEST_SIZE,
        RESPONSE_SIZE,
        BlockState,
        Request,
        RequestType,
        Response,
    )
    from virtiomem.device.state import DeviceState
    from virtiomem.device.statistics import Statistics
else:
    # A module is imported when the first of its names is asked for: who reads a status needs no device.
    __getattr__, __dir__ = deferred(
        __name__,
        {
            "virtiomem.device.answers": "BusyReason ErrorReason NackReason RefusalReason ResponseType",
            "virtiomem.device.blocks": "BlockMap",
            "virtiomem.device.config": (
                "Config Feature MINIMUM_BLOCK_SIZE USABLE_EXTENT check_block_size check_region "
                "check_requested_size default_block_size usable_region_size"
            ),
            "virtiomem.device.device": "VirtioMem",
            "virtiomem.device.errors": (
                "DeviceBusy FeaturesRefused ProtocolViolation RequestRefused StateNotKept StateRefused"
            ),
            "virtiomem.device.events": "Events Throttle",
            "virtiomem.device.live_state": "StateKeeper",
            "virtiomem.device.requests": ("BlockState REQUEST_SIZE RESPONSE_SIZE Request RequestType Response"),
            "virtiomem.device.state": "DeviceState",
            "virtiomem.device.statistics": "Statistics",
        },
    )

__all__ = [
    "MINIMUM_BLOCK_SIZE",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "USABLE_EXTENT",
    "BlockMap",
    "BlockState",
    "BusyReason",
    "Config",
    "DeviceBusy",
    "DeviceState",
    "ErrorReason",
    "Events",
    "Feature",
    "FeaturesRefused",
    "NackReason",
    "ProtocolViolation",
    "RefusalReason",
    "Request",
    "RequestRefused",
    "RequestType",
    "Response",
    "ResponseType",
    "StateKeeper",
    "StateNotKept",
    "StateRefused",
    "Statistics",
    "Throttle",
    "VirtioMem",
    "check_block_size",
    "check_region",
    "check_requested_size",
    "default_block_size",
    "usable_region_size",
]
