"""The pyvfio command: one module for each subcommand."""

from __future__ import annotations

from collections.abc import Sequence

from pyvfio.commandline import Commands, Program
from pyvfio.host import Host

COMMANDS = Commands(
    {
        "list": "pyvfio.cli.list",
        "show": "pyvfio.cli.show",
        "doctor": "pyvfio.cli.doctor",
        "bind": "pyvfio.cli.bind",
        "unbind": "pyvfio.cli.unbind",
        "restore": "pyvfio.cli.restore",
        "watch": "pyvfio.cli.watch",
        "peek": "pyvfio.cli.peek",
        "poke": "pyvfio.cli.poke",
        "dump": "pyvfio.cli.dump",
        "reset": "pyvfio.cli.reset",
        "irq": "pyvfio.cli.irq",
        "abi-check": "pyvfio.cli.abi_check",
    }
)


def main(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the command; return the exit status.

    arguments: those of the command line; None for the process's own. host: the host that it looks at and changes; None
    for the one that it runs on.
    """
    return Program("pyvfio", "VFIO devices of this host.", COMMANDS.called_by(arguments)).main(
        arguments, host=host or Host()
    )
