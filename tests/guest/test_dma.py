"""A device does DMA where a real guest has its memory: in a simulated container, and in a real one in a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vmlib.hardware import Hardware
from vmlib.kernels import Image
from vmlib.machine import ROOT, Machine

from pyvfio.drivers.edu import edu_addresses
from pyvfio.sim import SimKernel
from tests.support.guest import dma


def test_in_a_simulated_container(
    kernel_image: Callable[[str], Image], tmp_path: Path, say: Callable[[str], None]
) -> None:
    kernel = SimKernel(edu_devices=1)
    dma.drive(kernel, edu_addresses(kernel)[0], kernel_image("debian-7"), tmp_path, say)


def test_in_a_real_container(kernel_image: Callable[[str], Image], say: Callable[[str], None]) -> None:
    """A guest in the guest, our server and the kernel's own VFIO beside it."""
    kernel_image("debian-6.1")
    hardware = Hardware(cpu="EPYC,+svm", cpus=2, memory=3072, edu=1, parts=())
    machine = Machine(kernel_image("stock"), hardware, timeout=900)
    output, errors = bytearray(), bytearray()
    status = machine.run(
        ["python", "-m", "tests.support.guest.dma", "debian-6.1"],
        {"stdout": output.extend, "stderr": errors.extend},
        {"PYTHONPATH": str(ROOT / "tools")},
    )
    for line in output.decode().splitlines():
        say(line)
    assert status == 0, errors.decode()
    # Of both writes to unplugged blocks; a kernel that is short of breath may skip a line.
    assert "DMA Write" in machine.log
