"""The simulated NVMe controller, asked what Linux's driver asks: enabled, identified, used, shut down."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from examples.nvme_read_write import ADMIN, ANSWER, COMPLETIONS, DATA, DEPTH, IO, IOVA, MEBIBYTE, SUBMISSIONS, Nvme
from pyvfio import Container, Memory, MemoryKind
from pyvfio.sim import SimKernel

ADDRESS = "0000:00:03.0"
ANYWHERE = IOVA + ANSWER
EVENT, ABORT, IDENTIFY, LOG_PAGE, SET_FEATURES, GET_FEATURES = 0x0C, 0x08, 0x06, 0x02, 0x09, 0x0A


@pytest.fixture
def nvme() -> Iterator[Nvme]:
    kernel = SimKernel(devices=["nvme"])
    with (
        Container(kernel=kernel) as space,
        Memory.allocate(MemoryKind.ANONYMOUS, 2 * MEBIBYTE, kernel=kernel) as memory,
    ):
        memory.populate(0, memory.size)
        device = space.open_device(ADDRESS)
        space.map_dma(IOVA, memory, 0, memory.size)
        yield Nvme(device, memory)


def submit(nvme: Nvme, opcode: int, identifier: int, cdw10: int = 0) -> None:
    """Ring the doorbell for an admin command, and wait for nothing."""
    command = struct.pack("<BBHI32xI20x", opcode, 0, identifier, 0, cdw10)
    nvme.memory.write(SUBMISSIONS[ADMIN] + 64 * nvme.tails[ADMIN], command)
    nvme.tails[ADMIN] = (nvme.tails[ADMIN] + 1) % DEPTH
    nvme.bar.write32(0x1000, nvme.tails[ADMIN])


def completions(nvme: Nvme) -> list[tuple[int, int, int]]:
    """What has completed since the driver last looked: identifier, status and dword 0 of each."""
    found: list[tuple[int, int, int]] = []
    place = nvme.heads[ADMIN]
    while True:
        result, identifier, status = struct.unpack("<I8xHH", nvme.memory.read(COMPLETIONS[ADMIN] + 16 * place, 16))
        if status & 1 != nvme.phases[ADMIN]:
            return found
        found.append((identifier, status >> 1, result))
        place += 1


def result(nvme: Nvme) -> int:
    """Dword 0 of the last completion."""
    last = (nvme.heads[ADMIN] - 1) % DEPTH
    return int.from_bytes(nvme.memory.read(COMPLETIONS[ADMIN] + 16 * last, 4), "little")


def test_the_controller_says_what_linux_looks_for(nvme: Nvme) -> None:
    data = nvme.identify(1)
    assert int.from_bytes(data[80:84], "little") == nvme.controller.version == 0x0001_0400
    assert data[111] == 1, "an I/O controller"
    name = data[768:1024].rstrip(b"\0").decode()
    assert name.startswith("nqn.2014-08.org.nvmexpress:uuid:")
    assert data[24:64].decode().strip() == "pyvfio simulated NVMe"


def test_the_namespace_is_named_alike_in_its_structure_and_in_its_descriptors(nvme: Nvme) -> None:
    data, descriptors = nvme.identify(0, namespace=1), nvme.identify(3, namespace=1)
    names, place = {}, 0
    while size := descriptors[place + 1]:
        names[descriptors[place]] = descriptors[place + 4 : place + 4 + size]
        place += 4 + size
    assert names[1] == data[120:128] != bytes(8)
    assert names[2] == data[104:120] != bytes(16)
    assert len(names[3]) == 16


def test_the_namespaces_are_listed_from_the_one_after_the_given(nvme: Nvme) -> None:
    assert struct.unpack_from("<2I", nvme.identify(2, namespace=0)) == (1, 0)
    assert struct.unpack_from("<2I", nvme.identify(2, namespace=1)) == (0, 0)


def test_the_nvm_command_set_has_no_limits_of_its_own(nvme: Nvme) -> None:
    nvme.memory.write(ANSWER, b"\xff" * 4096)
    assert nvme.identify(6) == bytes(4096)


def test_the_health_log_has_a_temperature_and_spare(nvme: Nvme) -> None:
    nvme.run(ADMIN, LOG_PAGE, 0x02 | 127 << 16, namespace=0xFFFF_FFFF, data=ANYWHERE)
    warning, temperature, spare = struct.unpack_from("<BHB", nvme.memory.read(ANSWER, 512))
    assert (warning, spare) == (0, 100)
    assert 273 < temperature < 343


def test_a_feature_keeps_its_value_until_the_controller_is_reset(nvme: Nvme) -> None:
    nvme.run(ADMIN, SET_FEATURES, 0x0B, 0x1FF)
    nvme.run(ADMIN, GET_FEATURES, 0x0B)
    assert result(nvme) == 0x1FF
    nvme.run(ADMIN, GET_FEATURES, 0x0B | 1 << 8)
    assert result(nvme) == 0, "selected by bit 8: its value at reset"
    nvme.set_enabled(0)
    nvme.set_enabled(1, entry_sizes=6 << 16 | 4 << 20)
    nvme.tails[ADMIN], nvme.heads[ADMIN], nvme.phases[ADMIN] = 0, 0, 1
    nvme.memory.write(COMPLETIONS[ADMIN], bytes(4096))
    nvme.run(ADMIN, GET_FEATURES, 0x0B)
    assert result(nvme) == 0


def test_event_requests_are_held_up_to_four_and_can_be_aborted(nvme: Nvme) -> None:
    for identifier in range(100, 104):
        submit(nvme, EVENT, identifier)
    assert completions(nvme) == []
    submit(nvme, EVENT, 104)
    assert completions(nvme) == [(104, 0x105, 0)]
    submit(nvme, ABORT, 105, 102 << 16)
    assert completions(nvme)[1:] == [(102, 0x07, 0), (105, 0, 0)]
    submit(nvme, ABORT, 106, 102 << 16)
    assert completions(nvme)[3:] == [(106, 0, 1)], "there is no such command any more"


REFUSED = {
    "identify something else": (IDENTIFY, (0x20,), 1, 0x02),
    "identify for another command set": (IDENTIFY, (0x06, 1 << 24), 0, 0x02),
    "a namespace that is not there": (IDENTIFY, (0x00,), 2, 0x0B),
    "the descriptors of another": (IDENTIFY, (0x03,), 2, 0x0B),
    "a list after the last number": (IDENTIFY, (0x02,), 0xFFFF_FFFE, 0x0B),
    "an unknown log page": (LOG_PAGE, (0xC0,), 0, 0x109),
    "more of a log page than a transfer has": (LOG_PAGE, (0x02 | 0xFFFF << 16, 0xFFFF), 0, 0x02),
    "an unknown feature": (SET_FEATURES, (0x7F,), 0, 0x02),
    "a feature to be saved": (SET_FEATURES, (0x0B | 1 << 31,), 0, 0x10D),
    "a power state that is not there": (SET_FEATURES, (0x02, 1), 0, 0x02),
    "what is saved of a feature": (GET_FEATURES, (0x0B | 2 << 8,), 0, 0x02),
    "deleting completions that a queue uses": (0x04, (IO,), 0, 0x10C),
    "completions with a vector that is not there": (0x05, (IO + 2, 7 << 16 | 0b11), 0, 0x108),
}


@pytest.mark.parametrize(("opcode", "words", "namespace", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_by_its_status(
    nvme: Nvme, opcode: int, words: tuple[int, ...], namespace: int, status: int
) -> None:
    with pytest.raises(OSError, match=rf"status {status:#x}$"):
        nvme.run(ADMIN, opcode, *words, namespace=namespace, data=ANYWHERE)


@pytest.mark.parametrize("namespace", [0, 2])
def test_another_namespace_is_neither_read_nor_written(nvme: Nvme, namespace: int) -> None:
    for opcode in (1, 2):
        with pytest.raises(OSError, match=r"status 0xb$"):
            nvme.run(IO, opcode, 0, 0, 0, namespace=namespace, data=IOVA + DATA)


def test_a_shutdown_is_announced_and_completes(nvme: Nvme) -> None:
    nvme.controller.configuration = nvme.controller.configuration | 1 << 14
    assert nvme.controller.status >> 2 & 3 == 2
    nvme.set_enabled(0)
    assert nvme.controller.status == 0
