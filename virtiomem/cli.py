"""The virtiomem command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from pyvfio import Kernel, LinuxKernel, MemoryKind
from pyvfio.sim import SimKernel
from virtiomem import demo, trace
from virtiomem.units import parse_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. Errors are one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except BrokenPipeError:
        return 1
    except demo.Mismatch as error:
        print(f"virtiomem: mismatch: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"virtiomem: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="virtiomem", description="Resizable memory of a guest, in step with every device that does DMA to it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    showing = commands.add_parser(
        "demo",
        help="plug memory, let devices use it, unplug it",
        description="Plug 100 MiB of a 1 GiB region by guest requests, one VFIO mapping per block; let a device write "
        "and read every block by DMA; join a second device; unplug with one call per container; show that "
        "the devices then reach nothing.",
        epilog="Without --device a simulated kernel serves. With --device auto every edu device of the host is used.",
    )
    showing.add_argument(
        "--memory",
        choices=[kind.value for kind in MemoryKind],
        default=MemoryKind.ANONYMOUS.value,
        help="what backs the region (default: %(default)s)",
    )
    showing.add_argument("--page-size", type=_size, help="of huge pages: 2M or 1G (default: 2M)")
    showing.add_argument("--size", type=_size, default="1G", help="of the region (default: %(default)s)")
    showing.add_argument("--block-size", type=_size, default="2M", help="default: %(default)s")
    showing.add_argument("--plug", type=_size, help="how much to plug (default: 100M, or the region if smaller)")
    showing.add_argument(
        "--device", action="append", metavar="BDF|auto", help="a real edu device; repeat for a second (default: none)"
    )
    showing.add_argument("--json", action="store_true", help="the result as data")
    showing.set_defaults(run=_demo)

    replaying = commands.add_parser("replay", help="play a trace of guest requests (JSON Lines) and print the answers")
    replaying.add_argument("file", help="the trace; - for standard input")
    replaying.add_argument("--json", action="store_true", help="one JSON line per line of the trace")
    replaying.set_defaults(run=_replay)
    return parser


def _demo(options: argparse.Namespace) -> int:
    kernel: Kernel
    wanted: list[str]
    if options.device is None:
        simulated = SimKernel.with_edu_devices(2)
        kernel, wanted = simulated, ["auto"]
    else:
        kernel, wanted = LinuxKernel(), options.device

    def say(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    say(f"kernel   {kernel.name}" + (": --device auto uses the host's own edu devices" if not options.device else ""))
    with demo.found_devices(kernel, wanted) as devices:
        result = demo.run(
            demo.Options(
                kernel=kernel,
                devices=devices,
                memory_kind=MemoryKind(options.memory),
                page_size=options.page_size,
                region_size=options.size,
                block_size=options.block_size,
                plug=options.plug or min(100 << 20, options.size),
            ),
            say,
        )
    if options.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        print(
            f"result   {result.map_calls} maps and {result.unmap_calls} unmap in each of "
            f"{len(result.address_spaces)} address spaces, {result.dma_verified_bytes} bytes verified by DMA, "
            f"{result.faults_stopped} stray writes stopped"
        )
    return 0


def _replay(options: argparse.Namespace) -> int:
    with nullcontext(sys.stdin) if options.file == "-" else Path(options.file).open(encoding="utf-8") as lines:
        for answer in trace.replay(lines):
            print(json.dumps(answer) if options.json else trace.describe(answer))
    return 0


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
