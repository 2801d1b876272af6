"""Where the state of this user's devices is kept."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from pyvfio.errors import InvalidArgument, VfioError


def state_file(directory: Path, name: str) -> Path:
    """Where the state of the device called name is kept, in a directory that is made if there is none.

    Raises VfioError if it cannot be made, or others may write to it, and InvalidArgument for a name that no file has.
    """
    if "/" in name or name.startswith("."):
        raise InvalidArgument(
            errno.EINVAL, f"name {name!r}", meaning="it names a file, so it has no / and no leading ."
        )
    operation, advice = f"directory {directory}", "Choose a place with --state, or do without it: --no-state"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise VfioError(
            error.errno or errno.EIO, operation, meaning="no state can be kept there", advice=advice
        ) from error
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o022:
        raise VfioError(errno.EPERM, operation, meaning="others may write to it", advice=advice)
    return directory / f"{name}.state"


def state_directory() -> Path:
    """/var/lib/virtiomem for root, below XDG_STATE_HOME or ~/.local/state for others; in a unit of systemd's with a
    StateDirectory the first one of these."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/virtiomem")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "virtiomem"
