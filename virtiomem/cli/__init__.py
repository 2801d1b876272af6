"""The virtiomem command: one module for each subcommand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvfio.commandline import Commands, Program

if TYPE_CHECKING:
    from pyvfio.host import Host

COMMANDS = Commands(
    {
        "demo": "virtiomem.cli.demo",
        "plan": "virtiomem.cli.plan",
        "run": "virtiomem.cli.run",
        "serve": "virtiomem.cli.serve",
        "keep": "virtiomem.cli.keep",
        "resize": "virtiomem.cli.resize",
        "show": "virtiomem.cli.show",
        "add": "virtiomem.cli.changes.add",
        "remove": "virtiomem.cli.changes.remove",
        "spaces": "virtiomem.cli.changes.spaces",
        "reclaim": "virtiomem.cli.reclaim",
        "migrate": "virtiomem.cli.migrate.command",
        "reset": "virtiomem.cli.changes.reset",
        "stats": "virtiomem.cli.stats",
        "stop": "virtiomem.cli.stop",
        "record": "virtiomem.cli.record",
        "replay": "virtiomem.cli.replay",
    }
)


def main(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the command with these arguments (default: those of the process); return the exit status.

    host: the host whose limits plan looks at; None for the one that it runs on.
    """
    description = "Resizable memory of a guest, in step with every device that does DMA to it."
    return Program("virtiomem", description, COMMANDS.called_by(arguments)).main(arguments, host=host)
