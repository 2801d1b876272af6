"""Every DMA map and unmap, beside those QEMU makes for its virtio-mem."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.oracle import campaign
from tests.oracle.conftest import available
from tests.oracle.differences import Difference
from tests.oracle.mappings import Call, QemuMappers
from tests.oracle.observation import Line
from tests.oracle.ours import OurDevice
from tests.oracle.test_requests import ADDRESS, BLOCK, INIT, STEPS, request
from virtiomem.requests import RequestType

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


EXAMPLES: dict[Difference, Callable[[Path], None]] = {
    Difference.ORDER_OF_LISTENERS: order_of_listeners,
    Difference.ORDER_OF_UNMAPS: order_of_unmaps,
    Difference.UNMAP_OF_NOTHING: unmap_of_nothing,
}


@pytest.mark.parametrize("difference", EXAMPLES, ids=lambda difference: difference.value)
def test_a_difference_on_purpose_is_one(recent: Path, difference: Difference) -> None:
    EXAMPLES[difference](recent)


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
