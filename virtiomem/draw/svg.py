"""The block map of a device as an SVG picture."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pyvfio.units import format_size
from virtiomem.control import DeviceStatus
from virtiomem.runs import Run, intersect, subtract

_COLUMNS = 64
_MOST_ROWS = 32
_CELL, _GAP, _LEFT, _TOP = 10, 1, 96, 64
_PLUGGED, _USABLE, _BEYOND = "#2e8b57", "#cfe3d8", "#eceff1"
_FONT = 'font-family="sans-serif"'


def block_map_svg(status: DeviceStatus) -> str:
    """An SVG document with a cell for each block, or for several, shaded by how much of them is plugged."""
    blocks = status.region_size // status.block_size
    cell_size = -(-blocks // (_COLUMNS * _MOST_ROWS)) * status.block_size
    cells = -(-status.region_size // cell_size)
    rows = -(-cells // _COLUMNS)
    width, height = _LEFT + _COLUMNS * (_CELL + _GAP) + 16, _TOP + rows * (_CELL + _GAP) + 40
    name, summary = escape(status.name), escape(_summary(status))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{summary}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" {_FONT} font-size="16" font-weight="bold" fill="#263238">{name}</text>',
        f'<text x="16" y="48" {_FONT} font-size="12" fill="#455a64">{summary}</text>',
        *_cells(status, cell_size),
        *_legend(status, cell_size, _TOP + rows * (_CELL + _GAP) + 16),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _summary(status: DeviceStatus) -> str:
    return (
        f"{format_size(status.plugged_size)} plugged of {format_size(status.requested_size)} requested, "
        f"{format_size(status.usable_size)} usable, {format_size(status.region_size)} in all"
    )


def _cells(status: DeviceStatus, cell_size: int) -> Iterator[str]:
    """Draw a run of equal cells as one rectangle, and gaps over all rows, so that large regions make small files."""
    region = Run(status.address, status.region_size)
    row_size = _COLUMNS * cell_size
    usable = Run(status.address, status.usable_size)
    step = _CELL + _GAP
    for number, start in enumerate(range(region.start, region.end, row_size)):
        row = Run(start, min(row_size, region.end - start))
        y = _TOP + number * step
        yield (
            f'<text x="{_LEFT - 8}" y="{y + _CELL - 1}" text-anchor="end" font-family="monospace" font-size="9" '
            f'fill="#607d8b">{start:#x}</text>'
        )
        layers = [
            (_BEYOND, subtract([row], [usable] if usable.size else [])),
            (_USABLE, intersect([row], [usable] if usable.size else [])),
            (_PLUGGED, intersect([row], status.plugged)),
        ]
        for colour, runs in layers:
            for run in runs:
                x, length = _LEFT + (run.start - start) * step / cell_size, run.size * step / cell_size
                yield f'<rect x="{x:g}" y="{y}" width="{length:g}" height="{_CELL}" fill="{colour}"/>'
    height = -(-region.size // row_size) * step
    for column in range(1, _COLUMNS + 1):
        yield f'<rect x="{_LEFT + column * step - _GAP}" y="{_TOP}" width="{_GAP}" height="{height}" fill="#ffffff"/>'


def _legend(status: DeviceStatus, cell_size: int, y: int) -> Iterator[str]:
    count = cell_size // status.block_size
    entries = [(_PLUGGED, "plugged"), (_USABLE, "usable, unplugged"), (_BEYOND, "beyond the usable region")]
    x = _LEFT
    for colour, text in entries:
        yield f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour}"/>'
        yield f'<text x="{x + _CELL + 4}" y="{y + 9}" {_FONT} font-size="11" fill="#455a64">{text}</text>'
        x += 34 + 7 * len(text)
    cell = f"each cell is {'a block' if count == 1 else f'{count} blocks'} of {format_size(status.block_size)}"
    yield f'<text x="{x}" y="{y + 9}" {_FONT} font-size="11" fill="#455a64">{cell}</text>'
