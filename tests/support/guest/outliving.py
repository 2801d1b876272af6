"""A stock guest goes on plugging while its server is killed, again and again; QEMU notices nothing.

As a program it does so in the test machine, with the kernel's own VFIO and a guest in the guest:
tools/vm --memory 3072 --cpu EPYC,+svm -- python -m tests.support.guest.outliving KERNEL KILLS
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vmlib.guest import Guest
from vmlib.kernels import Image, image

from pyvfio import LinuxKernel
from tests.support.guest.view import total
from tests.support.vhost_user.mortal import Mortal, mortal
from virtiomem.control import ControlClient, DeviceStatus
from virtiomem.stand_in import demo

MIB = 1 << 20
ADDRESS = 0x1_0000_0000
SIZE = 1024 * MIB
BLOCK = 2 * MIB
DATA = 48
"""MiB in a file in the guest, in the region's memory first."""
PATIENCE = 300.0


def drive(
    devices: Sequence[str] | None,
    guest_image: Image,
    directory: Path,
    say: Callable[[str], None],
    kills: int,
    **options: object,
) -> None:
    """devices: PCI addresses, bound to VFIO, whose containers everything is mapped into; None for a simulated one.
    options: of the guest. Raises AssertionError."""
    chance = random.Random(kills)
    with mortal(directory, ADDRESS, SIZE, BLOCK, keeps=True, devices=devices, requested=0) as servers:
        servers.start()
        with Guest(guest_image, servers.path, ADDRESS, SIZE, **options) as guest:  # type: ignore[arg-type]
            guest.wait_until_booted()
            base = total(guest)
            _resize(servers, 256 * MIB)
            _arrive(servers, guest, base, 256 * MIB)
            guest.run("mkdir /data; mount -t tmpfs -o size=90% data /data")
            guest.run(f"dd if=/dev/urandom of=/data/file bs=1M count={DATA} 2>&1")
            checksum = guest.run("md5sum < /data/file")
            waited = 0.0
            for kill in range(kills):
                size = chance.randrange(2 * DATA * MIB, SIZE * 3 // 4, BLOCK)
                _resize(servers, size)
                # Until somewhere in the middle of it.
                time.sleep(chance.uniform(0, 0.5))
                begun = time.monotonic()
                (servers.upgrade if devices and kill % 3 == 2 else servers.replace)()
                waited += time.monotonic() - begun
                status = _arrive(servers, guest, base, size)
                assert status.divergences == ()
                counts = [space.mappings for space in status.address_spaces]
                assert counts == [size // BLOCK], counts
                assert guest.run("md5sum < /data/file") == checksum
                say(f"kill {kill + 1}: {size // MIB} MiB = plugged = mapped = what the guest has")
            say(f"{kills} servers replaced; the next one was there in {waited / kills * 1000:.0f} ms on average")
            guest.run("rm /data/file")
            _resize(servers, 0)
            _arrive(servers, guest, base, 0)


def _resize(servers: Mortal, size: int) -> None:
    with ControlClient(servers.control) as client:
        client.resize(size)


def _arrive(servers: Mortal, guest: Guest, base: int, size: int) -> DeviceStatus:
    """Until size bytes are plugged, and the guest says so, too."""
    deadline = time.monotonic() + PATIENCE
    with ControlClient(servers.control) as client:
        revision, (status,) = client.show()
        while status.plugged_size != size:
            assert time.monotonic() < deadline, f"{status.plugged_size:#x} plugged, not {size:#x}: {status.waiting_for}"
            revision, (status,) = client.show(after=revision, timeout=5)
    while (seen := total(guest) - base) != size:
        assert time.monotonic() < deadline, f"the guest has {seen:#x}, not {size:#x}"
    return status


def main() -> None:
    with demo.found_devices(LinuxKernel(), ["auto"]) as devices, tempfile.TemporaryDirectory() as directory:
        drive(
            devices[:1],
            image(sys.argv[1]),
            Path(directory),
            lambda line: print(line, flush=True),
            int(sys.argv[2]),
            accelerator="kvm",
            cpu="qemu64,+rdrand",
        )


if __name__ == "__main__":
    main()
