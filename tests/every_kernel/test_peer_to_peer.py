"""A BAR of one device as the target of another device's DMA."""

from __future__ import annotations

import errno

import pytest

from pyvfio import BarMemory, Device, Ioas, Memory, PciCommand, VfioError
from pyvfio.drivers.edu import Edu
from tests.support.kernels.modes import Mode, Space
from tests.support.kernels.testbed import IOVA, MEBIBYTE, Testbed

BAR = 0x2_0000_0000
SIZE = 0x1_0000
LIVENESS = 4
"""edu's register that reads as the inverse of what was written."""
IDENTIFICATION = 0x0100_00ED


class Pair:
    """edu has memory at IOVA, and is to reach the BAR of peer at BAR."""

    def __init__(self, space: Space, edu: Edu, peer: Device, memory: Memory) -> None:
        self.space, self.edu, self.peer, self.memory = space, edu, peer, memory
        self.bar = BarMemory(peer.region(0), 0, SIZE)

    def map(self) -> None:
        self.space.map_dma(BAR, self.bar, 0, SIZE)

    def write(self, offset: int, value: int) -> None:
        self.memory.write(0, value.to_bytes(4, "little"))
        self.edu.fetch(IOVA, 4)
        self.edu.store(BAR + offset, 4)

    def read(self, offset: int) -> int:
        """What edu finds there; 0 where it finds nothing."""
        self.memory.write(4, bytes(4))
        self.edu.fetch(IOVA + 4, 4)
        self.edu.fetch(BAR + offset, 4)
        self.edu.store(IOVA + 8, 4)
        return int.from_bytes(self.memory.read(8, 4), "little")


@pytest.fixture
def pair(space: Space, edu: Edu, testbed: Testbed, memory: Memory) -> Pair:
    space.map_dma(IOVA, memory, 0, MEBIBYTE)
    return Pair(space, edu, space.open_device(testbed.devices[1]), memory)


def takes_registers(pair: Pair, mode: Mode) -> bool:
    """A container of type1 does, an Ioas where the kernel gives a dma-buf, iommufd's compatibility never."""
    if isinstance(pair.space, Ioas):
        return pair.bar.fd is not None
    return mode.has_mapping_limit


def test_a_device_reaches_registers_of_another(pair: Pair, mode: Mode) -> None:
    if not takes_registers(pair, mode):
        with pytest.raises(VfioError, match=r"a container of type1") as caught:
            pair.map()
        assert caught.value.errno in (errno.EOPNOTSUPP, errno.EFAULT)
        assert len(pair.space.mappings()) == 1
        return
    charged = mode.charged(pair.space.kernel)
    pair.map()
    assert mode.charged(pair.space.kernel) == charged
    pair.write(LIVENESS, 0x1234_5678)
    assert pair.peer.region(0).read32(LIVENESS) == ~0x1234_5678 & 0xFFFF_FFFF
    assert pair.read(0) == IDENTIFICATION
    assert pair.space.unmap_dma(BAR, SIZE) == SIZE
    pair.write(LIVENESS, 0)
    assert pair.peer.region(0).read32(LIVENESS) == ~0x1234_5678 & 0xFFFF_FFFF


def test_registers_are_mapped_again_after_the_device_was_silent(pair: Pair, mode: Mode) -> None:
    if not takes_registers(pair, mode):
        return
    pair.map()
    pair.peer.config.command &= ~PciCommand.MEMORY
    assert pair.read(0) != IDENTIFICATION
    with pytest.raises(VfioError, match="memory decoding is off"):
        pair.space.map_dma(BAR + SIZE, pair.bar, 0, SIZE)
    pair.peer.config.command |= PciCommand.MEMORY
    if isinstance(pair.space, Ioas):
        assert pair.read(0) != IDENTIFICATION
        assert pair.space.unmap_dma(BAR, SIZE) == SIZE
        pair.map()
    assert pair.read(0) == IDENTIFICATION


def test_registers_stay_mapped_until_they_are_unmapped(pair: Pair, mode: Mode) -> None:
    if not takes_registers(pair, mode):
        return
    pair.map()
    pair.bar.close()
    assert pair.bar.address
    assert pair.read(0) == IDENTIFICATION
    pair.space.unmap_dma(BAR, SIZE)
    assert not pair.bar.address
