"""Small files of sysfs and procfs, read and written through a Kernel."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio.errors import VfioError
from pyvfio.explain import explain, no_descriptor
from pyvfio.kernel.seam import Kernel
from pyvfio.texts import number_of, shortened


def read_text(kernel: Kernel, path: str) -> str:
    """The file's text without the newlines at its end. Raises OSError as open and read do."""
    return read_bytes(kernel, path).decode(errors="replace").rstrip("\n")


def read_number(kernel: Kernel, path: str, base: int = 10) -> int:
    """The whole number that is all of the file's text, in base 10 or 16.

    Raises OSError as open and read do, VfioError (EPROTO) for a file that holds anything else.
    """
    text = read_text(kernel, path)
    if (number := number_of(text, base)) is None:
        meaning = f"it says {shortened(text)}, which is no number" if text else "it is empty, and should say a number"
        raise VfioError(errno.EPROTO, f"read {path}", meaning=meaning)
    return number


def read_bytes(kernel: Kernel, path: str) -> bytes:
    """All bytes of the file. Raises OSError as open and read do."""
    with _file_of(path):
        fd = kernel.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := kernel.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        kernel.close(fd)


def write_text(kernel: Kernel, path: str, text: str) -> None:
    """Write text with one call, as attributes of sysfs require. Raises OSError as open and write do."""
    with _file_of(path):
        fd = kernel.open(path, os.O_WRONLY)
    try:
        kernel.write(fd, text.encode())
    finally:
        kernel.close(fd)


def link_name(kernel: Kernel, path: str) -> str | None:
    """The last component of the path that the link points to; None if there is no such link."""
    try:
        return kernel.readlink(path).rsplit("/", 1)[-1]
    except FileNotFoundError:
        return None


def exists(kernel: Kernel, path: str) -> bool:
    """Whether there is a file at path. Raises OSError if its directory may not be read."""
    directory, _, name = path.rpartition("/")
    try:
        with _file_of(directory):
            return name in kernel.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False


def names_in(kernel: Kernel, path: str) -> list[str]:
    """The names in a directory, sorted; none if there is no such directory or if it may not be read."""
    try:
        with _file_of(path):
            return kernel.listdir(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def is_registered(kernel: Kernel, path: str) -> bool:
    """Whether the kernel has a device for the node /dev/NAME or /dev/vfio/vfio, wherever the node itself is.

    Source: /sys/class/misc, drivers/char/misc.c.
    """
    try:
        return exists(kernel, f"/sys/class/misc/{path.rpartition('/')[2]}")
    except OSError:
        return False


def link_number(kernel: Kernel, path: str) -> int | None:
    """The number that is the last component of the path that the link points to, as of an IOMMU group; None if it is
    none, or there is no such link."""
    return number_of(link_name(kernel, path) or "")


def linux_release(kernel: Kernel) -> tuple[int, int]:
    """The version of the running kernel, (6, 12) of "6.12.9-amd64"; (0, 0) if the kernel does not say it."""
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", text_or_empty(kernel, "/proc/sys/kernel/osrelease"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def text_or_empty(kernel: Kernel, path: str) -> str:
    """The file's text as read_text() returns it; "" if the file cannot be read.

    Raises VfioError if this process may open no more files: that says nothing of the file.
    """
    try:
        return read_text(kernel, path)
    except OSError as error:
        if no_descriptor(error.errno or 0):
            raise
        return ""


@contextmanager
def _file_of(path: str) -> Iterator[None]:
    """Say of a failure within the block, which opens a file, that no file could be opened, if that was the cause."""
    try:
        yield
    except OSError as error:
        if no_descriptor(error.errno or 0):
            raise explain(error, "open", {"file": path}) from error
        raise
