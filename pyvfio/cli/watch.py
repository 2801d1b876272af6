"""pyvfio watch"""

from __future__ import annotations

import argparse
import errno
import sys
import time

from pyvfio.commandline import Command, Output, Style
from pyvfio.errors import VfioError
from pyvfio.host import Uevent
from pyvfio.texts import printable

SUBSYSTEMS = ("pci", "vfio", "vfio-dev", "iommu", "mdev")

_STYLES = {"add": Style.GREEN, "bind": Style.GREEN, "remove": Style.RED, "unbind": Style.YELLOW}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help=f"every subsystem, not only {', '.join(SUBSYSTEMS)}")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many events")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="end when nothing came for so long")


def _run(options: argparse.Namespace, output: Output) -> int:
    seen = 0
    with options.host.uevents() as events:
        print("watching; end with Ctrl-C", file=sys.stderr, flush=True)
        while options.count is None or seen < options.count:
            try:
                event = events.next(options.timeout)
            except VfioError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                print(printable(f"pyvfio: {error}"), file=sys.stderr)
                continue
            if event is None:
                break
            if options.all or event.subsystem in SUBSYSTEMS:
                seen += 1
                _show(output, event, time.time())
    return 0


def _show(output: Output, event: Uevent, now: float) -> None:
    output.record(
        {
            "time": now,
            "action": event.action,
            "subsystem": event.subsystem,
            "name": event.name,
            "path": event.path,
            "properties": dict(event.properties),
        }
    )
    clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03}"
    details = [f"{key.lower()} {event.properties[key]}" for key in ("DRIVER", "DEVNAME") if key in event.properties]
    action = output.paint(f"{event.action:<7}", _STYLES.get(event.action, Style.PLAIN))
    output.text(f"{clock}  {action}  {event.subsystem:<8}  {event.name:<14}  {', '.join(details)}".rstrip())


COMMAND = Command(
    "watch",
    "print what the kernel tells of PCI and VFIO devices, as it comes",
    _run,
    _configure,
    examples=(
        ("pyvfio watch", "until Ctrl-C"),
        ("pyvfio watch --json | jq 'select(.subsystem == \"vfio\")'", "as JSON lines"),
    ),
    json="one JSON line per event",
)
