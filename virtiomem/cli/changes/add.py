"""virtiomem add"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from pyvfio.commandline import Command, Failure, Output
from pyvfio.units import format_size
from virtiomem.cli.changes.space_text import space_line
from virtiomem.cli.manager import add_manager, connect
from virtiomem.control import ControlClient, ManagedSpace
from virtiomem.manager import PROPERTIES, RegionRequest


def _configure(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--vhost-user",
        type=region_request,
        metavar="SOCKET[,KEY=VALUE...]",
        help=f"serve a device here, with its own {', '.join(PROPERTIES)}",
    )
    what.add_argument(
        "--device", action="append", metavar="BDF", help="bound to VFIO; repeat for more in one address space"
    )
    what.add_argument(
        "--container-fd", type=int, metavar="FD", help="of a container that this process has been handed open"
    )
    what.add_argument("--iommufd-fd", type=int, metavar="FD", help="likewise of an iommufd")
    parser.add_argument("--iommufd", action="store_true", help="the devices by their own nodes, not by their groups")
    parser.add_argument("--ioas", type=int, metavar="ID", help="in the iommufd (default: a new one, whose ID is said)")
    parser.add_argument("--space", metavar="NAME", help="what the address space is called (default: as its device)")
    add_manager(parser)


def region_request(text: str) -> RegionRequest:
    """An argparse type: SOCKET[,KEY=VALUE...]."""
    try:
        return RegionRequest.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        if options.vhost_user is not None:
            return _add_device(client, options, output)
        space = _add_space(client, options)
    output.data({"space": space.data()})
    output.text(space_line(space))
    return 0


def _add_device(client: ControlClient, options: argparse.Namespace, output: Output) -> int:
    if options.iommufd or options.ioas is not None or options.space is not None:
        raise Failure("--iommufd, --ioas and --space are of an address space, and --vhost-user is a device")
    request: RegionRequest = options.vhost_user
    status = client.add_device(
        str(Path(request.path).absolute()),
        name=request.name,
        region_size=request.region_size,
        block_size=request.block_size,
        requested_size=request.requested_size,
        address=request.address,
        page_size=request.page_size,
        file_offset=request.file_offset,
        node=request.node_id,
        ring="packed" if request.packed else "split",
        record=None if request.record is None else str(Path(request.record).absolute()),
    )
    output.data({"device": asdict(status)})
    output.text(
        f"{status.name}: {format_size(status.region_size)} at {status.address:#x}, "
        f"blocks of {format_size(status.block_size)}, for a front end at {request.path}"
    )
    return 0


def _add_space(client: ControlClient, options: argparse.Namespace) -> ManagedSpace:
    if options.ioas is not None and options.iommufd_fd is None:
        raise Failure("--ioas is of an iommufd that is handed over: --iommufd-fd")
    if options.iommufd and options.device is None:
        raise Failure("--iommufd goes with --device")
    if options.container_fd is not None:
        return client.lend_container(options.container_fd, name=options.space)
    if options.iommufd_fd is not None:
        return client.lend_iommufd(options.iommufd_fd, ioas_id=options.ioas, name=options.space)
    return client.add_space(options.device, kind="iommufd" if options.iommufd else "container", name=options.space)


COMMAND = Command(
    "add",
    "add a device, or an address space, to a running server",
    _run,
    _configure,
    description="Have a running virtiomem serve serve another device, or map all that guests have plugged into\n"
    "another address space: that of VFIO devices which the server opens, or of a container or an iommufd that\n"
    "another process owns and has handed over. All of it, or nothing; guests go on meanwhile.",
    examples=(
        ("virtiomem add --vhost-user /run/vm/b.sock,region=4G", "another device"),
        ("virtiomem add --device 03:00.0", "a device that is to reach what is plugged"),
        ("virtiomem add --iommufd-fd 5", "an iommufd that this process has been handed open"),
    ),
)
