"""What is wrong with a guest's request: virtio-mem's rules, in the order in which QEMU checks them. Pure."""

from __future__ import annotations

from virtiomem.device.blocks import BlockMap
from virtiomem.device.config import Config
from virtiomem.device.requests import BlockState, Request, RequestType, Response, ResponseType
from virtiomem.runs import Run


def refusal(request: Request, config: Config, blocks: BlockMap) -> Response | None:
    """The answer to a request that may not be acted on; None for one that may.

    Source: virtio 1.3, 5.15.6; QEMU, hw/virtio/virtio-mem.c, virtio_mem_state_change_request.
    """
    if request.type is RequestType.UNPLUG_ALL:
        return None
    size = request.nb_blocks * config.block_size
    plug, unplug = request.type is RequestType.PLUG, request.type is RequestType.UNPLUG
    if not _is_usable(request.addr, size, config):
        return Response(ResponseType.ERROR)
    if plug and config.plugged_size + size > config.requested_size:
        return Response(ResponseType.NACK)
    if plug and not blocks.all_unplugged(requested_blocks(request, config)):
        return Response(ResponseType.ERROR)
    if unplug and not blocks.all_plugged(requested_blocks(request, config)):
        return Response(ResponseType.ERROR)
    return None


def requested_blocks(request: Request, config: Config) -> Run:
    """The blocks of a request that is not refused; of UNPLUG_ALL all there are."""
    if request.type is RequestType.UNPLUG_ALL:
        return Run(0, config.region_size // config.block_size)
    return Run((request.addr - config.addr) // config.block_size, request.nb_blocks)


def block_state(blocks: BlockMap, run: Run) -> BlockState:
    """The answer to STATE."""
    if blocks.all_plugged(run):
        return BlockState.PLUGGED
    return BlockState.UNPLUGGED if blocks.all_unplugged(run) else BlockState.MIXED


def _is_usable(addr: int, size: int, config: Config) -> bool:
    """Whether these are one or more whole blocks of the usable region."""
    return (
        addr % config.block_size == 0
        and size > 0
        and config.addr <= addr
        and addr + size <= config.addr + config.usable_region_size
    )
