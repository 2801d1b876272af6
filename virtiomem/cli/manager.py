"""The arguments that name a running manager, and the connection to it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyvfio.commandline import Failure
from virtiomem.control import ControlClient, DeviceStatus, places


def add_manager(parser: argparse.ArgumentParser) -> None:
    """Add --name and --socket."""
    parser.add_argument("--name", metavar="NAME", help="of the manager (default: the one that runs)")
    parser.add_argument("--socket", type=Path, metavar="FILE", help="its control socket, if it is at another place")


def connect(options: argparse.Namespace) -> ControlClient:
    """Connect to the manager that options name. Raises Failure if that is unclear, VfioError if it does not run."""
    if options.socket is not None:
        return ControlClient(options.socket)
    if options.name is not None:
        path = places.socket_path(options.name)
        places.require_own_directory()
        return ControlClient(path)
    names = places.running()
    if not names:
        raise Failure("no manager runs for this user: virtiomem run starts one, --socket names one elsewhere")
    if len(names) > 1:
        raise Failure(f"several managers run: say which with --name: {', '.join(names)}")
    return ControlClient(places.socket_path(names[0]))


def only_device(devices: list[DeviceStatus], wanted: str | None) -> DeviceStatus:
    """The device called wanted; if that is None, the only one there is. Raises Failure if there is no such device."""
    for status in devices:
        if wanted in (status.name, None) and (wanted or len(devices) == 1):
            return status
    raise Failure(f"say which device with --device: {', '.join(status.name for status in devices) or 'there are none'}")
