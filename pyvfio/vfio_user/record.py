"""SessionRecord: all that a process which goes on with a client's session has to know of it."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from pyvfio.dma import Access
from pyvfio.errors import VfioError
from pyvfio.vfio_user.guest_range import FilePlace, GuestRange
from pyvfio.vfio_user.version import Limits


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What the two ends have agreed on, and what the client has set up since.

    limits: None before they have agreed. ranges: what the client has told of its memory. refused: addresses and sizes
    of what could not be mapped of it. interrupts: the indexes whose interrupts it has enabled.
    """

    limits: Limits | None = None
    ranges: tuple[GuestRange, ...] = ()
    refused: tuple[tuple[int, int], ...] = ()
    interrupts: tuple[int, ...] = ()

    def data(self) -> dict[str, object]:
        """As values of JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Self:
        """What data() gave, which may have been JSON meanwhile. Raises VfioError (EPROTO) for what it cannot have
        given."""
        try:
            limits = data["limits"]
            return cls(
                None if limits is None else Limits(**{name: _number(n) for name, n in _items(limits)}),
                tuple(_range(part) for part in _sequence(data["ranges"])),
                tuple((_number(part[0]), _number(part[1])) for part in map(_sequence, _sequence(data["refused"]))),
                tuple(map(_number, _sequence(data["interrupts"]))),
            )
        except (TypeError, KeyError, ValueError, IndexError) as error:
            meaning = f"it is damaged: {type(error).__name__}: {error}"
            raise VfioError(errno.EPROTO, "kept vfio-user session", meaning=meaning) from error


def _range(data: object) -> GuestRange:
    told = dict(_items(data))
    place = told["place"]
    return GuestRange(
        _number(told["address"]),
        _number(told["size"]),
        Access(_number(told["access"])),
        None if place is None else FilePlace(**{name: _number(n) for name, n in _items(place)}),
    )


def _items(value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return list(value.items())


def _sequence(value: object) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is no list")
    return tuple(value)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return int(value)
