"""Every DMA map and unmap, beside those QEMU makes for its virtio-mem."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from pyvfio.abi import vfio
from pyvfio.container import Container
from pyvfio.errors import MemoryUnavailable
from pyvfio.kernel import IoctlArgument
from pyvfio.memory import Memory, MemoryKind
from tests.oracle import campaign
from tests.oracle.differences import IN_MAPPINGS, Difference
from tests.oracle.judges import available
from tests.oracle.lines import ADDRESS, BLOCK, INIT, STEPS, request
from tests.oracle.mappings import Call, QemuMappers
from tests.oracle.observation import Line, octets
from tests.oracle.ours import OurDevice
from tests.oracle.qemu_device import QemuDevice
from tests.oracle.vfio_user import DmaWatcher
from virtiomem.device import RequestType, Response, ResponseType, VirtioMem
from virtiomem.mapping import DmaMapper
from virtiomem.runs import Run
from virtiomem.trace import DmaLog
from virtiomem.trace.dma_log import LoggedKernel

SEQUENCES = 100
PLUG, UNPLUG = request(RequestType.PLUG, 0, 2), request(RequestType.UNPLUG, 0, 2)
UNPLUG_ALL = request(RequestType.UNPLUG_ALL)
REFUSE_SECOND: Line = {"op": "refuse_map", "mapper": 1, "nth": 0, "errno": errno.ENOMEM}
FIRST, SECOND, BOTH = (ADDRESS, BLOCK), (ADDRESS + BLOCK, BLOCK), (ADDRESS, 2 * BLOCK)


@pytest.fixture
def recent(fast: bool) -> Path:
    if fast:
        pytest.skip("a part of make test: needs a QEMU that is fetched first")
    return available("recent")


def test_random_sequences(recent: Path) -> None:
    result = campaign.mappings(recent, seed=0, sequences=SEQUENCES, steps=STEPS)
    print(result)
    assert result.calls > SEQUENCES * STEPS
    assert result.answers["PLUG", "BUSY"] > SEQUENCES
    assert {Difference.ORDER_OF_UNMAPS, Difference.UNMAP_OF_NOTHING} == result.differences.keys()


def order_of_listeners(recent: Path) -> None:
    their, our = _calls(recent, PLUG, reverse=False)
    assert their == [[mapper, "map", *block] for mapper in (1, 0) for block in (FIRST, SECOND)]
    assert our == [[mapper, "map", *block] for mapper in (0, 1) for block in (FIRST, SECOND)]


def order_of_unmaps(recent: Path) -> None:
    for unplug in (UNPLUG, UNPLUG_ALL, {"op": "system_reset"}):
        their, our = _calls(recent, PLUG, unplug)
        assert [call[:2] for call in their[4:]] == [[0, "unmap"], [1, "unmap"]]
        assert [call[:2] for call in our[4:]] == [[1, "unmap"], [0, "unmap"]]


def unmap_of_nothing(recent: Path) -> None:
    their, our = _calls(recent, REFUSE_SECOND, PLUG)
    maps = [[0, "map", *FIRST], [0, "map", *SECOND], [1, "map", *FIRST, errno.ENOMEM]]
    assert their == [*maps, [1, "unmap", *BOTH], [0, "unmap", *BOTH], [1, "unmap", *BOTH]]
    assert our == [*maps, [0, "unmap", *BOTH]]


def discard_before_unmap(recent: Path) -> None:
    """What the memory holds at the moment of the unmap: the device may write to it until then."""
    seen: list[int] = []
    with closing(QemuMappers(recent, INIT)) as qemu, closing(OurDevice(INIT)) as ours:
        for player in (qemu, ours):
            player.play(PLUG)
        memory = ours.player.memory

        def look() -> None:
            seen.extend(int.from_bytes(memory.read(offset, 8), "little") for offset in (0, BLOCK))

        with _before_unmaps(ours, look):
            assert ours.play(UNPLUG) == qemu.play(UNPLUG)
        assert [int.from_bytes(content, "little") for content in qemu.watchers[0].unmapped] == [0, 0]
    assert seen == [1, 2]


def failed_unmap(recent: Path) -> None:
    def refuse() -> None:
        raise OSError(errno.EIO, "refused")

    with closing(QemuMappers(recent, INIT)) as qemu, closing(OurDevice(INIT)) as ours:
        for player in (qemu, ours):
            player.play(PLUG)
        qemu.watchers[0].unmap_refusal = errno.EIO
        with _before_unmaps(ours, refuse):
            our, their = ours.play(UNPLUG), qemu.play(UNPLUG)
        assert their is not None
        assert their.response == bytes(Response(ResponseType.ACK))
        assert their.fields["plugged_size"] == 0
        assert our.response == bytes(Response(ResponseType.BUSY))
        assert our.fields["plugged_size"] == 2 * BLOCK
        assert ours.play(UNPLUG).response == bytes(Response(ResponseType.ACK))


def failed_join(recent: Path) -> None:
    """Two runs of blocks are plugged, and the newcomer's second map is refused."""
    far = request(RequestType.PLUG, 8, 1)
    region, calls = Run(ADDRESS, 1 << 30), DmaLog()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as cleanup:
        watcher = DmaWatcher(Path(directory, "socket"), 0, region, calls)
        cleanup.callback(watcher.close)
        slot = ("-device", "pcie-root-port,id=late-slot,slot=1,chassis=1")
        qemu = cleanup.enter_context(closing(QemuDevice(recent, INIT, slot, shared=True)))
        for line in (PLUG, far):
            qemu.play(line)
        calls.refuse_map(0, 1, errno.ENOMEM)
        qemu.plug_in("vfio-user-pci", "late-slot", socket={"type": "unix", "path": str(watcher.path)})
    far_block = (ADDRESS + 8 * BLOCK, BLOCK)
    maps = [[0, "map", *FIRST], [0, "map", *SECOND, errno.ENOMEM]]
    assert [call.as_list() for call in calls.take()] == [*maps, [0, "map", *far_block]]

    kernel = LoggedKernel(1, calls)
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, 1 << 30, kernel=kernel) as memory,
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=1 << 30, prealloc=False) as device,
        Container(kernel=kernel) as container,
        DmaMapper(container) as mapper,
    ):
        for line in (PLUG, far):
            device.handle(octets(line))
        container.open_group(0)
        kernel.watch(container.fd, 0)
        calls.forget_refusals()
        calls.refuse_map(0, 1, errno.ENOMEM)
        with pytest.raises(MemoryUnavailable):
            device.discards.register(mapper, device.section)
        assert [call.as_list() for call in calls.take()] == [*maps, [0, "unmap", *FIRST]]
        assert container.mapping_count == 0


EXAMPLES: dict[Difference, Callable[[Path], None]] = {
    Difference.ORDER_OF_LISTENERS: order_of_listeners,
    Difference.ORDER_OF_UNMAPS: order_of_unmaps,
    Difference.UNMAP_OF_NOTHING: unmap_of_nothing,
    Difference.DISCARD_BEFORE_UNMAP: discard_before_unmap,
    Difference.FAILED_UNMAP: failed_unmap,
    Difference.FAILED_JOIN: failed_join,
}


def test_every_difference_has_an_example() -> None:
    assert tuple(EXAMPLES) == IN_MAPPINGS


@pytest.mark.parametrize("difference", EXAMPLES, ids=lambda difference: difference.value)
def test_a_difference_on_purpose_is_one(recent: Path, difference: Difference) -> None:
    EXAMPLES[difference](recent)


@contextmanager
def _before_unmaps(ours: OurDevice, action: Callable[[], None]) -> Iterator[None]:
    """Let action happen before each UNMAP_DMA of our device's mappers, or instead of it if it raises."""
    kernel = ours.player.kernel
    ioctl = kernel.ioctl

    def watched(fd: int, request: int, argument: IoctlArgument = 0) -> int:
        if isinstance(argument, vfio.vfio_iommu_type1_dma_unmap):
            action()
        return ioctl(fd, request, argument)

    with patch.object(kernel, "ioctl", watched):
        yield


def _calls(recent: Path, *lines: Line, reverse: bool = True) -> tuple[list[Call], list[Call]]:
    """What QEMU and we map and unmap for two mappers."""
    init = {**INIT, "mappers": 2}
    with closing(QemuMappers(recent, init, reverse=reverse)) as qemu, closing(OurDevice(init)) as ours:
        our: list[Call] = []
        for line in lines:
            qemu.play(line)
            ours.play(line)
            our += ours.step["dma"]
        return qemu.take_calls(), our
