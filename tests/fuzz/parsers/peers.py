"""What comes over control sockets, from a server and from its clients, and what a program tells its keeper."""

from __future__ import annotations

import io
import json
import os
import socket
import tempfile
from functools import cache
from pathlib import Path

from pyvfio import VfioError
from pyvfio.commandline import Output
from tests.fuzz.parser import Parser
from virtiomem.cli.changes.space_text import space_line
from virtiomem.cli.status_text import status_lines
from virtiomem.control import DeviceStatus, ManagedSpace, protocol
from virtiomem.control.migration.answers import BegunMigration, DirtyAnswer
from virtiomem.persistence.notify_socket import NotifySocket

_LONGEST = 300


def _request(data: bytes) -> None:
    stream = io.BytesIO(data)
    while (request := protocol.read_object(stream, protocol.LARGEST_REQUEST)) is not None:
        # Whatever the client calls it: keys are the server's own words.
        key, request["key"] = "key", next(iter(request.values()), None)
        for read in (
            lambda request=request, key=key: protocol.integer(request, key),
            lambda request=request, key=key: protocol.seconds(request, key, 60.0),
            lambda request=request, key=key: protocol.text(request, key),
            lambda request=request, key=key: protocol.flag(request, key),
            lambda request=request, key=key: protocol.texts(request, key),
            lambda request=request: protocol.check_keys(request, "device"),
        ):
            try:
                read()
            except protocol.ProtocolError as error:
                # It is sent to whoever has asked, and printed there.
                if len(said := str(error)) > _LONGEST or not said.isprintable():
                    raise AssertionError(said) from error


def _object(data: bytes) -> dict[str, object]:
    """The object that data is, for those who read objects only."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _status(data: bytes) -> None:
    """Whatever is taken for a status can be shown."""
    output = Output(io.StringIO())
    for line in status_lines(output, DeviceStatus.from_data(_object(data))):
        output.text(line)


def _space(data: bytes) -> None:
    space_line(ManagedSpace.from_data(_object(data)))


@cache
def _keeper() -> NotifySocket:
    directory = tempfile.TemporaryDirectory(prefix="fuzz-")
    _KEPT.append(directory)
    return NotifySocket(Path(directory.name))


_KEPT: list[object] = []


def _told(data: bytes) -> None:
    keeper = _keeper()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program, Path(os.devnull).open("rb") as file:
        program.connect(str(keeper.path))
        socket.send_fds(program, [data[:8000] or b"\n"], [file.fileno()])
    keeper.take(os.getpid())
    assert len(keeper.stored) < 10_000
    # What is kept is let go again, by its own name.
    for name, _ in keeper.stored:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
            program.connect(str(keeper.path))
            program.send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())
        keeper.take(os.getpid())
    assert not keeper.stored


PEERS = (
    Parser("control-request", _request, (protocol.ProtocolError,), (b'{"command":', b"\n", b'"device"')),
    Parser("device-status", _status, (ValueError,), (b'"plugged"', b'{"start": 0, "size": 1}')),
    Parser("managed-space", _space, (ValueError,), (b'"devices"', b'"kind"')),
    Parser("begun-migration", lambda data: BegunMigration.from_data(_object(data)), (VfioError,), (b'"unlogged"',)),
    Parser("dirty-answer", lambda data: DirtyAnswer.from_data(_object(data)), (VfioError,), (b'"runs"',)),
    Parser("keeper-message", _told, (), (b"FDSTORE=1\n", b"FDNAME=", b"READY=1", b"FDSTOREREMOVE=1")),
)
