"""A stock Linux, with its own virtio_mem driver, plugs and unplugs this device's blocks."""

from __future__ import annotations

import base64
import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from vmlib.guest import Guest
from vmlib.kernels import Image

from pyvfio import VfioError
from tests.support.guest import core_header
from tests.support.guest.stage import ADDRESS, SIZE, Stage
from virtiomem import BlockState, RequestType, ResponseType, Section

MIB = 1 << 20
DATA = 256
"""MiB that the guest writes."""
ACK, NACK, BUSY, ERROR = ResponseType
PLUG, UNPLUG, UNPLUG_ALL, STATE = RequestType

Stages = Callable[..., Stage]
Images = Callable[[str], Image]


def assert_healthy(stage: Stage) -> None:
    """No answer that a guest would give up for, or spin on."""
    assert {response.type for _, response in stage.exchanges} == {ACK}
    assert not [word for word in stage.words if word.startswith(("broken", "refused"))]


@pytest.mark.parametrize(("kernel", "packed"), [("debian-6.1", False), ("debian-7", True)])
def test_memory_comes_is_used_and_goes(stage: Stages, kernel_image: Images, kernel: str, packed: bool) -> None:
    scene = stage(packed=packed)
    with scene.guest(kernel_image(kernel)) as guest:
        for size in (128, 258, 640, 1024):
            scene.reach(guest, size * MIB)
        checksum = write_data(guest)
        assert scene.memory.resident(0, 1024 * MIB) > DATA * MIB
        moved = migrated(guest)
        scene.reach(guest, DATA // 2 * MIB)
        assert guest.run("md5sum < /data/file").split()[0] == checksum
        assert migrated(guest) - moved > DATA // 2 * MIB // 4096
        guest.run("rm /data/file")
        scene.reach(guest, 0)
        scene.reach(guest, 384 * MIB)
        reboot(scene, guest)
        scene.reach(guest, 0)
    assert_healthy(scene)


def write_data(guest: Guest, size: int = DATA) -> str:
    """As many MiB, a multiple of 8, which go to the region's memory first; their checksum."""
    guest.run("mkdir /data; mount -t tmpfs -o size=90% data /data")
    guest.run("dd if=/dev/urandom of=/data/piece bs=1M count=8 2>&1")
    guest.run(f"for i in $(seq {size // 8}); do cat /data/piece; done > /data/file; rm /data/piece")
    return guest.run("md5sum < /data/file").split()[0]


def migrated(guest: Guest) -> int:
    return int(guest.run("grep pgmigrate_success /proc/vmstat").split()[1])


def reboot(scene: Stage, guest: Guest) -> None:
    """With memory plugged: the driver unplugs it all before it plugs what is asked for."""
    before, first = scene.device.plugged_size, len(scene.exchanges)
    assert before
    guest.reboot()
    scene.wait_for("a request after the reboot", lambda: len(scene.exchanges) > first)
    assert scene.exchanges[first][0].type is UNPLUG_ALL
    # What it reads after that.
    scene.arrive(guest, 0, first)


@pytest.mark.parametrize(
    ("kernel", "block_size", "requests"),
    [("debian-6.1", 4, {32}), ("debian-7", 128, {1}), ("debian-6.1", 256, {1})],
)
def test_block_sizes(stage: Stages, kernel_image: Images, kernel: str, block_size: int, requests: set[int]) -> None:
    """requests: how many blocks the driver plugs at a time."""
    scene = stage(block_size=block_size * MIB)
    with scene.guest(kernel_image(kernel)) as guest:
        for size in (256, 1024, 512, 0, 256):
            scene.reach(guest, size * MIB)
    assert_healthy(scene)
    assert {request.nb_blocks for request, _ in scene.exchanges if request.type is PLUG} == requests
    assert all(request.addr >= ADDRESS for request, _ in scene.exchanges)


class Refuser:
    """A listener that lets nothing be mapped while refuses is set."""

    name = "refuser"
    refuses = True

    def accept(self, section: Section, granularity: int) -> None:
        """Any will do."""

    def populate(self, section: Section, granularity: int) -> None:
        if self.refuses:
            raise VfioError(errno.ENOMEM, f"map {section}", {"granularity": granularity})

    def discard(self, section: Section) -> None:
        """Nothing is held."""

    def discarded(self, section: Section) -> None:
        """Nothing to do."""


def test_a_guest_waits_while_the_device_is_busy_and_goes_on_by_itself(stage: Stages, kernel_image: Images) -> None:
    """Linux asks again after 50 seconds."""
    scene = stage()
    refuser = Refuser()
    scene.device.discards.register(refuser, scene.device.section)
    with scene.guest(kernel_image("debian-7")) as guest:
        scene.device.resize(256 * MIB)
        scene.wait_for("a refusal", lambda: scene.answers(PLUG) == [BUSY])
        told = scene.words.count("told of a change")
        guest.run("sleep 2")
        assert scene.answers(PLUG) == [BUSY]
        assert scene.device.plugged_size == 0
        refuser.refuses = False
        scene.arrive(guest, 0, 0)
        assert scene.words.count("told of a change") == told
        refuser.refuses = True
        scene.device.resize(512 * MIB)
        scene.wait_for("another refusal", lambda: scene.answers(PLUG)[-1] is BUSY)
        refuser.refuses = False
        # A change is reason enough to ask at once.
        scene.reach(guest, 384 * MIB)
    scene.device.discards.unregister(refuser)
    assert set(scene.counted()) == {"PLUG ACK", "PLUG BUSY"}


def test_the_memory_of_a_crashed_guest_is_dumped(stage: Stages, kernel_image: Images, tmp_path: Path) -> None:
    """QEMU dies, and one with the same memory comes, whose kernel takes over as after a crash: blocks and content are
    still there. Its driver asks for the state of blocks before it reads any, and for nothing else."""
    scene = stage()
    with scene.guest(kernel_image("debian-7")) as guest:
        scene.reach(guest, 256 * MIB)
        write_data(guest, 64)
        guest.kill()
        scene.wait_for("the front end to go", lambda: scene.words[-1].startswith("disconnected"))
    assert scene.device.plugged_size == 256 * MIB
    first = len(scene.exchanges)
    unplugged = 384 * MIB
    scene.memory.write(unplugged, b"left over")
    header = tmp_path / "header"
    header.write_bytes(core_header.core_header(ADDRESS, SIZE))
    loader = f"loader,file={header},addr={core_header.ADDRESS:#x},force-raw=on"
    with scene.guest(kernel_image("debian-7"), append=core_header.ARGUMENTS, devices=[loader]) as dumper:
        start = core_header.load_offset(vmcore(dumper, 0))
        pages = [vmcore(dumper, start + offset) for offset in range(0, 256 * MIB, 16 * MIB)]
        assert pages == [scene.memory.read(offset, 4096) for offset in range(0, 256 * MIB, 16 * MIB)]
        assert any(any(page) for page in pages)
        assert vmcore(dumper, start + unplugged) == bytes(4096)
    scene.memory.discard(unplugged, 2 * MIB)
    assert set(scene.counted(first)) == {"STATE ACK"}
    states = {(request.addr, response.state) for request, response in scene.exchanges[first:]}
    assert (ADDRESS, BlockState.PLUGGED) in states
    assert (ADDRESS + unplugged, BlockState.UNPLUGGED) in states
    assert scene.words.count(f"attached {SIZE:#x}") == 1


def vmcore(guest: Guest, offset: int) -> bytes:
    """A page of the dump."""
    text = guest.run(f"dd if=/proc/vmcore bs=4096 count=1 skip={offset // 4096} 2> /dev/null | base64")
    return base64.b64decode(text)
