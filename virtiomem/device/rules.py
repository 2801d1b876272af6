"""virtio-mem's rules for the requests of a guest, in the order in which QEMU checks them.

Source: virtio 1.3, 5.15.6; QEMU, hw/virtio/virtio-mem.c, virtio_mem_state_change_request.
"""

from __future__ import annotations

from virtiomem.device.answers import ErrorReason, NackReason, RefusalReason
from virtiomem.device.blocks import BlockMap
from virtiomem.device.config import Config
from virtiomem.device.errors import RequestRefused
from virtiomem.device.requests import BlockState, Request, RequestType
from virtiomem.runs import Run


def requested_blocks(request: Request, config: Config) -> Run:
    """The blocks that a PLUG, UNPLUG or STATE request names, by number.

    Raises RequestRefused (ERROR) unless they are one or more whole blocks of the usable region.
    """
    size = request.nb_blocks * config.block_size
    if request.addr % config.block_size:
        raise _refused(request, ErrorReason.MISALIGNED, f"no multiple of the block size {config.block_size:#_x}")
    if not size:
        raise _refused(request, ErrorReason.NO_BLOCKS, "it names no block")
    usable = Run(config.addr, config.usable_region_size)
    if request.addr < usable.start or request.addr + size > usable.end:
        meaning = f"the usable region is {usable.size:#_x} bytes from {usable.start:#_x}"
        raise _refused(request, ErrorReason.NOT_USABLE, meaning)
    return Run((request.addr - config.addr) // config.block_size, request.nb_blocks)


def check_change(request: Request, blocks: Run, config: Config, block_map: BlockMap) -> None:
    """Raises RequestRefused unless blocks, which request names, may be plugged or unplugged as it asks."""
    if request.type is RequestType.PLUG:
        wanted = config.plugged_size + blocks.size * config.block_size
        if wanted > config.requested_size:
            meaning = f"{wanted:#_x} bytes would be plugged, and {config.requested_size:#_x} are requested"
            raise _refused(request, NackReason.REQUESTED_SIZE, meaning)
        if not block_map.all_unplugged(blocks):
            raise _refused(request, ErrorReason.PLUGGED, "some of the blocks are plugged already")
    elif not block_map.all_plugged(blocks):
        raise _refused(request, ErrorReason.UNPLUGGED, "some of the blocks are not plugged")


def block_state(block_map: BlockMap, blocks: Run) -> BlockState:
    """The answer to STATE."""
    if block_map.all_plugged(blocks):
        return BlockState.PLUGGED
    return BlockState.UNPLUGGED if block_map.all_unplugged(blocks) else BlockState.MIXED


def _refused(request: Request, reason: RefusalReason, meaning: str) -> RequestRefused:
    count = f"{request.nb_blocks} block{'' if request.nb_blocks == 1 else 's'}"
    return RequestRefused(f"{request.type.name.lower()} of {count} at {request.addr:#_x}", reason, meaning)
