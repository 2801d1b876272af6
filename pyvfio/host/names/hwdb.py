"""The hardware database of systemd: its sources, and the file that systemd-hwdb compiles of them."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pyvfio.texts import lines_of

_SIGNATURE = b"KSLPHHRH"
# Signature, version of the tool, sizes of the file, header, node, child and value, offset of the root, two sizes more.
_HEADER = struct.Struct("<8s9Q")
_NODE = struct.Struct("<QB7xQ")
_CHILD = struct.Struct("<B7xQ")
_VALUE = struct.Struct("<QQ")
_DEEPEST = 256


def pci_key(vendor_id: int, device_id: int | None = None) -> str:
    """The match that has the name of a vendor, or of one of its devices. Source: systemd, hwdb.d."""
    return f"pci:v{vendor_id:08X}*" if device_id is None else f"pci:v{vendor_id:08X}d{device_id:08X}*"


def properties_of_text(text: str) -> dict[str, dict[str, str]]:
    """The properties of every match in the text of a file of hwdb.d.

    Lines with matches come first, then lines with their properties, which begin with a blank.
    """
    found: dict[str, dict[str, str]] = {}
    matches: list[str] = []
    has_properties = True
    for line in lines_of(text):
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            matches = [] if has_properties else matches
            has_properties = False
            if line:
                matches.append(line)
        elif "=" in line:
            name, _, value = line.strip().partition("=")
            has_properties = True
            for match in matches:
                found.setdefault(match, {})[name] = value
    return found


class CompiledHwdb:
    """The compiled database, hwdb.bin: a tree whose edges are characters.

    A damaged one has no properties, and raises nothing: names are for people, and nothing depends on them.
    Source: systemd, hwdb-internal.h.
    """

    def __init__(self, data: bytes) -> None:
        """data: what is in the file."""
        self._data = data
        self._root = 0
        try:
            signature, _, _, _, self._node, self._child, self._value, root, _, _ = _HEADER.unpack_from(data)
        except struct.error:
            return
        sizes = (self._node, self._child, self._value)
        if signature == _SIGNATURE and all(
            size >= known.size for size, known in zip(sizes, (_NODE, _CHILD, _VALUE), strict=True)
        ):
            self._root = root

    def properties(self, match: str) -> Mapping[str, str]:
        """The properties of exactly this match, as the sources spell it; none if the database does not have it."""
        try:
            return self._find(match.encode())
        except (struct.error, OverflowError):
            return {}

    def _find(self, rest: bytes) -> dict[str, str]:
        at = self._root
        for _ in range(_DEEPEST if at else 0):
            prefix_at, children, values = _NODE.unpack_from(self._data, at)
            prefix = self._string(prefix_at)
            if not rest.startswith(prefix):
                return {}
            rest = rest[len(prefix) :]
            first = at + self._node
            if not rest:
                return self._values(first + children * self._child, values)
            for number in range(children):
                character, child = _CHILD.unpack_from(self._data, first + number * self._child)
                if character == rest[0]:
                    at, rest = child, rest[1:]
                    break
            else:
                return {}
        return {}

    def _values(self, first: int, count: int) -> dict[str, str]:
        found = {}
        for number in range(min(count, len(self._data) // self._value)):
            name, value = _VALUE.unpack_from(self._data, first + number * self._value)
            # A blank before a name says that it is a property.
            found[self._string(name).decode(errors="replace").strip()] = self._string(value).decode(errors="replace")
        return found

    def _string(self, at: int) -> bytes:
        if at >= len(self._data):
            return b""
        end = self._data.find(b"\0", at)
        return self._data[at:end] if end >= 0 else b""
