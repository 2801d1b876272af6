"""What a migration answers its clients, as data and as JSON values."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pyvfio.errors import VfioError
from pyvfio.texts import printable
from virtiomem.runs import Run

MOST_RUNS = 1000
"""Runs of dirty pages in one answer, which is a line of less than 64 KiB then."""
LARGEST_STATE = 16 << 20
"""Bytes of a state that is taken or given: 2^27 blocks, 128 TiB in the smallest ones."""
LARGEST_PART = 32 << 10
"""Bytes of a state that one request carries."""


@dataclass(frozen=True, slots=True)
class UnloggedSpace:
    """An address space whose devices' writes are not logged: all that it maps counts as written, every time.

    name: for people. reason: why, in a sentence.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class BegunMigration:
    """A migration that has begun.

    device: its name. page_size: how many bytes each dirty page has. region_size: bytes of the region, which the dirty
    pages are of. unlogged: the address spaces of which all that they map counts as written.
    """

    device: str
    page_size: int
    region_size: int
    unlogged: tuple[UnloggedSpace, ...]

    def data(self) -> dict[str, object]:
        """This as JSON values."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """What data() made data of. Raises VfioError for anything else."""
        try:
            spaces = [UnloggedSpace(printable(each["name"]), printable(each["reason"])) for each in data["unlogged"]]
            return cls(
                printable(data["device"]), _number(data, "page_size"), _number(data, "region_size"), tuple(spaces)
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise of_another_protocol("migrate begin") from error


@dataclass(frozen=True, slots=True)
class DirtyAnswer:
    """Some of the dirty pages of a device, in an answer that is told once it is confirmed.

    number: the answer's, by which it is confirmed. page_size, region_size: as BegunMigration has them. runs: of bytes
    from the start of the region, ascending, each of whole pages; none at the end of a round.
    """

    number: int
    page_size: int
    region_size: int
    runs: tuple[Run, ...]

    def data(self) -> dict[str, object]:
        """This as JSON values."""
        return {
            "number": self.number,
            "page_size": self.page_size,
            "region_size": self.region_size,
            "runs": [{"offset": run.start, "size": run.size} for run in self.runs],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """What data() made data of. Raises VfioError for anything else, also for runs outside of the region."""
        try:
            page_size, region_size = _number(data, "page_size"), _number(data, "region_size")
            runs = tuple(Run(_number(run, "offset"), _number(run, "size")) for run in data["runs"])
            if not page_size or not _are_pages(runs, page_size, region_size):
                raise ValueError
            return cls(_number(data, "number"), page_size, region_size, runs)
        except (KeyError, TypeError, ValueError) as error:
            raise of_another_protocol("migrate dirty") from error


def of_another_protocol(operation: str) -> VfioError:
    """The error for an answer that is none of this protocol."""
    return VfioError(errno.EPROTO, operation, meaning="the manager speaks another protocol")


def _are_pages(runs: Sequence[Run], page_size: int, region_size: int) -> bool:
    end = 0
    for run in runs:
        if run.start < end or not run.size or run.end > region_size or (run.start | run.size) % page_size:
            return False
        end = run.end
    return True


def _number(data: Mapping[str, Any], key: str) -> int:
    value = data[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(key)
    return value
