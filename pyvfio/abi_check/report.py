"""Mirror and header, name by name."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pyvfio.abi_check.compiler import Compiler
from pyvfio.abi_check.errors import AbiCheckError
from pyvfio.abi_check.facts import Facts, Kind, Layout
from pyvfio.abi_check.mirror import MIRRORS, Mirror


class Status(StrEnum):
    AGREE = "agree"
    DIFFER = "differ"
    REVISED = "revised"
    """Not equal, but compatible: one side has fields past the other's end, uses space that the other
    reserves, or counts more names."""
    NOT_IN_MIRROR = "not_in_mirror"
    NOT_IN_HEADER = "not_in_header"


@dataclass(frozen=True, slots=True)
class Row:
    """One name; what each side says of it, None if it does not know it."""

    kind: Kind
    name: str
    status: Status
    mirror: str | None
    header: str | None


@dataclass(frozen=True, slots=True)
class HeaderReport:
    """One header. path: None if the tree lacks it; release: the kernel's, empty if the tree does not say."""

    header: str
    module: str
    path: str | None
    release: str
    rows: tuple[Row, ...]

    def count(self, kind: Kind) -> Counter[Status]:
        return Counter(row.status for row in self.rows if row.kind is kind)

    def having(self, status: Status) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status is status)


@dataclass(frozen=True, slots=True)
class AbiReport:
    """include: the header tree, None for the compiler's own."""

    include: Path | None
    headers: tuple[HeaderReport, ...]

    @property
    def differs(self) -> bool:
        return any(header.having(Status.DIFFER) for header in self.headers)


def check(include: Path | None = None, *, cc: str = "cc", mirrors: Sequence[Mirror] = MIRRORS) -> AbiReport:
    """Compare every mirror with its header in the tree include, such as /usr/include, or the compiler's own.

    The headers are compiled for this machine, and a program that prints their layouts is run. A name that
    only one side knows is no difference: headers and mirrors are of different ages.

    Raises AbiCheckError.
    """
    compiler = Compiler(cc, include)
    headers = tuple(_check(compiler, mirror) for mirror in mirrors)
    if all(header.path is None for header in headers):
        raise AbiCheckError(
            f"{include or cc} has none of {', '.join(header.header for header in headers)}: give a directory "
            "that contains linux/, or install the kernel's headers (Debian, Ubuntu: linux-libc-dev)."
        )
    return AbiReport(include, headers)


def _check(compiler: Compiler, mirror: Mirror) -> HeaderReport:
    mirrored = mirror.facts()
    header = compiler.header_facts(mirror, mirrored)
    if header is None:
        return HeaderReport(mirror.header, mirror.module, None, "", ())
    rows = tuple(_compare(mirrored, header.facts))
    return HeaderReport(mirror.header, mirror.module, header.path, header.release, rows)


def _compare(mirror: Facts, header: Facts) -> Iterator[Row]:
    for name in _names(header.structs, mirror.structs):
        yield from _compare_structs(name, mirror.structs.get(name), header.structs.get(name))
    lone = mirror.numbers.keys() ^ header.numbers.keys()
    for name in _names(header.numbers, mirror.numbers):
        is_revised = _counts_any(name, lone)
        yield _row(Kind.NUMBER, name, mirror.numbers.get(name), header.numbers.get(name), is_revised=is_revised)


def _compare_structs(name: str, mirror: Layout | None, header: Layout | None) -> Iterator[Row]:
    mirrored = mirror.fields if mirror else {}
    defined = header.fields if header else {}
    is_revised = bool(mirror and header and _is_revision(mirror, header))
    yield _row(Kind.STRUCT, name, mirror, header, is_revised=is_revised)
    for field in _names(defined, mirrored):
        yield _row(
            Kind.FIELD,
            f"{name}.{field}",
            mirrored.get(field),
            defined.get(field),
            is_revised=_is_reserved(field),
        )


def _is_revision(one: Layout, other: Layout) -> bool:
    """The longer struct's extra fields are what makes it longer."""
    shorter, longer = sorted((one, other), key=lambda layout: layout.size)
    added = [place.offset for name, place in longer.fields.items() if name not in shorter.fields]
    return bool(added) and max(added) >= shorter.size


def _counts_any(name: str, lone: AbstractSet[str]) -> bool:
    """Whether name ends an enumeration, NAMES_NUM_IRQS or NAMES_NR, of which one side has more names."""
    names, is_count, _ = name.replace("_NR", "_NUM_").partition("_NUM_")
    return bool(is_count) and any(other.startswith(names) for other in lone)


def _is_reserved(field: str) -> bool:
    return field.strip("_").startswith(("resv", "reserved", "pad"))


def _row(kind: Kind, name: str, mirror: object, header: object, *, is_revised: bool = False) -> Row:
    says = None if mirror is None else str(mirror), None if header is None else str(header)
    match says:
        case (None, _):
            status = Status.NOT_IN_MIRROR
        case (_, None):
            status = Status.NOT_IN_HEADER
        case (one, other) if one == other:
            status = Status.AGREE
        case _:
            status = Status.REVISED if is_revised else Status.DIFFER
    return Row(kind, name, status, *says)


def _names(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys((*first, *second)))
