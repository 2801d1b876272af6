"""The budget, to the last mapping, byte and page."""

from __future__ import annotations

import pytest

from pyvfio.errors import InvalidArgument
from pyvfio.kernel import HugePages, Memlock
from pyvfio.sim import SimKernel
from tests.support.virtiomem.fakes import MIB
from virtiomem.planner import Limit, Limits, Plan, Row, Verdict, fitting_block_size, plan

GIB = 1 << 30
UNLIMITED = Memlock(limit=None, charged=0, exempt=False)
LIMITS = Limits(mappings=65535, memlock=UNLIMITED)


def row(result: Plan, limit: Limit) -> Row:
    return next(row for row in result.rows if row.limit is limit)


@pytest.mark.parametrize(
    ("region", "block", "others", "need", "fits", "fitting"),
    [
        (256 * GIB, 2 * MIB, 0, 131072, False, 8 * MIB),
        (256 * GIB, 4 * MIB, 0, 65536, False, 8 * MIB),
        (256 * GIB, 8 * MIB, 0, 32768, True, 8 * MIB),
        (256 * GIB - 4 * MIB, 4 * MIB, 0, 65535, True, 4 * MIB),
        (256 * GIB - 4 * MIB, 4 * MIB, 1, 65535, False, None),
        (1024 * GIB, 16 * MIB, 0, 65536, False, 32 * MIB),
        (1024 * GIB, 32 * MIB, 32767, 32768, True, 32 * MIB),
        (1024 * GIB, 32 * MIB, 32768, 32768, False, 64 * MIB),
        (1 * GIB, 2 * MIB, 65535, 512, False, None),
        (1 * GIB, 2 * MIB, 65534, 512, False, 1 * GIB),
        (128 * GIB - 2 * MIB, 2 * MIB, 0, 65535, True, 2 * MIB),
    ],
)
def test_mappings_to_the_last(region: int, block: int, others: int, need: int, fits: bool, fitting: int | None) -> None:
    result = plan(region, block_size=block, other_mappings=others, limits=LIMITS)
    mappings = row(result, Limit.MAPPINGS)
    assert (mappings.need, mappings.available) == (need, 65535 - others)
    assert mappings.verdict is (Verdict.OK if fits else Verdict.FAIL)
    assert (result.fits, result.fitting_block_size) == (fits, fitting)


def test_the_conclusion_names_the_block_size_that_fits_and_how_far_the_next_is_off() -> None:
    assert plan(256 * GIB, block_size=2 * MIB, limits=LIMITS).conclusion == (
        "does not fit; with 8 MiB blocks it does (32768 mappings; 4 MiB would need 65536, one too many)"
    )
    assert plan(256 * GIB, block_size=8 * MIB, limits=LIMITS, address_spaces=2).conclusion == (
        "fits with blocks of 8 MiB, 32768 mappings in each of 2 address spaces"
    )
    assert plan(GIB, block_size=2 * MIB, limits=LIMITS, other_mappings=65535).conclusion == (
        "does not fit with any size of blocks that divides 1 GiB"
    )


def test_the_fix_is_one_that_fits() -> None:
    fix = row(plan(256 * GIB, block_size=2 * MIB, other_mappings=3, limits=LIMITS), Limit.MAPPINGS).fix
    assert (
        fix == "blocks of 8 MiB or more, or dma_entry_limit=131075 of vfio_iommu_type1 before the container is opened"
    )
    enough = Limits(mappings=131075, memlock=UNLIMITED)
    assert plan(256 * GIB, block_size=2 * MIB, other_mappings=3, limits=enough).fits


def test_without_a_block_size_the_smallest_worth_having_that_fits() -> None:
    assert plan(256 * GIB, limits=LIMITS).block_size == 8 * MIB
    assert plan(GIB, limits=Limits(65535, UNLIMITED, transparent_huge_page_size=2 * MIB)).block_size == 2 * MIB
    assert plan(GIB, limits=Limits(65535, UNLIMITED)).block_size == MIB


def test_no_limit_no_address_space_nothing_to_run_short_of() -> None:
    assert row(plan(1024 * GIB, block_size=MIB, limits=Limits(None, UNLIMITED)), Limit.MAPPINGS).available is None
    nobody = plan(1024 * GIB, block_size=MIB, limits=Limits(1, Memlock(0, 0, False)), address_spaces=0)
    assert nobody.fits
    assert row(nobody, Limit.MEMLOCK).need == 0


@pytest.mark.parametrize(
    ("lock", "spaces", "fits"),
    [
        (Memlock(GIB, 0, False), 1, True),
        (Memlock(GIB, 4096, False), 1, False),
        (Memlock(GIB, 0, False), 2, False),
        (Memlock(2 * GIB, 0, False), 2, True),
        (Memlock(0, 0, True), 3, True),
        (Memlock(None, 99, False), 3, True),
    ],
)
def test_every_address_space_is_charged_for_every_page(lock: Memlock, spaces: int, fits: bool) -> None:
    result = plan(GIB, block_size=2 * MIB, address_spaces=spaces, limits=Limits(65535, lock))
    memlock = row(result, Limit.MEMLOCK)
    assert (memlock.need, memlock.fits, result.fits) == (spaces * GIB, fits, fits)
    if not fits:
        assert f"LimitMEMLOCK={lock.charged + spaces * GIB}" in memlock.fix
        assert result.conclusion == "does not fit: too little memlock"


@pytest.mark.parametrize(("free", "fits"), [(512, True), (511, False)])
def test_huge_pages(free: int, fits: bool) -> None:
    pool = HugePages(2 * MIB, 600, free)
    result = plan(GIB, block_size=2 * MIB, limits=Limits(65535, UNLIMITED, pool), address_spaces=3)
    pages = row(result, Limit.HUGE_PAGES)
    assert (pages.need, pages.available, pages.fits) == (512, free, fits)
    if not fits:
        assert pages.fix == "as root: echo 601 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


def test_everything_short_is_said() -> None:
    short = Limits(65535, Memlock(0, 0, False), HugePages(2 * MIB, 0, 0))
    assert plan(256 * GIB, block_size=4 * MIB, limits=short).conclusion == (
        "does not fit; with 8 MiB blocks it does (32768 mappings; 4 MiB would need 65536, one too many), "
        "but memlock and hugepages would still be short"
    )


def test_less_than_the_region_may_ever_be_plugged() -> None:
    result = plan(1024 * GIB, plugged_size=64 * GIB, block_size=2 * MIB, limits=LIMITS)
    assert (result.fits, row(result, Limit.MAPPINGS).need) == (True, 32768)


@pytest.mark.parametrize(
    "mistake",
    [{"block_size": 3 * MIB}, {"block_size": 4096}, {"plugged_size": 2 * GIB}, {"plugged_size": MIB + 1}],
)
def test_what_no_device_would_take_is_refused(mistake: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match="would fit"):
        plan(GIB, limits=LIMITS, **mistake)


def test_a_region_that_is_no_multiple_of_its_blocks_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="would fit"):
        plan(GIB + MIB, block_size=2 * MIB, limits=LIMITS)


def test_blocks_are_whole_huge_pages() -> None:
    pages = Limits(65535, UNLIMITED, HugePages(GIB, 8, 8))
    assert plan(8 * GIB, limits=pages).block_size == GIB
    with pytest.raises(InvalidArgument):
        plan(8 * GIB, block_size=2 * MIB, limits=pages)


def test_fitting_blocks_divide_the_region() -> None:
    assert fitting_block_size(6 * MIB, 6 * MIB, 3, smallest=MIB) == 2 * MIB
    assert fitting_block_size(6 * MIB, 6 * MIB, 2, smallest=MIB) is None
    assert fitting_block_size(6 * MIB, 2 * MIB, 1, smallest=MIB) == 2 * MIB


def test_the_limits_of_a_host() -> None:
    kernel = SimKernel(dma_entry_limit=100, memlock=64 << 20, ipc_lock=False)
    limits = Limits.of_host(kernel=kernel)
    assert limits.mappings == 100
    assert limits.memlock == Memlock(64 << 20, 0, False)
    assert limits.huge_pages is None
    assert limits.page_size == 4096
    assert Limits.of_host(page_size=2 * MIB, kernel=kernel).page_size == 2 * MIB
