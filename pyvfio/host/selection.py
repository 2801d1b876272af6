"""Which entries of an inventory somebody wants to see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pyvfio.host.inventory import Entry
from pyvfio.host.names import wider_kind
from pyvfio.texts import shortened

_IDS = re.compile(r"(?:([0-9a-f]{4})?:([0-9a-f]{4})?)", re.IGNORECASE)


def parse_ids(text: str) -> tuple[int | None, int | None]:
    """The vendor and the device of "8086:1521", "8086:" or ":1521", None for any. Raises ValueError for other text."""
    match = _IDS.fullmatch(text)
    if not match or match[0] == ":":
        raise ValueError(f"{shortened(text)} is no id: write 8086:1521, 8086: or :1521")
    return (int(match[1], 16) if match[1] else None, int(match[2], 16) if match[2] else None)


@dataclass(frozen=True, slots=True)
class Selection:
    """What somebody wants to see. An entry has to fit one value of each field that has any, and every text.

    addresses: PCI addresses, as sysfs spells them. kinds: words for a class ("Ethernet") or a base class ("Network"),
    or the first digits of a class code ("0200"). drivers: patterns of names; "none" fits a function without a driver.
    ids: vendors and devices, as parse_ids() returns them. texts: parts of anything that is shown of a function.
    """

    addresses: Sequence[str] = ()
    kinds: Sequence[str] = ()
    drivers: Sequence[str] = ()
    ids: Sequence[tuple[int | None, int | None]] = ()
    texts: Sequence[str] = ()

    def takes(self, entry: Entry) -> bool:
        """Whether an entry fits."""
        device = entry.device
        return (
            (not self.addresses or device.address in self.addresses)
            and (not self.kinds or any(_is_kind(entry, each) for each in self.kinds))
            and (not self.drivers or any(fnmatchcase(device.driver or "none", each) for each in self.drivers))
            and (not self.ids or any(_has_ids(entry, each) for each in self.ids))
            and all(text.casefold() in _everything(entry) for text in self.texts)
        )


def _is_kind(entry: Entry, wanted: str) -> bool:
    code = entry.device.class_code
    digits = wanted.lower().removeprefix("0x")
    # Whole bytes only: "3d" is a word of the list too.
    has_code = len(digits) in (2, 4, 6) and f"{code:06x}".startswith(digits)
    return has_code or wanted.casefold() in (entry.kind.casefold(), wider_kind(code).casefold())


def _has_ids(entry: Entry, ids: tuple[int | None, int | None]) -> bool:
    return ids[0] in (None, entry.device.vendor_id) and ids[1] in (None, entry.device.device_id)


def _everything(entry: Entry) -> str:
    """What texts are looked for in: all that is shown of a function, in lower case."""
    device = entry.device
    words = [device.address, entry.kind, entry.name, f"{device.vendor_id:04x}:{device.device_id:04x}"]
    words += [device.driver or "", entry.override or "", *(use.name for use in entry.interfaces), *entry.disks]
    return "\n".join(words).casefold()
