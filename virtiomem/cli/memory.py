"""The argument that says what backs a region."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from pyvfio.commandline import count
from pyvfio.memory import HUGE_PAGE_SIZE, MemoryKind
from pyvfio.units import format_size, parse_size


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What backs a region. kind: of memory. page_size: bytes of its huge pages; None for a kind without them."""

    kind: MemoryKind
    page_size: int | None

    def __str__(self) -> str:
        return self.kind.value + (f" of {format_size(self.page_size)} pages" if self.page_size else "")


def memory_choice(text: str) -> MemoryChoice:
    """An argparse type: the choice that text, such as "anon", "hugetlb" or "hugetlb:1G", names."""
    name, _, page_size = text.partition(":")
    try:
        kind = MemoryKind(name)
        pages = parse_size(page_size) if page_size else None
    except ValueError as error:
        kinds = ", ".join(kind.value for kind in MemoryKind)
        what = str(error) if page_size else f"{name!r} is none of {kinds}"
        raise argparse.ArgumentTypeError(f"{what}; huge pages may have a size: hugetlb:1G") from None
    if pages and not kind.is_hugetlb:
        raise argparse.ArgumentTypeError(f"{name} has no huge pages")
    return MemoryChoice(kind, (pages or HUGE_PAGE_SIZE) if kind.is_hugetlb else None)


def add_prealloc_threads(parser: argparse.ArgumentParser) -> None:
    """Add --prealloc-threads."""
    parser.add_argument(
        "--prealloc-threads",
        type=count,
        default=1,
        metavar="N",
        help="threads that populate a block's memory before it is plugged (default: 1)",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add --memory."""
    parser.add_argument(
        "--memory",
        type=memory_choice,
        default=MemoryChoice(MemoryKind.ANONYMOUS, None),
        metavar="KIND",
        help=f"what backs the region: {', '.join(kind.value for kind in MemoryKind)}; "
        "huge pages of another size than 2 MiB: hugetlb:1G (default: anon)",
    )
