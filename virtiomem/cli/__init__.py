"""The virtiomem command: one module for each subcommand."""

from __future__ import annotations

from collections.abc import Sequence

from pyvfio.commandline import Program
from pyvfio.host import Host
from virtiomem.cli.changes.add import COMMAND as ADD
from virtiomem.cli.changes.remove import COMMAND as REMOVE
from virtiomem.cli.changes.reset import COMMAND as RESET
from virtiomem.cli.changes.spaces import COMMAND as SPACES
from virtiomem.cli.demo import COMMAND as DEMO
from virtiomem.cli.keep import COMMAND as KEEP
from virtiomem.cli.migrate.command import COMMAND as MIGRATE
from virtiomem.cli.plan import COMMAND as PLAN
from virtiomem.cli.reclaim import COMMAND as RECLAIM
from virtiomem.cli.record import COMMAND as RECORD
from virtiomem.cli.replay import COMMAND as REPLAY
from virtiomem.cli.resize import COMMAND as RESIZE
from virtiomem.cli.run import COMMAND as RUN
from virtiomem.cli.serve import COMMAND as SERVE
from virtiomem.cli.show import COMMAND as SHOW
from virtiomem.cli.stats import COMMAND as STATS
from virtiomem.cli.stop import COMMAND as STOP

COMMANDS = (
    DEMO,
    PLAN,
    RUN,
    SERVE,
    KEEP,
    RESIZE,
    SHOW,
    ADD,
    REMOVE,
    SPACES,
    RECLAIM,
    MIGRATE,
    RESET,
    STATS,
    STOP,
    RECORD,
    REPLAY,
)


def main(arguments: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the command with these arguments (default: those of the process); return the exit status.

    host: the host whose limits plan looks at; None for the one that it runs on.
    """
    description = "Resizable memory of a guest, in step with every device that does DMA to it."
    return Program("virtiomem", description, COMMANDS).main(arguments, host=host or Host())
