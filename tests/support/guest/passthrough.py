r"""A guest that drives an NVMe disk while its memory grows and shrinks: both are served to a QEMU that has no right to
either, and the disk reaches what the guest boots from and what it has plugged, and nothing else.

As a program it does so in the test machine, with the kernel's own VFIO, a real disk and a guest in the guest:
tools/vm --memory 3072 --cpus 2 --cpu EPYC,+svm --timeout 1200 -- \
    env PYTHONPATH=tools python -m tests.support.guest.passthrough KERNEL
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vmlib.guest import RAM, Guest
from vmlib.kernels import Image, image

from pyvfio import Container, Kernel, LinuxKernel
from pyvfio.host import bind
from tests.support.guest.view import total
from virtiomem import Run
from virtiomem.manager import Server
from virtiomem.passthrough import PassthroughOptions, qemu_option
from virtiomem.runs import union
from virtiomem.spaces import SpaceOptions
from virtiomem.vhost_user import ServedRegionOptions

MIB = 1 << 20
BLOCK = 2 * MIB
ADDRESS = 1 << 32
SIZE = 1 << 30
PATIENCE = 300.0
"""Seconds for what a guest does."""
SECTORS = 512
"""Of 4 KiB, which are written and read."""


class Stage:
    """The server of a guest's memory and of its disk."""

    def __init__(
        self, stack: ExitStack, kernel: Kernel, address: str, directory: Path, say: Callable[[str], None]
    ) -> None:
        """address: of the disk, bound to VFIO."""
        self.address = address
        self.say = say
        self.disk, self.memory = str(directory / "disk"), str(directory / "memory")
        # A file of the host's, which outlives a virtual machine.
        self._file = os.memfd_create("region", os.MFD_CLOEXEC)
        stack.callback(os.close, self._file)
        os.ftruncate(self._file, SIZE)
        self.server = stack.enter_context(Server(str(directory / "control"), lambda: None, kernel=kernel, say=say))
        space = self.server.add_space(SpaceOptions((address,), name="guest"))
        assert isinstance(space.space, Container)
        self.container = space.space
        self.region = self.server.add_region(
            ServedRegionOptions(self.memory, "memory", ADDRESS, SIZE, BLOCK, reclaim_interval=None)
        )
        self.device = self.server.pass_device(PassthroughOptions(address, self.disk))

    @contextmanager
    def guest(self, guest_image: Image, **options: object) -> Iterator[Guest]:
        """One that has booted, and has found its disk."""
        backend = f"memory-backend-file,mem-path=/proc/{os.getpid()}/fd/{self._file}"
        with Guest(
            guest_image,
            self.memory,
            ADDRESS,
            SIZE,
            backend=backend,
            devices=[qemu_option(self.disk)],
            modules=["nvme"],
            **options,  # type: ignore[arg-type]
        ) as guest:
            guest.wait_until_booted()
            self.await_disk(guest)
            yield guest

    def await_disk(self, guest: Guest) -> None:
        guest.run("for i in $(seq 600); do [ -b /dev/nvme0n1 ] && break; sleep 0.1; done; [ -b /dev/nvme0n1 ]")

    def reach(self, guest: Guest, size: int) -> None:
        """Have the guest plug or unplug, and all agree: the device, the container, and the guest."""
        before = total(guest) - self.region.managed.device.plugged_size
        self.region.managed.device.resize(size)
        self.wait_for(f"{size >> 20} MiB plugged", lambda: self.region.managed.device.plugged_size == size)
        self.wait_for(f"{size >> 20} MiB more in MemTotal", lambda: total(guest) == before + size)
        self.expect_mirrored()

    def expect_mirrored(self) -> None:
        """What is mapped is all of what the guest boots from, and its plugged blocks, one by one."""
        runs = [Run(run.iova, run.size) for run in self.container.mappings()]
        region = [run for run in runs if run.start >= ADDRESS]
        assert union(region) == union(self.region.managed.device.plugged_runs)
        mappings = sum(run.mappings for run in self.container.mappings() if run.iova >= ADDRESS)
        assert mappings * BLOCK == self.region.managed.device.plugged_size
        boot = sum(run.size for run in runs if run.start < ADDRESS)
        # Firmware has a file of its own.
        assert RAM * MIB <= boot <= RAM * MIB + MIB, hex(boot)
        assert self.device.status.unmapped == 0
        self.say(f"mapped: {boot >> 20} MiB of boot memory, {mappings} blocks")

    def write_and_read(self, guest: Guest, name: str) -> None:
        """Through the disk and back, past the guest's page cache: what comes is what went."""
        size = f"bs=4k count={SECTORS}"
        guest.run("[ -d /data ] || { mkdir /data && mount -t tmpfs -o size=90% data /data; }")
        guest.run(f"dd if=/dev/urandom of=/data/{name} {size} 2>/dev/null")
        guest.run(f"dd if=/data/{name} of=/dev/nvme0n1 oflag=direct {size} 2>/dev/null")
        guest.run(f"dd if=/dev/nvme0n1 of=/data/back iflag=direct {size} 2>/dev/null; cmp /data/{name} /data/back")

    def wait_for(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, f"{what}: it does not come about"
            time.sleep(0.02)


def drive(
    kernel: Kernel, address: str, guest_image: Image, directory: Path, say: Callable[[str], None], **options: object
) -> None:
    """address: of an NVMe disk bound to VFIO, whose content is lost. options: of the guest. Raises AssertionError."""
    with ExitStack() as stack:
        stage = Stage(stack, kernel, address, directory, say)
        with stage.guest(guest_image, **options) as guest:
            stage.expect_mirrored()
            stage.write_and_read(guest, "first")
            for size in (512, 128, 256):
                _work_beside(stage, guest, size * MIB)
            say("the guest wrote and read its disk while it plugged and unplugged")
            guest.reboot()
            stage.await_disk(guest)
            stage.wait_for("plugged again", lambda: stage.region.managed.device.plugged_size == 256 * MIB)
            stage.expect_mirrored()
            stage.write_and_read(guest, "after")
            say("and after a reboot")
            stage.reach(guest, 128 * MIB)
            guest.kill()
        stage.wait_for("the end of the session", lambda: not stage.device.status.connected)
        assert not any(run.iova < ADDRESS for run in stage.container.mappings())
        assert not stage.device.device.config.bus_master
        say("QEMU was killed: the disk is stopped, and nothing of its boot memory is mapped")
        with stage.guest(guest_image, **options) as guest:
            stage.wait_for("plugged again", lambda: stage.region.managed.device.plugged_size == 128 * MIB)
            stage.expect_mirrored()
            stage.write_and_read(guest, "second")
            say("a second QEMU goes on at the same sockets")


def _work_beside(stage: Stage, guest: Guest, size: int) -> None:
    """Resize while the disk is written and read."""
    guest.run("(while [ ! -e /data/stop ]; do dd if=/data/first of=/dev/nvme0n1 oflag=direct bs=4k 2>/dev/null; done; "
              "touch /data/stopped) &")  # fmt: skip
    stage.reach(guest, size)
    guest.run("touch /data/stop; for i in $(seq 3000); do [ -e /data/stopped ] && break; sleep 0.1; done; "
              "rm /data/stop /data/stopped")  # fmt: skip
    stage.write_and_read(guest, "first")


def main() -> None:
    kernel = LinuxKernel()
    disk = next(path.name for path in Path("/sys/bus/pci/devices").iterdir() if _is_disk(path))
    bind(kernel, disk)
    with tempfile.TemporaryDirectory() as directory:
        drive(
            kernel,
            disk,
            image(sys.argv[1]),
            Path(directory),
            lambda line: print(line, flush=True),
            accelerator="kvm",
            cpu="qemu64,+rdrand",
        )


def _is_disk(path: Path) -> bool:
    return path.joinpath("class").read_text().strip() == "0x010802" and not path.joinpath("physfn").exists()


if __name__ == "__main__":
    main()
