"""How memory is backed, and the page sizes of each kind."""

from __future__ import annotations

import enum
import errno

from pyvfio.errors import InvalidArgument
from pyvfio.kernel import host_page_size

HUGE_PAGE_SIZE = 2 << 20
"""Bytes of a huge page of hugetlb memory, unless another size is asked for."""


class MemoryKind(enum.Enum):
    """What the pages of memory are. MEMFD and HUGETLB can be shared; the others are private to this process."""

    ANONYMOUS = "anon"
    """Pages of the host's page size, never transparent huge pages."""
    THP = "thp"
    """Transparent huge pages where the kernel has some, in memory that is aligned for them."""
    MEMFD = "memfd"
    """A file in memory, which can be shared by its descriptor."""
    HUGETLB = "hugetlb"
    """A memfd of huge pages from the host's pool."""
    HUGETLB_ANONYMOUS = "hugetlb-anon"
    """Huge pages from the host's pool, without a file."""

    @property
    def is_hugetlb(self) -> bool:
        """Whether the pages come from the host's pool of huge pages."""
        return self in (MemoryKind.HUGETLB, MemoryKind.HUGETLB_ANONYMOUS)


def page_size_of(kind: MemoryKind, page_size: int | None) -> int:
    """The page size of memory of this kind, in bytes. Raises InvalidArgument for one that the kind does not have."""
    if not kind.is_hugetlb:
        if page_size not in (None, host_page_size()):
            raise InvalidArgument(
                errno.EINVAL, "allocate memory", {"page size": page_size}, f"{kind.value} has no huge pages"
            )
        return host_page_size()
    page_size = page_size or HUGE_PAGE_SIZE
    if page_size & (page_size - 1) or page_size <= host_page_size():
        raise InvalidArgument(
            errno.EINVAL,
            "allocate memory",
            {"page size": page_size},
            "not a size of huge pages",
            "2M and 1G are",
        )
    return page_size
