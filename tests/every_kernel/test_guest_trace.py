"""A real guest's requests, replayed through the device into a container: a device reaches just what is plugged."""

from __future__ import annotations

import json
from pathlib import Path

from pyvfio import Container, Kernel, Memory, MemoryKind
from pyvfio.drivers.edu import Edu
from virtiomem import DmaMapper, Response, ResponseType, VirtioMem

TRACE = Path(__file__).parent.parent / "data" / "linux-7.jsonl"
STAGING = 0x1000_0000
TRANSFER = 2048
PAGE = 4096


def test_a_real_guests_requests(container: Container, engine: Edu, kernel: Kernel) -> None:
    init, *lines = map(json.loads, TRACE.read_text().splitlines())
    with (
        Memory.allocate(MemoryKind.MEMFD, init["region_size"], kernel=kernel) as memory,
        Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=kernel) as staging,
        VirtioMem(memory, address=init["addr"], block_size=init["block_size"], prealloc=False) as device,
        DmaMapper(container) as mapper,
    ):
        staging.populate(0, PAGE)
        container.map_dma(STAGING, staging, 0, PAGE)
        device.discards.register(mapper, device.section)
        device.negotiate(init["features"])
        for line in lines:
            match line["op"]:
                case "request":
                    response = Response.parse(device.handle(bytes.fromhex(line["hex"])))
                    assert response.type is ResponseType.ACK
                case "resize":
                    reach_what_is_plugged(device, memory, staging, engine)
                    device.resize(line["requested_size"])
                case "device_reset":
                    device.device_reset()
                case "system_reset":
                    device.system_reset()
            held = [(run.iova, run.size) for run in container.mappings() if run.memory is memory]
            assert held == [(run.start, run.size) for run in device.plugged_runs]
            assert container.mapping_count - 1 == device.plugged_size // init["block_size"]
        assert device.plugged_size == 0
        assert memory.resident(0, memory.size) == 0
        device.discards.unregister(mapper)
        container.unmap_all()


def reach_what_is_plugged(device: VirtioMem, memory: Memory, staging: Memory, engine: Edu) -> None:
    """Both ends of every plugged run, and nothing beyond."""
    region = device.section.offset_within_address_space
    note = bytes([device.plugged_size >> 21 & 0xFF or 1]) * TRANSFER
    staging.write(0, note)
    engine.fetch(STAGING, TRANSFER)
    for run in device.plugged_runs:
        for iova in (run.start, run.end - TRANSFER):
            engine.store(iova, TRANSFER)
            assert memory.read(iova - region, TRANSFER) == note
        engine.store(run.end, TRANSFER)
        assert memory.resident(run.end - region, PAGE) == 0
