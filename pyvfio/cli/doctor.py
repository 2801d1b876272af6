"""pyvfio doctor"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pyvfio.commandline import Command, Output, Style, size
from pyvfio.host.doctor import Needs, Status, examine

_STYLES = {Status.OK: Style.GREEN, Status.WARN: Style.YELLOW, Status.FAIL: Style.RED, Status.SKIP: Style.DIM}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory", type=size, default=0, metavar="SIZE", help="how much is to be mapped for DMA (default: any)"
    )
    parser.add_argument(
        "--block-size", type=size, default=2 << 20, metavar="SIZE", help="of each mapping (default: 2M)"
    )
    parser.add_argument(
        "--spaces", type=int, default=1, metavar="N", help="in how many address spaces (default: %(default)s)"
    )
    parser.add_argument("--huge-pages", type=size, metavar="SIZE", help="the memory is of huge pages of this size")


def _run(options: argparse.Namespace, output: Output) -> int:
    needs = Needs(options.memory, options.block_size, options.spaces, options.huge_pages)
    checks = examine(options.host.kernel, needs)
    ready = all(check.status is not Status.FAIL for check in checks)
    output.data({"ready": ready, "checks": [asdict(check) for check in checks]})
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = output.paint(f"{check.status:<4}", _STYLES[check.status])
        output.text(f"{status}  {check.name:<{width}}  {check.found}")
        if check.fix:
            output.text(f"      {'':<{width}}  {output.paint('fix: ' + check.fix, Style.BOLD)}")
    output.text("ready" if ready else "not ready")
    return 0 if ready else 1


COMMAND = Command(
    "doctor",
    "is this host ready for VFIO? each check with its fix",
    _run,
    _configure,
    description="Check the IOMMU, interrupt remapping, modules, nodes and their permissions, groups, locked memory,\n"
    "memory, mapping limit and huge pages, as this user. What follows from another check is SKIP: mend that one.\n"
    "Exit status 0 if nothing fails, 1 otherwise.",
    examples=(
        ("pyvfio doctor", "for any use"),
        ("pyvfio doctor --memory 64G --block-size 4M --spaces 2", "for so much memory in two containers"),
        ("pyvfio doctor --memory 8G --huge-pages 1G", "of huge pages"),
    ),
)
