"""virtiomem stop"""

from __future__ import annotations

import argparse

from pyvfio.commandline import Command, Output
from virtiomem.cli.manager import add_manager, connect


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        path = str(client.path)
        client.stop()
    output.data({"stopped": True, "socket": path})
    output.text(f"{path}: stopped")
    return 0


COMMAND = Command(
    "stop",
    "end a running manager, and wait until everything is closed",
    _run,
    add_manager,
    description="End a running manager. When this returns, nothing of it is plugged, mapped, pinned or listening.",
    examples=(("virtiomem stop", "the one that runs"), ("virtiomem stop --name vm1", "of several")),
)
