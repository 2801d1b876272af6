"""The virtio-mem device: its region, its blocks, its requests and the rules for them."""

from virtiomem.device.blocks import BlockMap
from virtiomem.device.config import (
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
from virtiomem.device.events import Events, Statistics
from virtiomem.device.requests import (
    REQUEST_SIZE,
    RESPONSE_SIZE,
    BlockState,
    Request,
    RequestType,
    Response,
    ResponseType,
)

__all__ = [
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "USABLE_EXTENT",
    "BlockMap",
    "BlockState",
    "Config",
    "Events",
    "Feature",
    "Request",
    "RequestType",
    "Response",
    "ResponseType",
    "Statistics",
    "VirtioMem",
    "check_block_size",
    "check_region",
    "check_requested_size",
    "default_block_size",
    "usable_region_size",
]
