"""The status of a device as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from pyvfio.commandline import Output, Style
from pyvfio.units import format_size
from virtiomem.control import DeviceStatus
from virtiomem.draw import bar
from virtiomem.runs import Run, intersect, subtract

_WIDTH = 64
_MOST_ROWS = 8
_MOST_RANGES = 20


def status_lines(output: Output, status: DeviceStatus) -> Iterator[str]:
    """The lines of virtiomem show about a device."""
    node = "" if status.node_id is None else f" on NUMA node {status.node_id}"
    yield f"{output.paint(status.name, Style.BOLD)}  {status.memory_kind} memory{node}, {status.guest}"
    sizes = {
        "total": status.region_size,
        "block": status.block_size,
        "usable": status.usable_size,
        "plugged": status.plugged_size,
        "requested": status.requested_size,
    }
    mappings = sum(space.mappings for space in status.address_spaces)
    spaces = len(status.address_spaces)
    yield (
        "  "
        + "   ".join(f"{name} {format_size(size)}" for name, size in sizes.items())
        + (f"   mappings {mappings} in {spaces} address space{'' if spaces == 1 else 's'}")
    )
    yield from _ranges(status)
    yield from block_map(output, status)
    if status.waiting_for:
        yield output.paint(f"  waiting: {status.waiting_for}", Style.YELLOW)
    if status.migrating:
        yield output.paint(
            "  migrating: no block changes, and a guest that plugs or unplugs is answered BUSY", Style.YELLOW
        )
    if status.broken:
        yield output.paint("  broken: the guest broke the protocol, and must reset the device", Style.RED)
    for divergence in status.divergences:
        yield output.paint(f"  diverged: {divergence}", Style.RED)


def _ranges(status: DeviceStatus) -> Iterator[str]:
    """The plugged and the unplugged ranges, each as long as can be, ascending."""
    region = Run(status.address, status.region_size)
    rows = [(run, "plugged") for run in status.plugged]
    rows += [(run, "unplugged") for run in subtract([region], status.plugged)]
    rows.sort(key=lambda row: row[0].start)
    for run, state in rows[:_MOST_RANGES]:
        yield f"  {run.start:#x}-{run.end - 1:#x}  {format_size(run.size):>9}  {state}"
    if len(rows) > _MOST_RANGES:
        yield f"  and {len(rows) - _MOST_RANGES} more ranges: --json has all"


def block_map(output: Output, status: DeviceStatus) -> Iterator[str]:
    """Rows of cells. A cell is one block, or as many as it takes to make at most _MOST_ROWS rows."""
    blocks = status.region_size // status.block_size
    cells = min(blocks, _WIDTH * _MOST_ROWS)
    cell_size = -(-blocks // cells) * status.block_size
    row_size = _WIDTH * cell_size
    region = Run(status.address, status.region_size)
    usable_end = status.address + status.usable_size
    for start in range(region.start, usable_end, row_size):
        row = Run(start, min(row_size, region.end - start))
        width = -(-row.size // cell_size)
        plugged = [(run.start - start, run.size) for run in intersect(status.plugged, [row])]
        usable = max(0, min(width, -(-(usable_end - start) // cell_size)))
        drawn = bar(plugged, width * cell_size, width)
        yield f"  {start:#x}  " + output.paint(drawn[:usable].replace(" ", "·"), Style.GREEN)
    if usable_end < region.end:
        yield f"  {usable_end:#x}  to the end: not usable before more is requested"
    count = "a block" if cell_size == status.block_size else f"{cell_size // status.block_size} blocks"
    yield output.paint(f"  each cell is {count}, {format_size(cell_size)}; · is usable and unplugged", Style.DIM)
