"""virtiomem plan"""

from __future__ import annotations

import argparse
from dataclasses import replace

from pyvfio.commandline import Command, Output, Style, size
from pyvfio.errors import MemoryUnavailable
from pyvfio.kernel import Kernel, text_or_empty
from pyvfio.memory import MemoryKind
from pyvfio.units import format_size
from virtiomem.cli.memory import MemoryChoice, add_memory
from virtiomem.cli.speed import PopulateSpeed, measure_populate
from virtiomem.planner import Limit, Limits, Plan, Row, plan

_UNLIMITED = "unlimited"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", type=size, required=True, metavar="SIZE", help="of the region, everything plugged")
    parser.add_argument("--plugged", type=size, metavar="SIZE", help="how much at most is plugged (default: all)")
    parser.add_argument("--block-size", type=size, metavar="SIZE", help="default: the smallest that fits")
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="containers it is mapped into (default: %(default)s)"
    )
    parser.add_argument(
        "--other-mappings", type=int, default=0, metavar="N", help="what else each container maps (default: none)"
    )
    add_memory(parser)
    limits = parser.add_argument_group("limits of another host than this one")
    limits.add_argument("--mappings", type=_count, metavar="N", help="of each container, or unlimited")
    limits.add_argument("--memlock", type=_size_or_unlimited, metavar="SIZE", help="RLIMIT_MEMLOCK, or unlimited")
    limits.add_argument("--huge-pages", type=int, metavar="N", help="free in the pool")
    parser.add_argument("--no-measure", action="store_true", help="do not populate a sample to tell how long it takes")


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel = options.host.kernel
    memory: MemoryChoice = options.memory
    planned = plan(
        options.region,
        limits=_limits(options, kernel),
        block_size=options.block_size,
        plugged_size=options.plugged,
        address_spaces=options.devices,
        other_mappings=options.other_mappings,
    )
    speed = None
    if not options.no_measure:
        try:
            speed = measure_populate(kernel, memory.kind, memory.page_size, options.region)
        except MemoryUnavailable:
            speed = None
    output.data(_data(planned, memory, speed))
    rows = [(row.limit.value, _found(row), row.verdict.value, row.fix) for row in planned.rows]
    if memory.page_size is None:
        rows.append((Limit.HUGE_PAGES.value, f"none asked for; {_transparent(kernel, memory.kind)}", "OK", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, found, verdict, fix in rows:
        painted = output.paint(f"{verdict:<4}", Style.GREEN if verdict == "OK" else Style.RED)
        output.text(f"  {name:<{widths[0]}}  {found:<{widths[1]}}  {painted}  {fix}".rstrip())
    if speed is not None:
        output.text(
            f"  {'time':<{widths[0]}}  {_duration(speed.seconds(planned.plugged_size))} to populate all of it, at the "
            f"{speed.rate / 1e9:.1f} GB/s of {format_size(speed.sample)} just now"
        )
    output.text(output.paint(f"  => {planned.conclusion}", Style.BOLD))
    return 0 if planned.fits else 1


def _limits(options: argparse.Namespace, kernel: Kernel) -> Limits:
    """This host's, unless others are given."""
    limits = Limits.of_host(page_size=options.memory.page_size, kernel=kernel)
    if options.mappings is not None:
        limits = replace(limits, mappings=None if options.mappings == _UNLIMITED else options.mappings)
    if options.memlock is not None:
        limit = None if options.memlock == _UNLIMITED else options.memlock
        limits = replace(limits, memlock=replace(limits.memlock, limit=limit, charged=0, exempt=False))
    if options.huge_pages is not None and limits.huge_pages is not None:
        free = options.huge_pages
        limits = replace(limits, huge_pages=replace(limits.huge_pages, total=free, free=free))
    return limits


def _found(row: Row) -> str:
    def amount(value: int) -> str:
        return format_size(value) if row.limit is Limit.MEMLOCK else str(value)

    return f"{amount(row.need)} needed, " + (
        _UNLIMITED if row.available is None else f"{amount(row.available)} available"
    )


def _transparent(kernel: Kernel, kind: MemoryKind) -> str:
    mode = text_or_empty(kernel, "/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = mode.partition("[")[2].partition("]")[0] or "not in this kernel"
    return f"THP is {chosen}" if kind is MemoryKind.THP else f"{kind.value} memory is of 4 KiB pages"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _data(planned: Plan, memory: MemoryChoice, speed: PopulateSpeed | None) -> dict[str, object]:
    return {
        "fits": planned.fits,
        "conclusion": planned.conclusion,
        "region_size": planned.region_size,
        "plugged_size": planned.plugged_size,
        "block_size": planned.block_size,
        "fitting_block_size": planned.fitting_block_size,
        "address_spaces": planned.address_spaces,
        "memory_kind": memory.kind.value,
        "page_size": memory.page_size,
        "limits": [
            {
                "limit": row.limit.value,
                "need": row.need,
                "available": row.available,
                "fits": row.fits,
                "fix": row.fix,
            }
            for row in planned.rows
        ],
        "populate_rate": None if speed is None else round(speed.rate),
        "populate_seconds": None if speed is None else speed.seconds(planned.plugged_size),
    }


def _count(text: str) -> int | str:
    return _UNLIMITED if text == _UNLIMITED else int(text, 0)


def _size_or_unlimited(text: str) -> int | str:
    return _UNLIMITED if text == _UNLIMITED else size(text)


COMMAND = Command(
    "plan",
    "does a region fit this host, and with which block size?",
    _run,
    _configure,
    description="Before anything is opened: whether a region of memory can be mapped for DMA block by block, against\n"
    "every limit of this host or of the limits given, which block size would fit, and how long it takes.\n"
    "Exit status 0 if it fits, 1 if not.",
    examples=(
        ("virtiomem plan --region 256G", "the smallest block size that fits"),
        ("virtiomem plan --region 256G --block-size 2M", "whether 2 MiB would"),
        ("virtiomem plan --region 8G --devices 2 --memory hugetlb:1G", "two containers, huge pages"),
        ("virtiomem plan --region 1T --mappings 65535 --memlock unlimited", "another host's limits"),
    ),
)
