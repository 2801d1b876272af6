"""Where the control sockets of managers are."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from pyvfio.errors import InvalidArgument, VfioError
from pyvfio.unix_socket import is_served
from virtiomem.control.protocol import check_name

_SUFFIX = ".sock"


def directory() -> Path:
    """Where this user's managers have their sockets: /run/virtiomem for root, else below XDG_RUNTIME_DIR or /tmp."""
    user = os.geteuid()
    if user == 0:
        return Path("/run/virtiomem")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "virtiomem"
    return Path(f"/tmp/virtiomem-{user}")


def socket_path(name: str) -> Path:
    """Where the socket of the manager called name is. Raises InvalidArgument for a name that no file may have."""
    check_name(name)
    if "/" in name or name.startswith("."):
        raise InvalidArgument(
            errno.EINVAL, f"name {name!r}", meaning="it names a file, so it has no / and no leading ."
        )
    return directory() / f"{name}{_SUFFIX}"


def running() -> list[str]:
    """The names of this user's managers that run. A socket that one has left behind when it was killed is none.

    Raises VfioError if others own the directory or may use it: what is in it says nothing then.
    """
    found = require_own_directory().glob(f"*{_SUFFIX}")
    names = {path.name.removesuffix(_SUFFIX): path for path in found}
    return sorted(name for name, path in names.items() if _is_name(name) and is_served(path))


def require_own_directory() -> Path:
    """directory(), which may not be there. Raises VfioError if it is, and others own it or may use it."""
    path = directory()
    try:
        found = path.lstat()
    except FileNotFoundError:
        return path
    except OSError as error:
        raise VfioError(error.errno or errno.EIO, f"directory {path}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise VfioError(
            errno.EPERM,
            f"directory {path}",
            meaning="it is not this user's alone",
            advice=f"chmod 700 {path}, or choose a place with --socket",
        )
    return path


def make_directory() -> None:
    """Make the directory, for its owner only. Raises VfioError if it exists and others own it or may use it."""
    with suppress(FileExistsError):
        directory().mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own_directory()


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except InvalidArgument:
        return False
    return True
