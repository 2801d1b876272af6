"""The demo's scenario: a block's whole way, with every kind of memory."""

from __future__ import annotations

import pytest

from pyvfio import Container, MemoryKind
from pyvfio.kernel import memlock
from tests.support.kernels.testbed import Testbed
from virtiomem.stand_in import demo


@pytest.mark.parametrize("kind", [kind for kind in MemoryKind if kind is not MemoryKind.HUGETLB_ANONYMOUS])
def test_the_seeds_example(testbed: Testbed, kind: MemoryKind) -> None:
    before = memlock(testbed.kernel).charged
    told: list[str] = []
    result = demo.run(demo.Options(testbed.kernel, testbed.devices, kind), told.append)
    assert (result.region_size, result.block_size, result.plugged_bytes) == (1 << 30, 2 << 20, 100 << 20)
    assert [(space.map_calls, space.unmap_calls) for space in result.address_spaces] == [(50, 1), (50, 1)]
    assert result.dma_verified_bytes == 2 * demo.TRANSFER * (50 + 3)
    assert result.faults_stopped == 2
    assert result.zeroed_blocks == 50
    assert any("50 blocks, 50 MAP_DMA calls" in line for line in told)
    assert memlock(testbed.kernel).charged == before
    with Container(kernel=testbed.kernel) as container:
        container.open_device(testbed.devices[0])
