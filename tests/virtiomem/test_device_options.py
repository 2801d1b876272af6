"""What a VirtioMem can be made with, and which features it offers and takes."""

from __future__ import annotations

import pytest

from pyvfio.errors import InvalidArgument
from pyvfio.kernel import transparent_huge_page_size
from tests.support.virtiomem.fakes import ADDRESS, BLOCK, MIB, FakeMemory, Machine
from virtiomem.device import (
    Feature,
    FeaturesRefused,
    VirtioMem,
    check_block_size,
    check_region,
    default_block_size,
)

GIB = 1 << 30
OFFERS = [
    ({}, Feature.UNPLUGGED_INACCESSIBLE),
    ({"unplugged_inaccessible": False}, Feature(0)),
    (
        {"node_id": 1, "persistent_suspend": True},
        Feature.ACPI_PXM | Feature.UNPLUGGED_INACCESSIBLE | Feature.PERSISTENT_SUSPEND,
    ),
]


@pytest.mark.parametrize(("options", "offered"), OFFERS)
def test_features(options: dict[str, object], offered: Feature) -> None:
    machine = Machine(**options)  # type: ignore[arg-type]
    device = machine.device
    assert device.features == offered
    device.negotiate(offered | 1 << 32)
    assert device.negotiated == offered
    with pytest.raises(FeaturesRefused, match="0x8 was not offered"):
        device.negotiate(offered | 8)


def test_a_driver_that_may_read_unplugged_memory_is_refused_unless_it_may() -> None:
    strict, legacy = Machine(), Machine(unplugged_inaccessible=False)
    with pytest.raises(FeaturesRefused, match="may read unplugged memory"):
        strict.device.negotiate(0)
    legacy.device.negotiate(0)


@pytest.mark.parametrize(
    ("page_size", "thp_size", "block_size"),
    [
        (4096, 2 * MIB, 2 * MIB),
        (4096, None, MIB),
        (2 * MIB, 2 * MIB, 2 * MIB),
        (GIB, 2 * MIB, GIB),
        (64 << 10, 512 * MIB, MIB),
    ],
)
def test_default_block_size(page_size: int, thp_size: int | None, block_size: int) -> None:
    assert default_block_size(page_size, thp_size) == block_size


def test_default_block_size_with_large_host_pages() -> None:
    assert default_block_size(64 << 10, 512 * MIB, host_page_size=64 << 10) == 512 * MIB


@pytest.mark.parametrize(
    ("options", "fitting"),
    [
        ({"block_size": 3 * MIB}, "0x40_0000 would fit"),
        ({"block_size": MIB // 2}, "0x10_0000 would fit"),
        ({"block_size": 0}, "0x10_0000 would fit"),
        ({"address": ADDRESS + 4096}, "0x1_0020_0000 would fit"),
        ({"address": -BLOCK}, "0x0 would fit"),
        ({"region_offset": 4096}, "0x20_0000 would fit"),
        ({"region_size": BLOCK + 4096}, "0x40_0000 would fit"),
        ({"region_size": 65 * BLOCK}, "0x800_0000 would fit"),
        ({"region_size": 0}, "0x20_0000 would fit"),
        ({"region_offset": 2 * BLOCK, "region_size": 64 * BLOCK}, "0x7c0_0000 would fit"),
        ({"address": (1 << 64) - 2 * BLOCK}, "0x40_0000 would fit"),
        ({"requested_size": BLOCK + 1}, "0x40_0000 would fit"),
        ({"requested_size": 65 * BLOCK}, "0x800_0000 would fit"),
        ({"node_id": 1 << 16}, "not in 0 to 0xffff"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_changes(options: dict[str, int], fitting: str) -> None:
    memory = FakeMemory()
    with pytest.raises(InvalidArgument, match=fitting):
        VirtioMem(memory, **{"address": ADDRESS, "block_size": BLOCK, **options})  # type: ignore[arg-type]
    assert memory.faults.steps == []


@pytest.mark.parametrize("block_size", [1 << order for order in range(20, 31)])
@pytest.mark.parametrize("page_size", [4096, 2 * MIB, GIB])
def test_blocks_are_whole_pages_of_the_memory(page_size: int, block_size: int) -> None:
    if block_size < page_size:
        with pytest.raises(InvalidArgument, match=f"{page_size:#_x} would fit"):
            check_block_size(block_size, page_size)
    else:
        check_block_size(block_size, page_size)
        check_region(0, 0, 4 * GIB, block_size, 4 * GIB)


def test_a_legacy_driver_gets_no_huge_pages() -> None:
    memory = FakeMemory(page_size=2 * MIB)
    with pytest.raises(InvalidArgument, match="SIGBUS"):
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, unplugged_inaccessible=False)
    assert memory.faults.steps == []


@pytest.mark.parametrize("page_size", [4096, 2 * MIB])
def test_without_a_block_size_a_device_takes_the_hosts(page_size: int) -> None:
    expected = default_block_size(page_size, transparent_huge_page_size(), 4096)
    with VirtioMem(FakeMemory(page_size=page_size), address=ADDRESS) as device:
        assert device.config.block_size == expected
