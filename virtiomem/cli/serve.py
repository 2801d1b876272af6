"""virtiomem serve"""

from __future__ import annotations

import argparse
import math
import os
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from pyvfio.commandline import Command, Failure, Output, size
from pyvfio.container import Container
from pyvfio.kernel import LinuxKernel
from pyvfio.sysfs import full_address, named_address
from pyvfio.units import format_size, parse_size
from virtiomem.cli.memory import add_prealloc_threads
from virtiomem.cli.recording import add_record, trace_file
from virtiomem.cli.signals import ending
from virtiomem.cli.telling import telling
from virtiomem.control import ControlServer, check_name, places
from virtiomem.discard import DiscardCoordination
from virtiomem.persistence import state_directory, state_file
from virtiomem.planner import Limits, plan
from virtiomem.serving import EventLoop
from virtiomem.vhost_user import ServedRegion, ServedRegionOptions

_SIZES = ("region", "block-size", "requested", "address", "page-size", "file-offset")
_PROPERTIES = (*_SIZES, "name", "node", "ring", "record")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vhost-user",
        action="append",
        required=True,
        type=_socket,
        metavar="SOCKET[,KEY=VALUE...]",
        help=f"serve a device here; repeat for more. Its own {', '.join(_PROPERTIES)} go before those below",
    )
    parser.add_argument(
        "--region", type=size, metavar="SIZE", help="of the region: that of the front end's memory for it"
    )
    parser.add_argument("--block-size", type=size, metavar="SIZE", help="default: the smallest that fits, as plan says")
    parser.add_argument("--requested", type=size, default=0, metavar="SIZE", help="to begin with (default: nothing)")
    parser.add_argument("--address", type=size, help="guest-physical (default: 4G, and then one after the other)")
    parser.add_argument("--page-size", type=size, metavar="SIZE", help="of the front end's memory, for huge pages")
    parser.add_argument(
        "--file-offset",
        type=size,
        metavar="SIZE",
        help="where the region begins in the one file that has all memory of the guest (default: a file of its own)",
    )
    parser.add_argument(
        "--discard",
        action="store_true",
        help="discard what is in memory that comes here for the first time, instead of refusing it",
    )
    parser.add_argument(
        "--persistent-suspend", action="store_true", help="offer that blocks stay plugged over suspend to RAM"
    )
    add_prealloc_threads(parser)
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIRECTORY",
        help=f"where devices are kept beyond the end of this server (default: {state_directory()})",
    )
    parser.add_argument(
        "--no-state", action="store_true", help="keep nothing: a guest that runs on is not served any more then"
    )
    parser.add_argument(
        "--reclaim",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how often to look for pages that a guest has touched in unplugged blocks, and give them back; 0: never "
        "(default: 60)",
    )
    add_record(parser)
    parser.add_argument("--device", action="append", default=[], metavar="BDF", help="bound to VFIO; repeat for more")
    parser.add_argument("--one-container", action="store_true", help="all devices in one address space")
    parser.add_argument("--name", default="vm0", metavar="NAME", help="of the control socket (default: vm0)")
    parser.add_argument("--socket", type=Path, metavar="FILE", help="the control socket (default: by the name)")


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel = LinuxKernel()
    spaces = min(len(options.device), 1) if options.one_container else len(options.device)
    if options.socket is None:
        places.make_directory()
    socket = options.socket or places.socket_path(options.name)
    _raise_descriptor_limit()
    with EventLoop([], kernel=kernel) as loop, ending(loop) as reason, telling(output) as told:
        with ExitStack() as stack:
            regions = _regions(options, spaces, kernel, stack)
            control = stack.enter_context(ControlServer(str(socket), loop.stop))
            coordination = DiscardCoordination()
            containers = _containers(options.device, stack, kernel, one=options.one_container)
            all_served: list[ServedRegion] = []
            for region in regions:
                served = stack.enter_context(
                    ServedRegion(
                        region,
                        containers,
                        kernel=kernel,
                        coordination=coordination,
                        changed=control.changed,
                        say=told.text,
                    )
                )
                control.manage(served.managed)
                stack.callback(control.forget, region.name)
                all_served.append(served)
            _say_ready(told, regions, options.device, spaces, socket)
            loop.run()
            for served in all_served:
                # Before the first of them is waited for.
                served.give_up()
        told.record({"event": "stopped", "reason": reason[-1]})
        kept = "" if options.no_state else f"; what guests have plugged is kept in {options.state or state_directory()}"
        told.text(f"stopped by {reason[-1]}: nothing is mapped or listening any more{kept}")
    return 0


def _say_ready(
    output: Output, regions: Sequence[ServedRegionOptions], devices: Sequence[str], spaces: int, socket: Path
) -> None:
    output.record(
        {
            "event": "ready",
            "socket": str(socket),
            "pid": os.getpid(),
            "vhost_user": [region.path for region in regions],
            "devices": list(devices),
        }
    )
    for region in regions:
        output.text(
            f"{region.name}: {format_size(region.region_size)} at {region.address:#x}, "
            f"blocks of {format_size(region.block_size)}, for a front end at {region.path}"
        )
    output.text(f"mapped into {spaces} address space{'' if spaces == 1 else 's'}: {', '.join(devices) or 'none'}")
    output.text(f"ready: virtiomem show, resize, stats, stop at {socket}; Ctrl-C ends it")


def _raise_descriptor_limit() -> None:
    """Have as many descriptors as the host lets us: each front end may send a file for each part of its memory."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _containers(devices: Sequence[str], stack: ExitStack, kernel: LinuxKernel, *, one: bool) -> list[Container]:
    containers: list[Container] = []
    for device in devices:
        if not containers or not one:
            containers.append(stack.enter_context(Container(kernel=kernel)))
        containers[-1].open_device(full_address(named_address(kernel, device)))
    return containers


def _regions(
    options: argparse.Namespace, spaces: int, kernel: LinuxKernel, files: ExitStack
) -> list[ServedRegionOptions]:
    """What to serve at each socket. files: owns the traces. Raises Failure for options that exclude each other."""
    if options.record and len(options.vhost_user) > 1:
        raise Failure("each device has a trace of its own: say SOCKET,record=FILE instead of --record")
    regions: list[ServedRegionOptions] = []
    following = 0x1_0000_0000
    for number, (path, own) in enumerate(options.vhost_user):
        name = own.get("name", options.name if len(options.vhost_user) == 1 else f"{options.name}-{number}")
        check_name(name)
        sizes = {key: parse_size(own[key]) for key in _SIZES if key in own}
        region_size = sizes.get("region", options.region)
        if region_size is None:
            raise Failure(f"how large is the region of {path}? Say --region SIZE, or {path},region=SIZE")
        page_size = sizes.get("page-size", options.page_size)
        limits = Limits.of_host(page_size=page_size, kernel=kernel)
        block_size = sizes.get("block-size", options.block_size)
        block_size = block_size or plan(region_size, limits=limits, address_spaces=spaces).block_size
        # What somebody asks for is not rounded to something else.
        given = sizes.get("address", None if number else options.address)
        address = _rounded(following, block_size) if given is None else given
        if not address:
            raise Failure(
                f"{name} cannot be at address 0: a guest boots from the memory there. Without --address it is at 4G"
            )
        following = address + region_size
        record = own.get("record", options.record)
        regions.append(
            ServedRegionOptions(
                path=path,
                name=name,
                address=address,
                region_size=region_size,
                block_size=block_size,
                requested_size=sizes.get("requested", options.requested),
                page_size=page_size,
                node_id=int(own["node"]) if "node" in own else None,
                packed=own.get("ring") != "split",
                file_offset=sizes.get("file-offset", options.file_offset),
                discard=options.discard,
                persistent_suspend=options.persistent_suspend,
                prealloc_threads=options.prealloc_threads,
                state=None if options.no_state else state_file(options.state or state_directory(), name),
                reclaim_interval=options.reclaim or None,
                record=files.enter_context(trace_file(record)),
            )
        )
    _check_distinct(regions)
    return regions


def _rounded(address: int, block_size: int) -> int:
    return -(-address // block_size) * block_size


def _check_distinct(regions: Sequence[ServedRegionOptions]) -> None:
    for key in ("name", "path"):
        values = [str(getattr(region, key)) for region in regions]
        if twice := {value for value in values if values.count(value) > 1}:
            raise Failure(f"every device has a {key} of its own, and {', '.join(sorted(twice))} is there twice")
    ordered = sorted(regions, key=lambda region: region.address)
    for left, right in pairwise(ordered):
        if right.address < left.address + left.region_size:
            behind = max(region.address + region.region_size for region in regions)
            raise Failure(
                f"{left.name} and {right.name} overlap at {right.address:#x}: regions of one server have addresses of "
                f"their own. {right.name} fits at address={_rounded(behind, right.block_size):#x}; a guest with "
                "nothing to do with the other's may as well have a server of its own"
            )


def _seconds(text: str) -> float:
    """An argparse type: seconds, none or more."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _socket(text: str) -> tuple[str, dict[str, str]]:
    path, *words = text.split(",")
    own: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or key not in _PROPERTIES:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(f'{key}=…' for key in _PROPERTIES)}")
        if key in _SIZES:
            size(value)
        if key == "ring" and value not in ("split", "packed"):
            raise argparse.ArgumentTypeError(f"a ring is split or packed, not {value!r}")
        if key == "node" and not value.isdecimal():
            raise argparse.ArgumentTypeError(f"a node is a number, not {value!r}")
        own[key] = value
    if not path:
        raise argparse.ArgumentTypeError("the socket has no name")
    return path, own


COMMAND = Command(
    "serve",
    "serve the device to a virtual machine monitor over vhost-user",
    _run,
    _configure,
    description="Be the virtio-mem device of a guest that QEMU, or another front end, runs: each --vhost-user is a\n"
    "socket for one. Its memory for the region comes from the front end; each plugged block of it is\n"
    "mapped into every --device's container. A front end that goes leaves everything as it is, and so\n"
    "does the end of this server: the next one goes on from what is in --state.\n"
    "docs/vhost-user.md has QEMU's command line. Both sockets are their owner's alone.",
    examples=(
        ("virtiomem serve --vhost-user /run/vm/mem.sock --region 2G", "one device"),
        (
            "virtiomem serve --region 8G --device 03:00.0 --vhost-user a.sock --vhost-user b.sock,address=16G,node=1",
            "two of one guest, whose plugged blocks a device may reach",
        ),
    ),
    json="a line when it is ready, and one when it has stopped",
)
