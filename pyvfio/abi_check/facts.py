"""What either side says of its names, in one wording, so that comparing them is comparing text."""

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    STRUCT = "struct"
    FIELD = "field"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field is and what it is; offset in bytes."""

    offset: int
    type: str

    def __str__(self) -> str:
        return f"{self.type} at {self.offset}"


@dataclass(frozen=True, slots=True)
class Layout:
    """A struct: its size in bytes and its fields in order, those of anonymous unions among them."""

    size: int
    fields: dict[str, Place]

    def __str__(self) -> str:
        return f"{self.size} bytes"


@dataclass(frozen=True, slots=True)
class Facts:
    """Structs, and constants in hex or in quotes, by name."""

    structs: dict[str, Layout] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)


def number(value: int | str) -> str:
    return f'"{value}"' if isinstance(value, str) else hex(value)


def integer_type(size: int, *, signed: bool) -> str:
    return f"{'s' if signed else 'u'}{size * 8}"


def aggregate_type(size: int) -> str:
    return f"{size}-byte struct"


def array_type(element: str, length: int) -> str:
    """A length of 0 is a flexible array."""
    return f"{element}[{length or ''}]"
