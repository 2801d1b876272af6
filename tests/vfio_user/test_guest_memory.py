"""What of the guest's memory the device reaches: wanted minus have, burst by burst."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from pyvfio.abi import pci_regs, vfio
from pyvfio.dma import Access
from pyvfio.faults import Fault
from pyvfio.vfio_user import FilePlace, GuestMemory, GuestMemoryListener, GuestRange, whole
from tests.support.vfio_user.bench import MIB, Bench, RawClient, guest_file

RW, RO = 3, 1
KIB = 1 << 10
CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX

Step = tuple[str, int, int, int]
"""What QEMU sends: map or unmap, address, size, flags. The file offset of its RAM is the address."""

REALIZE: list[Step] = [("map", 0, 16 * MIB, RW), ("rom", 0xFFFC_0000, 0x4_0000, RO)]
SEABIOS: list[Step] = [
    ("unmap", 0, 16 * MIB, 0),
    ("map", 0, 0xC_0000, RW),
    ("rom", 0xC_0000, 0x2_0000, RO),
    ("rom", 0xE_0000, 0x2_0000, RO),
    ("map", MIB, 15 * MIB, RW),
]
LINUX: list[Step] = [
    ("unmap", 0, 0xC_0000, 0),
    ("unmap", 0xC_0000, 0x2_0000, 0),
    ("unmap", 0xE_0000, 0x2_0000, 0),
    ("unmap", MIB, 15 * MIB, 0),
    ("map", 0, 0xC_3000, RW),
    ("map", 0xC_3000, 0x2_5000, RO),
    ("map", 0xE_8000, 0x8000, RW),
    ("map", 0xF_0000, 0x1_0000 + 15 * MIB, RO),
]


def burst(bench: Bench, client: RawClient, ram: int, steps: Iterable[Step]) -> list[int]:
    """Send all of it in one go; the errnos of the replies, in order."""
    sent = [
        client.unmap(address, size)
        if kind == "unmap"
        else client.map(address, size, ram if kind == "map" else None, address if kind == "map" else 0, flags)
        for kind, address, size, flags in steps
    ]
    assert not client.is_answered()
    bench.pass_time()
    replies = [client.receive() for _ in sent]
    assert [reply.identity for reply in replies] == sent
    return [reply.error for reply in replies]


def calls(bench: Bench) -> tuple[int, int]:
    """How many calls mapped, and how many unmapped, since this was asked last."""
    requests = [call.request for call in bench.kernel.calls]
    bench.kernel.arm()
    return requests.count(vfio.VFIO_IOMMU_MAP_DMA), requests.count(vfio.VFIO_IOMMU_UNMAP_DMA)


def test_a_boot_maps_what_has_changed_and_nothing_else(bench: Bench, client: RawClient, ram: int) -> None:
    assert not any(burst(bench, client, ram, REALIZE))
    # Cut at 1 MiB: what is above stays mapped while firmware and kernel change what is below.
    assert bench.mappings == [(0, MIB, RW), (MIB, 15 * MIB, RW)]
    calls(bench)
    assert not any(burst(bench, client, ram, SEABIOS))
    assert bench.mappings == [(0, 0xC_0000, RW), (MIB, 15 * MIB, RW)]
    assert calls(bench) == (1, 1)
    # Back, and there again: QEMU does so three to six times.
    assert not any(burst(bench, client, ram, [*[("unmap", 0, MIB, 0)], ("unmap", MIB, 15 * MIB, 0), REALIZE[0]]))
    assert calls(bench) == (1, 1)
    assert not any(burst(bench, client, ram, SEABIOS))
    assert not any(burst(bench, client, ram, LINUX))
    assert bench.mappings == [
        (0, 0xC_3000, RW),
        (0xC_3000, 0x2_5000, RO),
        (0xE_8000, 0x8000, RW),
        (0xF_0000, 0x1_0000, RO),
        (MIB, 15 * MIB, RO),
    ]


def test_what_a_burst_takes_and_gives_back_is_not_touched(bench: Bench, client: RawClient, ram: int) -> None:
    burst(bench, client, ram, REALIZE)
    calls(bench)
    assert not any(burst(bench, client, ram, [("unmap", 0, 16 * MIB, 0), ("map", 0, 16 * MIB, RW)]))
    assert calls(bench) == (0, 0)


def test_another_command_ends_a_burst(bench: Bench, client: RawClient, ram: int) -> None:
    client.map(0, MIB, ram)
    assert bench.mappings == []
    client.send(9, bytes(16))
    assert bench.mappings == [(0, MIB, RW)]
    assert (client.receive().command, client.receive().command) == (2, 9)


def test_a_burst_without_end_is_applied_all_the_same(client: RawClient) -> None:
    for number in range(1024):
        assert not client.is_answered()
        client.map(number * 4096, 4096)
    assert client.is_answered()


def test_the_device_reaches_the_guests_pages(bench: Bench, client: RawClient, ram: int) -> None:
    os.pwrite(ram, b"from the guest", 8 * MIB)
    client.map(0x1_0000_0000, MIB, ram, 8 * MIB)
    bench.pass_time()
    bench.device.config.enable_bus_master()
    (run,) = bench.container.mappings()
    assert run.memory.fd is not None
    assert os.pread(run.memory.fd, 14, 8 * MIB) == b"from the guest"
    assert bench.simulated.locked_bytes == MIB


def test_an_unmap_may_have_several_ranges_or_none(bench: Bench, client: RawClient, ram: int) -> None:
    steps: list[Step] = [("map", number * MIB, MIB, RW) for number in range(4)]
    assert not any(burst(bench, client, ram, steps))
    assert burst(bench, client, ram, [("unmap", 0, 3 * MIB, 0), ("unmap", 64 * MIB, MIB, 0)]) == [0, 0]
    assert bench.mappings == [(3 * MIB, MIB, RW)]


def test_a_range_that_cannot_be_mapped_is_refused_and_bus_mastering_stays_off(
    bench: Bench, client: RawClient, ram: int
) -> None:
    bench.kernel.arm(Fault(request=vfio.VFIO_IOMMU_MAP_DMA, nth=1, errno=errno.ENOMEM))
    assert burst(bench, client, ram, [("map", 0, 8 * MIB, RW), ("map", 8 * MIB, MIB, RW)]) == [errno.ENOMEM, 0]
    # All of the range or nothing: what is below 1 MiB was mapped before the rest failed.
    assert bench.mappings == [(8 * MIB, MIB, RW)]
    assert bench.heard.words[-2].startswith("not mapped 0x0: ")
    command = (pci_regs.PCI_COMMAND_MASTER | pci_regs.PCI_COMMAND_MEMORY).to_bytes(2, "little")
    assert not client.write(CONFIG, pci_regs.PCI_COMMAND, command).error
    assert not bench.device.config.bus_master
    # QEMU takes it away as if it had been mapped.
    assert burst(bench, client, ram, [("unmap", 0, 8 * MIB, 0)]) == [0]
    client.write(CONFIG, pci_regs.PCI_COMMAND, command)
    assert bench.device.config.bus_master


def test_what_cannot_be_unmapped_is_told_and_tried_again(bench: Bench, client: RawClient, ram: int) -> None:
    burst(bench, client, ram, [("map", 0, MIB, RW)])
    bench.kernel.arm(Fault(request=vfio.VFIO_IOMMU_UNMAP_DMA, nth=0, errno=errno.EIO))
    assert burst(bench, client, ram, [("unmap", 0, MIB, 0)]) == [errno.EIO]
    assert bench.mappings == [(0, MIB, RW)]
    assert bench.heard.words[-2].startswith("still mapped 0x0: ")
    assert burst(bench, client, ram, [("map", 2 * MIB, MIB, RW)]) == [0]
    assert bench.mappings == [(2 * MIB, MIB, RW)]


# Several devices of one guest.


@pytest.fixture
def memory(bench: Bench) -> GuestMemory:
    return bench.memory


def told(memory: GuestMemory, ram: int, *parts: tuple[int, int]) -> GuestMemoryListener:
    """A connection that has told of these addresses and sizes."""
    listener = memory.listener()
    tell(listener, ram, *parts)
    assert not listener.settle()
    return listener


def tell(listener: GuestMemoryListener, ram: int, *parts: tuple[int, int]) -> None:
    for address, size in parts:
        listener.map(GuestRange(address, size, Access.READ_WRITE, FilePlace.of(ram, address)), ram)


def untell(listener: GuestMemoryListener, ram: int, *parts: tuple[int, int]) -> None:
    for address, size in parts:
        listener.unmap(GuestRange(address, size, Access.READ_WRITE, FilePlace.of(ram, address)))


def test_memory_of_several_connections_is_mapped_once_and_as_long_as_one_wants_it(
    bench: Bench, memory: GuestMemory, ram: int
) -> None:
    first = told(memory, ram, (0, 16 * MIB))
    second = told(memory, ram, (0, 16 * MIB))
    assert calls(bench) == (2, 0)
    assert not first.end()
    assert bench.container.mapping_count == 2
    assert not second.end()
    assert bench.mappings == []
    assert bench.simulated.locked_bytes == 0


def test_what_one_connection_has_yet_to_take_away_keeps_its_place(bench: Bench, memory: GuestMemory, ram: int) -> None:
    first = told(memory, ram, (0, 16 * MIB))
    second = told(memory, ram, (0, 16 * MIB))
    calls(bench)
    for listener in (first, second):
        untell(listener, ram, (0, 16 * MIB))
        tell(listener, ram, (0, 0xC_0000), (MIB, 15 * MIB))
        assert not listener.settle()
        if listener is first:
            # The second device still has all that is below 1 MiB.
            assert bench.mappings == [(0, MIB, RW), (MIB, 15 * MIB, RW)]
    assert bench.mappings == [(0, 0xC_0000, RW), (MIB, 15 * MIB, RW)]
    assert calls(bench)[1] == 1


def test_only_what_is_wanted_of_a_range_is_mapped(bench: Bench, ram: int) -> None:
    plugged: set[int] = {2}

    def blocks(part: GuestRange) -> Iterable[GuestRange]:
        return [part.part(part.address + n * MIB, part.address + (n + 1) * MIB) for n in sorted(plugged)]

    memory = GuestMemory(bench.container, blocks)
    listener = told(memory, ram, (0, 16 * MIB))
    assert bench.mappings == [(2 * MIB, MIB, RW)]
    plugged |= {0, 3}
    assert not memory.refresh()
    assert [piece.address for piece in memory.mapped()] == [0, 2 * MIB, 3 * MIB]
    plugged.clear()
    assert not memory.refresh()
    assert bench.mappings == []
    assert not listener.end()


def test_files_of_huge_pages_need_no_alignment_of_ranges(
    bench: Bench, ram: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Huge:
        f_bsize = 2 * MIB

    monkeypatch.setattr(os, "fstatvfs", lambda _: Huge)
    told(bench.memory, ram, (0xC_3000, 0x2_5000))
    (run,) = bench.container.mappings()
    assert (run.iova, run.size, run.offset, run.memory.size) == (0xC_3000, 0x2_5000, 0xC_3000, 2 * MIB)
    assert run.memory.address % (2 * MIB) == 0


def test_a_guest_has_a_size(bench: Bench, tmp_path: Path) -> None:
    fd = guest_file(1 << 45)
    listener = bench.memory.listener()
    part = GuestRange(0, 1 << 45, Access.READ_WRITE, FilePlace.of(fd, 0))
    with pytest.raises(OSError, match="no guest has that much"):
        listener.map(part, fd)
    os.close(fd)
    assert tmp_path.exists()


def test_a_range_is_cut_at_one_mebibyte() -> None:
    part = GuestRange(0xF_0000, 16 * MIB, Access.READ, FilePlace(1, 2, 0x1000))
    below, above = whole(part)
    assert (below.address, below.end, above.address, above.end) == (0xF_0000, MIB, MIB, 0xF_0000 + 16 * MIB)
    assert above.place == FilePlace(1, 2, 0x1_1000)
    assert tuple(whole(above)) == (above,)
