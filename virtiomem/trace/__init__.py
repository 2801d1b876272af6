"""Traces: what a guest and its host asked of a virtio-mem device, to be recorded and replayed.

A trace has one JSON object a line. The first line makes the device; all sizes and addresses are bytes:

    {"op": "init", "block_size": …, "addr": …, "region_size": …, "requested_size": …}

with, optionally, "node_id", "features" (as negotiated; default: UNPLUGGED_INACCESSIBLE) and "mappers" (how many address
spaces the region is mapped into, 64 at most; default: 1). The others are:

    {"op": "request", "hex": "<what the guest sent>"}, optionally "response_size" (bytes of its buffer; default: 10)
    {"op": "resize", "requested_size": …}
    {"op": "system_reset"}
    {"op": "device_reset"}
    {"op": "migrating", "on": true or false}
    {"op": "load", "hex": "<a state, as VirtioMem.save() gives it>"}
    {"op": "refuse_map", "mapper": …, "nth": …, "errno": …}: in the next request that map, counted from 0, fails
"""

from virtiomem.trace.dma_log import DmaCall, DmaLog
from virtiomem.trace.line import Line, TraceError
from virtiomem.trace.player import Player, Step
from virtiomem.trace.recorder import RecordedVirtioMem
from virtiomem.trace.replay import describe, replay

__all__ = [
    "DmaCall",
    "DmaLog",
    "Line",
    "Player",
    "RecordedVirtioMem",
    "Step",
    "TraceError",
    "describe",
    "replay",
]
