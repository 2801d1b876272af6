"""An unmodified guest drives a disk while its memory grows and shrinks, in a QEMU that has no right to either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vmlib.hardware import Hardware
from vmlib.kernels import Image
from vmlib.machine import ROOT, Machine

from pyvfio.sim import SimKernel
from pyvfio.sim.devices import VFIO_DRIVER, Bus, Nvme, PciFunction
from tests.support.guest import passthrough

DISK = "0000:00:10.0"


class Log:
    """Where a disk reads and writes memory."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.writes: list[int] = []

    def disk(self, bus: Bus) -> Nvme:
        return Nvme(Bus(lambda *call: self._read(bus, *call), lambda *call: self._write(bus, *call), bus.interrupt))

    def _read(self, bus: Bus, address: int, size: int) -> bytes | None:
        self.reads.append(address)
        return bus.read(address, size)

    def _write(self, bus: Bus, address: int, data: bytes) -> bool:
        self.writes.append(address)
        return bus.write(address, data)


def test_a_simulated_disk(kernel_image: Callable[[str], Image], tmp_path: Path, say: Callable[[str], None]) -> None:
    log = Log()
    kernel = SimKernel(host_huge_pages=False)
    kernel.add(PciFunction(DISK, 90, driver=VFIO_DRIVER, model=log.disk))
    passthrough.drive(kernel, DISK, kernel_image("debian-7"), tmp_path, say)
    for what, addresses in (("read", log.reads), ("wrote", log.writes)):
        plugged = sum(address >= passthrough.ADDRESS for address in addresses)
        say(f"the disk {what} boot memory {len(addresses) - plugged} times, plugged blocks {plugged} times")
        assert 0 < plugged < len(addresses)


def test_a_real_disk(kernel_image: Callable[[str], Image], say: Callable[[str], None]) -> None:
    """A guest in the guest, our server, the kernel's own VFIO and a disk with registers that QEMU maps."""
    kernel_image("debian-6.1")
    hardware = Hardware(cpu="EPYC,+svm", cpus=2, memory=3072, edu=0, parts=("nvme",))
    machine = Machine(kernel_image("stock"), hardware, timeout=1200)
    output, errors = bytearray(), bytearray()
    status = machine.run(
        ["python", "-m", "tests.support.guest.passthrough", "debian-6.1"],
        {"stdout": output.extend, "stderr": errors.extend},
        {"PYTHONPATH": str(ROOT / "tools")},
    )
    for line in output.decode().splitlines():
        say(line)
    assert status == 0, errors.decode()
