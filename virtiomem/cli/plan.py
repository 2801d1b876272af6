"""virtiomem plan"""

from __future__ import annotations

import argparse
from dataclasses import replace

from pyvfio.commandline import Command, Failure, Output, Style, count, size
from pyvfio.errors import MemoryUnavailable
from pyvfio.host import Host, lacks_iommu
from pyvfio.kernel import HostMemory, HugePages, Kernel, host_page_size, numa_nodes, text_or_empty
from pyvfio.memory import MemoryKind
from pyvfio.sysfs import named_device
from pyvfio.units import format_size
from virtiomem.cli.memory import MemoryChoice, add_memory
from virtiomem.cli.speed import PopulateSpeed, measure_populate
from virtiomem.planner import Limit, Limits, Plan, Row, Verdict, plan

_UNLIMITED = "unlimited"
_STYLES = {Verdict.OK: Style.GREEN, Verdict.WARN: Style.YELLOW, Verdict.FAIL: Style.RED}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", type=size, required=True, metavar="SIZE", help="of the region, everything plugged")
    parser.add_argument("--plugged", type=size, metavar="SIZE", help="how much at most is plugged (default: all)")
    parser.add_argument("--block-size", type=size, metavar="SIZE", help="default: the smallest that fits")
    parser.add_argument(
        "--address",
        type=size,
        default=0x1_0000_0000,
        help="guest-physical, where the region begins, as of run (default: 4G)",
    )
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="BDF",
        help="which it is mapped for: what their groups reserve counts (default: all that VFIO has); repeat for more",
    )
    parser.add_argument(
        "--devices",
        type=count,
        metavar="N",
        help="containers it is mapped into (default: one for each --device, or one)",
    )
    parser.add_argument("--node", type=int, metavar="N", help="the NUMA node all memory comes from (default: any)")
    parser.add_argument(
        "--other-mappings", type=_number, default=0, metavar="N", help="what else each container maps (default: none)"
    )
    add_memory(parser)
    limits = parser.add_argument_group("limits of another host than this one")
    limits.add_argument("--mappings", type=_count, metavar="N", help="of each container, or unlimited")
    limits.add_argument("--memlock", type=_size_or_unlimited, metavar="SIZE", help="RLIMIT_MEMLOCK, or unlimited")
    limits.add_argument("--huge-pages", type=_number, metavar="N", help="free in the pool")
    limits.add_argument("--host-memory", type=_size_or_unlimited, metavar="SIZE", help="available, or unlimited")
    parser.add_argument("--no-measure", action="store_true", help="do not populate a sample to tell how long it takes")


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel = (options.host or Host()).kernel
    memory: MemoryChoice = options.memory
    planned = plan(
        options.region,
        limits=_limits(options, kernel),
        block_size=options.block_size,
        plugged_size=options.plugged,
        address_spaces=max(len(options.device), 1) if options.devices is None else options.devices,
        other_mappings=options.other_mappings,
        address=options.address,
    )
    speed = None
    if not options.no_measure:
        try:
            speed = measure_populate(kernel, memory.kind, memory.page_size, options.region)
        except MemoryUnavailable:
            speed = None
    output.data(_data(planned, memory, speed))
    rows = [(row.limit.value, row.found or _found(row), row.verdict, row.fix) for row in planned.rows]
    if memory.page_size is None:
        rows.append((Limit.HUGE_PAGES.value, f"none asked for; {_transparent(kernel, memory.kind)}", Verdict.OK, ""))
    name_width, found_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, found, verdict, fix in rows:
        painted = output.paint(verdict, _STYLES[verdict])
        output.text(f"  {name:<{name_width}}  {found:<{found_width}}  {painted}")
        if fix:
            output.text(f"  {'':<{name_width}}  {output.paint(f'fix: {fix}', Style.BOLD)}")
    for note in planned.notes:
        output.text(f"  {'note':<{name_width}}  {note}")
    if speed is not None:
        duration = _duration(speed.seconds(planned.plugged_size))
        measured = f"{speed.rate / 1e9:.1f} GB/s of {format_size(speed.sample)} just now"
        output.text(f"  {'time':<{name_width}}  {duration} to populate all of it, at the {measured}")
    output.text(output.paint(f"  => {planned.conclusion}", Style.BOLD))
    return 0 if planned.fits else 1


def _limits(options: argparse.Namespace, kernel: Kernel) -> Limits:
    """The limits of this host, or those that options give instead."""
    limits = Limits.of_host(
        page_size=options.memory.page_size,
        kernel=kernel,
        node=_node(options.node, kernel),
        devices=[_device(name, kernel) for name in options.device],
    )
    if options.mappings is not None:
        limits = replace(limits, mappings=None if options.mappings == _UNLIMITED else options.mappings)
    if options.memlock is not None:
        limit = None if options.memlock == _UNLIMITED else options.memlock
        limits = replace(limits, memlock=replace(limits.memlock, limit=limit, charged=0, exempt=False))
    if options.huge_pages is not None and limits.huge_pages is not None:
        free = options.huge_pages
        limits = replace(limits, huge_pages=HugePages(limits.huge_pages.page_size, free, free), huge_page_sizes=())
    if options.host_memory is not None:
        given = None if options.host_memory == _UNLIMITED else HostMemory(options.host_memory, "as said")
        limits = replace(limits, memory=given)
    return limits


def _node(number: int | None, kernel: Kernel) -> int | None:
    """The NUMA node that is asked for. Raises Failure if the host does not have it."""
    nodes = numa_nodes(kernel) or {0}
    if number is None or number in nodes:
        return number
    raise Failure(f"--node {number}: this host has the NUMA nodes {', '.join(map(str, sorted(nodes)))}")


def _device(name: str, kernel: Kernel) -> str:
    """The address of a device that memory can be mapped for. Raises Failure, DeviceNotBound, InvalidArgument."""
    device = named_device(kernel, name)
    if lacks_iommu(kernel, device):
        raise Failure(
            f"--device {device.address}: no IOMMU is behind it, so that no memory can be mapped for it; "
            "pyvfio doctor says what is missing"
        )
    return device.address


def _found(row: Row) -> str:
    """What a limit needs and what there is, in words."""

    def amount(value: int) -> str:
        return format_size(value) if row.limit is Limit.MEMLOCK else str(value)

    return f"{amount(row.need)} needed, " + (
        _UNLIMITED if row.available is None else f"{amount(row.available)} available"
    )


def _transparent(kernel: Kernel, kind: MemoryKind) -> str:
    """Which pages memory of this kind has, if it is not of hugetlb pages."""
    mode = text_or_empty(kernel, "/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = mode.partition("[")[2].partition("]")[0] or "not in this kernel"
    return (
        f"THP is {chosen}"
        if kind is MemoryKind.THP
        else f"{kind.value} memory is of {format_size(host_page_size())} pages"
    )


def _duration(seconds: float) -> str:
    """A duration with two or three digits, in the unit that people would say it in."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, length, most in (("s", 1, 100), ("min", 60, 100 * 60), ("h", 3600, 72 * 3600)):
        if seconds < most:
            number = seconds / length
            return f"{number:.1f} {unit}" if number < 10 and unit != "min" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _data(planned: Plan, memory: MemoryChoice, speed: PopulateSpeed | None) -> dict[str, object]:
    return {
        "fits": planned.fits,
        "conclusion": planned.conclusion,
        "region_size": planned.region_size,
        "plugged_size": planned.plugged_size,
        "block_size": planned.block_size,
        "fitting_block_size": planned.fitting_block_size,
        "address_spaces": planned.address_spaces,
        "notes": list(planned.notes),
        "memory_kind": memory.kind.value,
        "page_size": memory.page_size,
        "limits": [
            {
                "limit": row.limit.value,
                "need": row.need,
                "available": row.available,
                "fits": row.fits,
                "verdict": row.verdict.value,
                "found": row.found or _found(row),
                "fix": row.fix,
            }
            for row in planned.rows
        ],
        "populate_rate": None if speed is None else round(speed.rate),
        "populate_seconds": None if speed is None else speed.seconds(planned.plugged_size),
    }


def _count(text: str) -> int | str:
    return _UNLIMITED if text == _UNLIMITED else _number(text)


def _number(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of nothing or more")
    return number


def _size_or_unlimited(text: str) -> int | str:
    return _UNLIMITED if text == _UNLIMITED else size(text)


COMMAND = Command(
    "plan",
    "does a region fit this host, and with which block size?",
    _run,
    _configure,
    description="Before anything is opened: whether a region of memory can be mapped for DMA block by block, against\n"
    "every limit of this host or of the limits given, memory and addresses too, which block size would fit, and how\n"
    "long it takes.\n"
    "Exit status 0 if it fits, 1 if not.",
    examples=(
        ("virtiomem plan --region 256G", "the smallest block size that fits"),
        ("virtiomem plan --region 256G --block-size 2M", "whether 2 MiB would"),
        ("virtiomem plan --region 8G --devices 2 --memory hugetlb:1G", "two containers, huge pages"),
        ("virtiomem plan --region 64G --address 1000G --device 03:00.0", "whether it can be there for that device"),
        ("virtiomem plan --region 1T --host-memory 2T --memlock unlimited", "another host's limits"),
    ),
)
