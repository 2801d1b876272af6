"""The pyvfio command: one module for each subcommand."""

from __future__ import annotations

from collections.abc import Sequence

from pyvfio.cli.abi_check import COMMAND as ABI_CHECK
from pyvfio.cli.bind import COMMAND as BIND
from pyvfio.cli.doctor import COMMAND as DOCTOR
from pyvfio.cli.dump import COMMAND as DUMP
from pyvfio.cli.irq import COMMAND as IRQ
from pyvfio.cli.list import COMMAND as LIST
from pyvfio.cli.peek import COMMAND as PEEK
from pyvfio.cli.poke import COMMAND as POKE
from pyvfio.cli.reset import COMMAND as RESET
from pyvfio.cli.restore import COMMAND as RESTORE
from pyvfio.cli.show import COMMAND as SHOW
from pyvfio.cli.unbind import COMMAND as UNBIND
from pyvfio.cli.watch import COMMAND as WATCH
from pyvfio.commandline import Program
from pyvfio.host import Host

COMMANDS = (LIST, SHOW, DOCTOR, BIND, UNBIND, RESTORE, WATCH, PEEK, POKE, DUMP, RESET, IRQ, ABI_CHECK)


def main(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the command; return the exit status.

    arguments: those of the command line; None for the process's own. host: the host that it looks at and changes; None
    for the one that it runs on.
    """
    return Program("pyvfio", "VFIO devices of this host.", COMMANDS).main(arguments, host=host or Host())
