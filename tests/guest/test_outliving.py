"""A stock guest goes on plugging while servers are killed, beside a simulated container and a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vmlib.hardware import Hardware
from vmlib.kernels import Image
from vmlib.machine import ROOT, Machine

from tests.support.guest import outliving


def test_beside_a_simulated_container(
    kernel_image: Callable[[str], Image], tmp_path: Path, say: Callable[[str], None]
) -> None:
    outliving.drive(None, kernel_image("debian-7"), tmp_path, say, 6)


def test_beside_a_real_container(kernel_image: Callable[[str], Image], say: Callable[[str], None]) -> None:
    """A guest in the guest, our servers and the kernel's own VFIO beside it."""
    kernel_image("debian-6.1")
    hardware = Hardware(cpu="EPYC,+svm", cpus=2, memory=3072, edu=1, parts=())
    machine = Machine(kernel_image("stock"), hardware, timeout=1200)
    output, errors = bytearray(), bytearray()
    status = machine.run(
        ["python", "-m", "tests.support.guest.outliving", "debian-6.1", "3"],
        {"stdout": output.extend, "stderr": errors.extend},
        {"PYTHONPATH": str(ROOT / "tools")},
    )
    for line in output.decode().splitlines():
        say(line)
    assert status == 0, errors.decode()
