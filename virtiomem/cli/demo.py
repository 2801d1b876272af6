"""virtiomem demo"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pyvfio import Kernel, LinuxKernel, MemoryKind
from pyvfio.commandline import Command, Failure, Output, size
from pyvfio.sim import SimKernel
from virtiomem.cli.recording import add_record, recording
from virtiomem.stand_in import demo


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        choices=[kind.value for kind in MemoryKind],
        default=MemoryKind.ANONYMOUS.value,
        help="what backs the region (default: %(default)s)",
    )
    parser.add_argument("--page-size", type=size, metavar="SIZE", help="of huge pages: 2M or 1G (default: 2M)")
    parser.add_argument("--size", type=size, default="1G", help="of the region (default: %(default)s)")
    parser.add_argument("--block-size", type=size, default="2M", metavar="SIZE", help="default: %(default)s")
    parser.add_argument(
        "--plug", type=size, metavar="SIZE", help="how much to plug (default: 100M, or the region if smaller)"
    )
    parser.add_argument(
        "--device", action="append", metavar="BDF", help="a real edu device, or auto; repeat for a second"
    )
    add_record(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel: Kernel = LinuxKernel() if options.device else SimKernel(edu_devices=2)
    hint = "" if options.device else ": --device auto uses the host's own edu devices"
    output.text(f"kernel   {kernel.name}{hint}")
    try:
        with recording(options) as record, demo.found_devices(kernel, options.device or ["auto"]) as devices:
            result = demo.run(
                demo.Options(
                    kernel=kernel,
                    devices=devices,
                    memory_kind=MemoryKind(options.memory),
                    page_size=options.page_size,
                    region_size=options.size,
                    block_size=options.block_size,
                    plug=options.plug or min(100 << 20, options.size),
                    record=record,
                ),
                output.text,
            )
    except demo.Mismatch as error:
        raise Failure(f"mismatch: {error}") from error
    output.data(asdict(result))
    output.text(
        f"result   {result.map_calls} maps and {result.unmap_calls} unmap in each of "
        f"{len(result.address_spaces)} address spaces, {result.dma_verified_bytes} bytes verified by DMA, "
        f"{result.faults_stopped} stray writes stopped"
    )
    return 0


COMMAND = Command(
    "demo",
    "plug memory, let devices use it, unplug it",
    _run,
    _configure,
    description="Plug 100 MiB of a 1 GiB region by guest requests, one VFIO mapping per block; let a device write\n"
    "and read every block by DMA; join a second device; unplug with one call per container; show that\n"
    "the devices then reach nothing. Without --device a simulated kernel serves.",
    examples=(
        ("virtiomem demo", "on the simulated kernel"),
        ("virtiomem demo --device auto --memory hugetlb", "on every edu device of this host"),
        ("virtiomem demo --json --block-size 4M --plug 1G", "the result as data"),
    ),
)
