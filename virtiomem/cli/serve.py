"""virtiomem serve"""

from __future__ import annotations

import argparse
import logging
import math
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pyvfio.commandline import Command, Failure, Output, size
from pyvfio.errors import VfioError
from pyvfio.kernel import LinuxKernel
from pyvfio.units import format_size
from virtiomem.cli.changes.add import region_request
from virtiomem.cli.changes.space_options import add_spaces
from virtiomem.cli.memory import add_prealloc_threads
from virtiomem.cli.recording import add_record
from virtiomem.cli.signals import ending
from virtiomem.cli.telling import telling
from virtiomem.control import places
from virtiomem.manager import PROPERTIES, RegionDefaults, RegionRequest, Server, ServerCommands, outliving
from virtiomem.passthrough import KEYS, PassthroughOptions, qemu_option
from virtiomem.persistence import ServiceManager, state_directory
from virtiomem.serving import EventLoop
from virtiomem.spaces import SpaceKind, SpaceOptions
from virtiomem.vhost_user import ServedRegionOptions

_log = logging.getLogger(__name__)
_HANDING_OVER: Final = ("SIGTERM", "SIGHUP")
"""The signals by which a service manager ends a server that another one follows."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vhost-user",
        action="append",
        default=[],
        type=region_request,
        metavar="SOCKET[,KEY=VALUE...]",
        help="serve a device here; repeat for more, and virtiomem add adds others later. Its own "
        f"{', '.join(PROPERTIES)} go before those below",
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
    add_spaces(parser)
    parser.add_argument(
        "--passthrough",
        action="append",
        default=[],
        type=_passthrough,
        metavar="BDF=SOCKET[,KEY=VALUE...]",
        help="give the guest this device, too, over vfio-user; repeat for more. Its keys are "
        f"{', '.join(KEYS)}: who may connect, whether registers are mapped or reached by messages, and how "
        "much of the guest's other memory may be pinned",
    )
    parser.add_argument("--name", default="vm0", metavar="NAME", help="of the control socket (default: vm0)")
    parser.add_argument("--socket", type=Path, metavar="FILE", help="the control socket (default: by the name)")


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel = LinuxKernel()
    if options.socket is None:
        places.make_directory()
    socket = options.socket or places.socket_path(options.name)
    _raise_descriptor_limit()
    state = None if options.no_state else options.state or state_directory()
    passed: list[PassthroughOptions] = options.passthrough
    devices = list(dict.fromkeys([*options.device, *(one.device for one in passed)]))
    spaces = SpaceOptions.of_devices(devices, one=options.one_container, iommufd=options.iommufd)
    with EventLoop([], kernel=kernel) as loop, ending(loop) as reason, telling(output) as told:
        defaults = _defaults(options, state)
        regions = _regions(options, defaults, spaces, kernel)
        with (
            outliving(state, options.name, os.environ) as (keeper, manager),
            Server(str(socket), loop.stop, kernel=kernel, say=told.text, keeper=keeper) as server,
        ):
            try:
                for space in spaces:
                    server.add_space(space, keep=False)
                for region, record in regions:
                    server.add_region(region, trace=None if record is None else Path(record), keep=False)
                server.go_on()
                for one in passed:
                    server.pass_device(one)
            except BaseException:
                # The next start may do better with what the server before has left.
                server.hand_over()
                raise
            ServerCommands(server, options.name, defaults)
            _say_ready(told, server, devices, socket)
            if manager is not None:
                _tell_ready(manager)
            loop.run()
            if is_handed_over := keeper.store.is_lasting and reason[-1] in _HANDING_OVER:
                server.hand_over()
        told.record({"event": "handed over" if is_handed_over else "stopped", "reason": reason[-1]})
        told.text(_last_words(reason[-1], state, is_handed_over=is_handed_over))
    return 0


def _tell_ready(manager: ServiceManager) -> None:
    try:
        manager.ready()
    except VfioError as error:
        # It serves all the same.
        _log.warning("%s", error)


def _last_words(reason: str, state: Path | None, *, is_handed_over: bool) -> str:
    if is_handed_over:
        return f"ended by {reason}: the service manager has what is open, and nothing was unmapped"
    kept = "" if state is None else f"; what guests have plugged is kept in {state}"
    return f"stopped by {reason}: nothing is mapped or listening any more{kept}"


def _say_ready(output: Output, server: Server, devices: Sequence[str], socket: Path) -> None:
    regions = server.region_options
    output.record(
        {
            "event": "ready",
            "socket": str(socket),
            "pid": os.getpid(),
            "vhost_user": [region.path for region in regions],
            "devices": list(devices),
            "passthrough": [{"device": one.device.address, "socket": one.options.path} for one in server.passed],
        }
    )
    for region in regions:
        output.text(
            f"{region.name}: {format_size(region.region_size)} at {region.address:#x}, "
            f"blocks of {format_size(region.block_size)}, for a front end at {region.path}"
        )
    spaces = len(server.spaces)
    output.text(f"mapped into {spaces} address space{'' if spaces == 1 else 's'}: {', '.join(devices) or 'none'}")
    for one in server.passed:
        output.text(f"{one.device.address}: for QEMU, with -device '{qemu_option(one.options.path)}'")
    output.text(f"ready: virtiomem show, resize, stats, stop at {socket}; Ctrl-C ends it")


def _raise_descriptor_limit() -> None:
    """Have as many descriptors as the host lets us: each front end may send a file for each part of its memory."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _defaults(options: argparse.Namespace, state: Path | None) -> RegionDefaults:
    return RegionDefaults(
        region_size=options.region,
        block_size=options.block_size,
        requested_size=options.requested,
        address=options.address,
        page_size=options.page_size,
        file_offset=options.file_offset,
        discard=options.discard,
        persistent_suspend=options.persistent_suspend,
        prealloc_threads=options.prealloc_threads,
        state=state,
        reclaim_interval=options.reclaim or None,
    )


def _regions(
    options: argparse.Namespace, defaults: RegionDefaults, spaces: Sequence[SpaceOptions], kernel: LinuxKernel
) -> list[tuple[ServedRegionOptions, str | None]]:
    """What to serve at each socket, and where its trace goes. Raises Failure for options that exclude each other."""
    requests: list[RegionRequest] = options.vhost_user
    if options.record and len(requests) > 1:
        raise Failure("each device has a trace of its own: say SOCKET,record=FILE instead of --record")
    containers = sum(space.kind is SpaceKind.CONTAINER for space in spaces)
    regions: list[ServedRegionOptions] = []
    for number, request in enumerate(requests):
        name = options.name if len(requests) == 1 else f"{options.name}-{number}"
        regions.append(
            defaults.options(request, name, regions, kernel=kernel, containers=containers, spaces=len(spaces))
        )
    records = [request.record or options.record for request in requests]
    return list(zip(regions, records, strict=True))


def _seconds(text: str) -> float:
    """An argparse type: seconds, none or more."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _passthrough(text: str) -> PassthroughOptions:
    """An argparse type."""
    try:
        return PassthroughOptions.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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
        (
            "virtiomem serve --vhost-user mem.sock --region 8G --passthrough 03:00.0=nvme.sock,group=kvm,mode=0660",
            "the guest drives the device itself, in a QEMU that has no right to it",
        ),
    ),
    json="a line when it is ready, and one when it has stopped",
)
