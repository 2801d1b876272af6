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
            values = dict(data)
            ring = dict(values.pop("ring"))  # type: ignore[call-overload]
            areas = ring.pop("areas")
            regions = values.pop("regions")
            handled = values.pop("handled")
            return cls(
                regions=tuple(RegionRecord(**region) for region in regions),  # type: ignore[attr-defined]
                ring=RingRecord(areas=areas and tuple(areas), **ring),
                handled=handled and tuple(handled),  # type: ignore[arg-type]
                **values,  # type: ignore[arg-type]
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            meaning = f"it is damaged: {type(error).__name__}: {error}"
            raise VfioError(errno.EPROTO, "kept session", meaning=meaning) from error
