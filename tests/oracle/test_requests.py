"""Every answer, every config field and the broken flag, beside QEMU's virtio-mem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyvfio.errors import InvalidArgument
from pyvfio.memory import Memory, MemoryKind
from tests.oracle import campaign
from tests.oracle.comparison import compare_requests
from tests.oracle.differences import IN_ANSWERS, Difference
from tests.oracle.emulator import version
from tests.oracle.lines import ADDRESS, BLOCK, INIT, MIB, STEPS, request
from tests.oracle.observation import Line
from tests.oracle.ours import OurDevice
from tests.oracle.qemu_device import QemuDevice
from tests.oracle.virtio_pci import VERSION_1
from virtiomem import abi
from virtiomem.device import Feature, FeaturesRefused, RequestType, ResponseType, VirtioMem

SEQUENCES = {"machine": 300, "recent": 100}
FEW = 8


def test_random_sequences(judge: Path, judge_name: str, fast: bool) -> None:
    sequences = FEW if fast else SEQUENCES[judge_name]
    result = campaign.requests(judge, seed=0, sequences=sequences, steps=STEPS)
    print(result)
    if fast:
        return
    asked = {RequestType.PLUG: "ACK NACK BUSY ERROR", RequestType.UNPLUG: "ACK BUSY ERROR"}
    asked |= {RequestType.UNPLUG_ALL: "ACK BUSY", RequestType.STATE: "ACK ERROR"}
    for kind, answers in asked.items():
        for answer in [*answers.split(), "broken"]:
            assert result.answers[kind.name, answer], f"no {kind.name} was answered {answer}"
    assert result.answers["malformed", "broken"]
    assert result.answers["resize", "refused"]


ORDER_OF_CHECKS = [
    (request(RequestType.PLUG, 4, 253), ResponseType.NACK),
    (request(RequestType.PLUG, 0, 253), ResponseType.NACK),
    (request(RequestType.PLUG, 300, 257), ResponseType.ERROR),
    (request(RequestType.PLUG, 3, 2), ResponseType.ERROR),
    (request(RequestType.UNPLUG, 3, 2), ResponseType.ERROR),
    (request(RequestType.PLUG, 8, 1), ResponseType.BUSY),
    (request(RequestType.UNPLUG, 0, 1), ResponseType.BUSY),
    (request(RequestType.UNPLUG_ALL), ResponseType.BUSY),
    (request(RequestType.STATE, 0, 4), ResponseType.ACK),
    (request(RequestType.STATE, 512, 1), ResponseType.ERROR),
]


def test_every_other_refusal_wins_over_busy(judge: Path) -> None:
    lines = [INIT, request(RequestType.PLUG, 0, 4), {"op": "migrating", "on": True}]
    result = compare_requests([*lines, *(line for line, _ in ORDER_OF_CHECKS)], judge)
    assert result.disagreement is None
    assert not result.differences
    assert result.steps == 2 + len(ORDER_OF_CHECKS)
    ours = OurDevice(INIT)
    for line in lines[1:]:
        ours.play(line)
    answers = [ours.play(line).response for line, _ in ORDER_OF_CHECKS]
    assert [answer and answer[0] for answer in answers] == [expected for _, expected in ORDER_OF_CHECKS]
    ours.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_size": 3 * MIB},
        {"block_size": MIB // 2},
        {"block_size": 0},
        {"addr": ADDRESS + MIB},
        {"region_size": 1023 * MIB},
        {"requested_size": MIB},
        {"requested_size": BLOCK - 1},
    ],
    ids=str,
)
def test_a_device_that_cannot_be_is_refused_by_both(judge: Path, wrong: Line) -> None:
    init = {**INIT, **wrong}
    with pytest.raises(InvalidArgument):
        OurDevice(init)
    with pytest.raises(OSError, match="ended"):
        QemuDevice(judge, init)


def test_a_driver_that_may_read_unplugged_memory_is_refused_by_both(judge: Path) -> None:
    assert _negotiate(judge, Feature(0)) == (False, False)
    assert _negotiate(judge, Feature.UNPLUGGED_INACCESSIBLE) == (True, True)


def unplug_all_of_nothing(judge: Path) -> None:
    """Seen in the answer to a request, and after a reset in the usable region."""
    before = [INIT, {"op": "resize", "requested_size": BLOCK}, {"op": "migrating", "on": True}]
    for line in (request(RequestType.UNPLUG_ALL), {"op": "system_reset"}):
        result = compare_requests([*before, line], judge)
        assert result.disagreement is None
        assert result.differences == ({Difference.UNPLUG_ALL_OF_NOTHING: 1} if version(judge) < (8, 1) else {})


def requested_size_at_start(judge: Path) -> None:
    init = {**INIT, "requested_size": 2048 * MIB}
    with pytest.raises(InvalidArgument):
        OurDevice(init)
    qemu = QemuDevice(judge, init)
    assert abi.virtio_mem_config.from_buffer_copy(qemu.config).requested_size == 2048 * MIB
    qemu.close()


def features_not_offered(judge: Path) -> None:
    assert _negotiate(judge, Feature.UNPLUGGED_INACCESSIBLE | 1 << 23) == (False, True)


EXAMPLES: dict[Difference, Callable[[Path], None]] = {
    Difference.UNPLUG_ALL_OF_NOTHING: unplug_all_of_nothing,
    Difference.REQUESTED_SIZE_AT_START: requested_size_at_start,
    Difference.FEATURES_NOT_OFFERED: features_not_offered,
}


def test_every_difference_has_an_example() -> None:
    assert tuple(EXAMPLES) == IN_ANSWERS


@pytest.mark.parametrize("difference", EXAMPLES, ids=lambda difference: difference.value)
def test_a_difference_on_purpose_is_one(judge: Path, difference: Difference) -> None:
    EXAMPLES[difference](judge)


def _negotiate(judge: Path, features: int) -> tuple[bool, bool]:
    """Whether we, and QEMU, accept a driver with these features."""
    with (
        Memory.allocate(MemoryKind.ANONYMOUS, BLOCK) as memory,
        VirtioMem(memory, address=ADDRESS, block_size=BLOCK) as ours,
    ):
        try:
            ours.negotiate(features | VERSION_1)
        except FeaturesRefused:
            accepted = False
        else:
            accepted = True
    qemu = QemuDevice(judge, INIT)
    sticks = qemu.pci.negotiate(features | VERSION_1)
    qemu.close()
    return accepted, sticks
