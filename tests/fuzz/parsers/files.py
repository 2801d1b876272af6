"""Files: those that others have made, and those that a process before this one has left."""

from __future__ import annotations

import json
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

from pyvfio import VfioError
from pyvfio.host import RuleDirectories, UndoFile
from pyvfio.host.names.hwdb import properties_of_text
from pyvfio.host.names.pci_ids import DATABASES, HwdbCompiled, PciIds, names_of_host, short_vendor
from tests.fuzz.host_files import FilesKernel
from tests.fuzz.parser import Parser
from virtiomem.device import Config, DeviceState, Feature, StateRefused
from virtiomem.manager.keeping import ServerKeeper
from virtiomem.persistence import SlotFile
from virtiomem.persistence.record import Record
from virtiomem.trace import Player, TraceError
from virtiomem.trace.line import Line
from virtiomem.vhost_user.session.record import SessionRecord

_DEVICE = Config(2 << 20, 0, 1 << 32, 64 << 20, 64 << 20, 0, 32 << 20)


@cache
def _directory() -> Path:
    """A directory of this process, removed at its end."""
    directory = tempfile.TemporaryDirectory(prefix="fuzz-")
    _KEPT.append(directory)
    return Path(directory.name)


_KEPT: list[object] = []


def _pci_ids(data: bytes) -> None:
    text = data.decode(errors="replace")
    short_vendor(PciIds(text).name(0x8086, 0x1521))
    names_of_host(FilesKernel({f"{DATABASES[0]}.gz": data}))


def _hwdb(data: bytes) -> None:
    names = HwdbCompiled(data)
    names.vendor(0x8086)
    names.device(0x8086, 0x1521)


def _undo(data: bytes) -> None:
    path = _directory() / "undo.json"
    path.write_bytes(data)
    UndoFile(path).read()


def _rule(data: bytes) -> None:
    path = _directory() / "71-pyvfio-0000:03:00.0.rules"
    path.write_bytes(data)
    RuleDirectories(_directory(), _directory() / "none").find()


def _state(data: bytes) -> None:
    """As it is, and with its own size and checksum, so that what is behind them is read, too."""
    if len(data) > 20:
        body = data[:12] + struct.pack("<I", len(data)) + data[16:-4]
        DeviceState.parse(body + struct.pack("<I", zlib.crc32(body))).check(_DEVICE, Feature(0))
    DeviceState.parse(data)


def _slots(data: bytes) -> None:
    path = _directory() / "slots"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    half = len(data) // 2
    with path.open("r+b") as file:
        file.write(data[:half])
        file.seek(16 << 20)
        file.write(data[half:])
    with SlotFile(path) as kept:
        kept.write(b"new")
        assert kept.content == b"new"


class _Content:
    """A SlotFile, as a reader sees it."""

    def __init__(self, content: bytes) -> None:
        self.path = Path("kept")
        self.content = content


def _session(data: bytes) -> None:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict):
        SessionRecord.parse(values)


def _line(data: bytes) -> None:
    line = Line.parse(data.decode(errors="replace"), 1)
    line.integer("size", 0)
    line.optional_integer("node_id")
    for read in (line.boolean, line.octets):
        try:
            read("hex")
        except TraceError:
            continue


def _trace(data: bytes) -> None:
    lines = [Line.parse(text, number) for number, text in enumerate(data.decode(errors="replace").split("\n")[:6], 1)]
    with Player(lines[0]) as player:
        for line in lines[1:]:
            player.play(line)


FILES = (
    Parser("pci-ids", _pci_ids, (), (b"8086  ", b"\n\t1521  ", b"C 01  ")),
    Parser("hwdb-text", lambda data: properties_of_text(data.decode(errors="replace")), (), (b"pci:v", b" ID_=")),
    Parser("hwdb", _hwdb),
    Parser("undo-file", _undo, (ValueError,), (b'"address"', b'"devices"', b'"version": 1')),
    Parser("udev-rule", _rule, (ValueError,), (b"# before: ", b"# owners: ", b'{"address": "0000:03:00.0"}')),
    Parser("device-state", _state, (StateRefused,), (b"virtmem\0",)),
    Parser("slot-file", _slots, (VfioError,), (b"vmemkept",)),
    Parser("kept-record", Record.parse, (VfioError,), (b'"version": 1', b'"memory": [1, 2, 3, null]')),
    Parser("kept-session", _session, (VfioError,), (b'"ring"', b'"areas"')),
    Parser(
        "kept-server",
        lambda data: ServerKeeper(_Content(data)),  # type: ignore[arg-type]
        (VfioError,),
        (b'"spaces"', b'"regions"'),
    ),
    Parser("trace-line", _line, (TraceError,), (b'"op"', b'"hex"')),
    Parser("trace", _trace, (VfioError,), (b'"op": "init"', b'"region_size": 4194304', b"\n")),
)
