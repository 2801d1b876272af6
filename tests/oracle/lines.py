"""The device that sequences are made for, and lines of them."""

from __future__ import annotations

from tests.oracle.observation import Line
from virtiomem.device import Request, RequestType

MIB = 1 << 20
BLOCK = 2 * MIB
ADDRESS = 1 << 32
INIT: Line = {
    "op": "init",
    "block_size": BLOCK,
    "addr": ADDRESS,
    "region_size": 1024 * MIB,
    "requested_size": 512 * MIB,
}
STEPS = 60


def request(kind: RequestType, block: int = 0, count: int = 0, **more: object) -> Line:
    return {"op": "request", "hex": bytes(Request(kind, ADDRESS + block * BLOCK, count)).hex(), **more}
