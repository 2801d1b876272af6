"""SessionRecord: all that a process which goes on with a front end's session has to know of it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Self

from pyvfio.errors import VfioError

Keep = Callable[[object, int, str], str]
"""Has a descriptor kept, and returns its name. Called with the object that owns it, the descriptor, and its kind."""


@dataclass(frozen=True, slots=True)
class RegionRecord:
    """A GuestRegion. mmap_offset: where it begins in its file, in bytes. memory: the name of the file's descriptor."""

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int
    memory: str


@dataclass(frozen=True, slots=True)
class RingRecord:
    """A Vring.

    areas: where the descriptors are, and the areas of device and driver, in the front end's addresses, as
    VHOST_USER_SET_VRING_ADDR has them; None: it was not told. base: where it stood, or began to run, as
    VHOST_USER_SET_VRING_BASE has it. run: which of its runs this is; None: it does not run. kick, call, error: names of
    its descriptors; None for one that it has not.
    """

    size: int
    base: int
    enabled: bool
    areas: tuple[int, int, int] | None
    run: str | None
    kick: str | None
    call: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A Session.

    connection, taken, channel: names of descriptors; taken is an eventfd that has counted the messages which were taken
    out of the connection. protocol_features, status: as the front end has set them. features: what
    the driver has negotiated; None: nothing. broken: the driver has broken the ring. handled: the count of
    the message that was handled last, with its reply in hexadecimal, if it has one; None: it does not wait in the
    connection, or was none. If taken stands at that count it waits there still, and nobody has replied.
    """

    connection: str
    taken: str
    channel: str | None
    protocol_features: int
    status: int
    features: int | None
    broken: bool
    regions: tuple[RegionRecord, ...]
    ring: RingRecord
    handled: tuple[int, str | None] | None = None

    def data(self) -> dict[str, object]:
        """As values of JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Self:
        """What data() gave. Raises VfioError (EPROTO) for what it cannot have given."""
        try:
            values, ring = dict(data), dict(data["ring"])  # type: ignore[call-overload]
            areas, handled = ring["areas"], values["handled"]
            return cls(
                connection=str(values["connection"]),
                taken=str(values["taken"]),
                channel=_name(values["channel"]),
                protocol_features=_number(values["protocol_features"]),
                status=_number(values["status"]),
                features=None if values["features"] is None else _number(values["features"]),
                broken=bool(values["broken"]),
                regions=tuple(
                    RegionRecord(
                        _number(region["guest_address"]),
                        _number(region["size"]),
                        _number(region["user_address"]),
                        _number(region["mmap_offset"]),
                        str(region["memory"]),
                    )
                    for region in values["regions"]  # type: ignore[attr-defined]
                ),
                ring=RingRecord(
                    size=_number(ring["size"]),
                    base=_number(ring["base"]),
                    enabled=bool(ring["enabled"]),
                    areas=None if areas is None else (_number(areas[0]), _number(areas[1]), _number(areas[2])),
                    run=_name(ring["run"]),
                    kick=_name(ring["kick"]),
                    call=_name(ring["call"]),
                    error=_name(ring["error"]),
                ),
                handled=None if handled is None else (_number(handled[0]), _name(handled[1])),  # type: ignore[index]
            )
        except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
            meaning = f"it is damaged: {type(error).__name__}: {error}"
            raise VfioError(errno.EPROTO, "kept session", meaning=meaning) from error


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number")
    return value


def _name(value: object) -> str | None:
    return None if value is None else str(value)
