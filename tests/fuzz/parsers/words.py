"""What people write on command lines, and what whoever starts a process puts into its environment."""

from __future__ import annotations

import os

from pyvfio import InvalidArgument
from pyvfio.host.selection import parse_ids
from pyvfio.kernel import Deadline
from pyvfio.sysfs import full_address
from pyvfio.units import format_size, parse_size, size_in_words
from tests.fuzz.parser import Parser
from virtiomem.manager.defaults import RegionRequest
from virtiomem.persistence import ServiceManager, inherited


def _size(data: bytes) -> None:
    size = parse_size(data.decode(errors="replace"))
    format_size(size)
    size_in_words(size)


def _timeout(data: bytes) -> None:
    text = data.decode(errors="replace")
    for kind in (int, float):
        try:
            number = kind(text)
        except (ValueError, OverflowError):
            continue
        assert (left := Deadline(number).left) is None or left >= 0


def _environment(data: bytes) -> None:
    names, count, address = [*data.decode(errors="replace").split("\0"), "", "", ""][:3]
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    # None of them is open, so none is taken.
    os.closerange(3000, 3000)
    inherited(environment, first=3000)
    ServiceManager.of({"NOTIFY_SOCKET": address})


WORDS = (
    Parser("size", _size, (ValueError,), (b"0x_", b"KiB", b"T")),
    Parser("address", lambda data: full_address(data.decode(errors="replace")), (InvalidArgument,), (b"03:00.0",)),
    Parser("ids", lambda data: parse_ids(data.decode(errors="replace")), (ValueError,), (b"8086:",)),
    Parser("timeout", _timeout, (InvalidArgument,), (b"inf", b"1" * 400)),
    Parser("environment", _environment, (), (b":", b"1", b"@", b"/")),
    Parser(
        "region-request", lambda data: RegionRequest.parse(data.decode(errors="replace")), (ValueError,), (b",node=1",)
    ),
)
