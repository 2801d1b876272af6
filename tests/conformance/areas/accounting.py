"""RLIMIT_MEMLOCK and CAP_IPC_LOCK. Source: vfio_pin_pages_remote, vfio_lock_acct."""

from errno import EFAULT, EINVAL, ENOMEM

from pyvfio.abi import vfio
from tests.conformance.areas.setups import DEVICE, READY, holed
from tests.conformance.areas.unmap_dma import gone
from tests.conformance.bench import PAGE
from tests.conformance.calls.container import IOVA, map_dma, open_container, set_iommu, unmap_dma
from tests.conformance.calls.device import map_region
from tests.conformance.calls.group import open_group, set_container
from tests.conformance.calls.process import limit_memlock, mlock
from tests.conformance.case import Case, Expected, ok, since

_OTHER = [
    open_container(name="other"),
    open_group(device="1", name="second"),
    set_container(group="second", container="other"),
    set_iommu(container="other"),
]
_VADDR = vfio.VFIO_DMA_UNMAP_FLAG_VADDR


def _only(pages: int) -> Expected:
    """The answer to a map of so many pages into an empty container."""
    return ok(mapped=1, locked=pages) if pages else EINVAL


CASES = [
    Case("exactly the limit", [*READY, limit_memlock(pages=16)], map_dma(size=16 * PAGE), ok(mapped=1, locked=16)),
    Case("a page more than the limit", [*READY, limit_memlock(pages=16)], map_dma(size=17 * PAGE), ENOMEM),
    Case("a limit of nothing", [*READY, limit_memlock(pages=0)], map_dma(), ENOMEM),
    Case(
        "far more than the limit",
        [*READY, limit_memlock(pages=16)],
        map_dma(size=512 * PAGE),
        ENOMEM,
        after=[(map_dma(size=16 * PAGE), ok(mapped=1, locked=16))],
    ),
    Case(
        "the limit is reached in parts",
        [*READY, limit_memlock(pages=2), map_dma(), map_dma(iova=IOVA + PAGE)],
        map_dma(iova=IOVA + 2 * PAGE),
        ENOMEM,
    ),
    Case("the same page counts twice", [*READY, limit_memlock(pages=1), map_dma()], map_dma(iova=IOVA + PAGE), ENOMEM),
    Case(
        "an unmap gives back",
        [*READY, limit_memlock(pages=1), map_dma(), unmap_dma()],
        map_dma(),
        ok(mapped=1, locked=1),
    ),
    Case(
        "CAP_IPC_LOCK is not held to the limit",
        [*READY, limit_memlock(pages=0, exempt=True)],
        map_dma(size=16 * PAGE),
        ok(mapped=1, locked=16),
    ),
    Case(
        "two containers share the limit",
        [*READY, *_OTHER, limit_memlock(pages=1), map_dma()],
        map_dma(container="other"),
        ENOMEM,
    ),
    Case(
        "two containers charge the same page twice",
        [*READY, *_OTHER, map_dma()],
        map_dma(container="other"),
        ok(locked=1),
    ),
    Case("mlock shares the limit", [*READY, limit_memlock(pages=8), mlock(pages=8)], map_dma(), ENOMEM),
    Case(
        "mlock and a mapping of the same page count twice",
        [*READY, mlock(pages=4)],
        map_dma(size=4 * PAGE),
        ok(mapped=1, locked=4),
    ),
    Case(
        "mlock leaves room",
        [*READY, limit_memlock(pages=8), mlock(pages=4)],
        map_dma(size=4 * PAGE),
        ok(mapped=1, locked=4),
    ),
    Case(
        "registers are not charged",
        [*DEVICE, map_region(), limit_memlock(pages=0)],
        map_dma(memory="registers"),
        ok(mapped=1),
    ),
    Case("bad arguments come before the limit", [*READY, limit_memlock(pages=0)], map_dma(size=0), EINVAL),
    Case(
        "a new address needs no room",
        [*READY, map_dma(), unmap_dma(flags=_VADDR), limit_memlock(pages=0)],
        map_dma(flags=vfio.VFIO_DMA_MAP_FLAG_VADDR),
        ok(),
    ),
    Case(
        "unmapping needs no room",
        [*READY, map_dma(size=4 * PAGE), limit_memlock(pages=0)],
        unmap_dma(size=4 * PAGE),
        gone(4),
    ),
    *(
        Case(
            f"room for {room} pages, and a hole after {hole}",
            [
                *READY,
                *holed(hole),
                limit_memlock(pages=room),
            ],
            map_dma(memory="holed", size=(hole + 2) * PAGE),
            answer,
            after=[(map_dma(iova=0, size=min(room, 512) * PAGE), _only(min(room, 512)))],
        )
        # Pages are taken in batches of 512 and counted in their order, until one is too many or is not there.
        for room, hole, answer in (
            (0, 0, EFAULT),
            (0, 1, ENOMEM),
            (3, 4, ENOMEM),
            (4, 4, EFAULT),
            (8, 4, EFAULT),
            (511, 512, ENOMEM),
            (512, 513, ENOMEM),
            (512, 512, EFAULT),
            (540, 530, EFAULT),
        )
    ),
    # Before 6.2 pages that were never written are the zero page of all, which is not charged.
    Case(
        "no room, and a hole after pages that were never written, only to be read",
        [*READY, *holed(2), limit_memlock(pages=0)],
        map_dma(memory="holed", size=4 * PAGE, flags=vfio.VFIO_DMA_MAP_FLAG_READ),
        since({(6, 1): EFAULT, (6, 2): ENOMEM}),
    ),
    Case(
        "no room and a hole, with CAP_IPC_LOCK",
        [*READY, *holed(2), limit_memlock(pages=0, exempt=True)],
        map_dma(memory="holed", size=4 * PAGE),
        EFAULT,
    ),
    Case("read-only is charged too", [*READY, limit_memlock(pages=1)], map_dma(flags=1, size=2 * PAGE), ENOMEM),
    Case("a memfd is charged too", [*READY, limit_memlock(pages=1)], map_dma(memory="memfd", size=2 * PAGE), ENOMEM),
]
