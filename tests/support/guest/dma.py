"""A guest, our server and a device beside it: the device writes where the guest's memory is, and nowhere else.

As a program it does so in the test machine, with the kernel's own VFIO and a guest in the guest.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from vmlib.guest import Guest
from vmlib.kernels import Image, image

from pyvfio import Container, Kernel, LinuxKernel, Memory, MemoryKind
from pyvfio.drivers.edu import Edu
from tests.support.guest.stage import ADDRESS, Stage
from virtiomem import DmaMapper
from virtiomem.stand_in import demo

MIB = 1 << 20
BLOCK = 2 * MIB
PAGE = 4096
TRANSFER = 2048
STAGING = 0x1000_0000
PATTERN = b"written by the guest, page %04d."


def drive(
    kernel: Kernel, address: str, guest_image: Image, directory: Path, say: Callable[[str], None], **options: object
) -> None:
    """address: of an edu device bound to vfio-pci. options: of the guest. Raises AssertionError."""
    with (
        Stage(directory, say, kernel=kernel) as stage,
        Container(kernel=kernel) as container,
        Memory.allocate(MemoryKind.ANONYMOUS, PAGE, kernel=kernel) as staging,
        DmaMapper(container) as mapper,
        Edu(container.open_device(address)) as engine,
    ):
        staging.populate(0, PAGE)
        container.map_dma(STAGING, staging, 0, PAGE)
        stage.device.discards.register(mapper, stage.device.section)
        with stage.guest(guest_image, **options) as guest:
            stage.reach(guest, 384 * MIB)
            _expect_mirrored(stage, container, say)
            places = _find_pages(stage, guest)
            for number, offset in enumerate(places):
                engine.fetch(ADDRESS + offset, TRANSFER)
                engine.store(STAGING, TRANSFER)
                assert staging.read(0, TRANSFER) == _page(number)[:TRANSFER], "the device read something else"
                staging.write(0, b"the device" * 200)
                engine.fetch(STAGING, TRANSFER)
                engine.store(ADDRESS + offset, TRANSFER)
            say(f"{address} read and wrote {len(places)} pages of a guest's file at {', '.join(map(hex, places))}")
            seen = guest.run("for page in /data/*; do head -c 20 $page; echo; done").split("\n")[: len(places)]
            assert seen == ["the devicethe device"] * len(places), "the guest sees something else in its file"
            guest.run("rm /data/*")
            stage.reach(guest, 128 * MIB)
            _expect_mirrored(stage, container, say)
            for offset in (128 * MIB, 384 * MIB - BLOCK):
                engine.store(ADDRESS + offset, TRANSFER)
            stage.check_memory()
            say("two writes to unplugged blocks changed nothing")
            stage.reach(guest, 0)
            _expect_mirrored(stage, container, say)
        stage.device.discards.unregister(mapper)
        container.unmap_all()


def _expect_mirrored(stage: Stage, container: Container, say: Callable[[str], None]) -> None:
    """What the container has of the region is what is plugged, in one mapping for each block."""
    held = [run for run in container.mappings() if run.memory is stage.memory]
    plugged = [(run.start, run.size) for run in stage.device.plugged_runs]
    assert [(run.iova, run.size) for run in held] == plugged
    mappings = sum(run.mappings for run in held)
    assert mappings * BLOCK == stage.device.plugged_size
    say(f"the container has {mappings} mappings of {BLOCK // MIB} MiB, just where blocks are plugged")


def _find_pages(stage: Stage, guest: Guest) -> list[int]:
    """Files of one page each, which the guest writes, and where they lie in the region."""
    guest.run("mkdir /data; mount -t tmpfs data /data")
    for number in range(4):
        text = (PATTERN % number).decode()
        guest.run(f"for i in $(seq {PAGE // len(text)}); do echo -n '{text}'; done > /data/{number}")
    return [_find(stage, _page(number)) for number in range(4)]


def _find(stage: Stage, page: bytes) -> int:
    for run in stage.device.plugged_runs:
        for offset in range(run.start - ADDRESS, run.end - ADDRESS, PAGE):
            if stage.memory.read(offset, 16) == page[:16] and stage.memory.read(offset, PAGE) == page:
                return offset
    raise AssertionError("the guest's file is not in the region")


def _page(number: int) -> bytes:
    return (PATTERN % number) * (PAGE // len(PATTERN % number))


def main() -> None:
    kernel = LinuxKernel()
    with demo.found_devices(kernel, ["auto"]) as devices, tempfile.TemporaryDirectory() as directory:
        drive(
            kernel,
            devices[0],
            image(sys.argv[1]),
            Path(directory),
            lambda line: print(line, flush=True),
            accelerator="kvm",
            cpu="qemu64,+rdrand",
        )


if __name__ == "__main__":
    main()
