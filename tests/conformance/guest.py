"""Conformance runs in virtual machines."""

from __future__ import annotations

from collections.abc import Sequence

from vmlib.errors import VmError
from vmlib.hardware import IOMMUS, Hardware
from vmlib.kernels import image
from vmlib.machine import Machine

from tests.conformance.report import Report

_EDU = "edu,dma_mask=0xffffffffffffffff"
_PAIR = ("pcie-pci-bridge,id=pair", f"{_EDU},bus=pair,addr=1", f"{_EDU},bus=pair,addr=2")
_TIMEOUT = 900


def report_from(kernel: str, iommu: str, arguments: Sequence[str] = ()) -> Report:
    """Boot a kernel of the table, run the cases there, and what they found.

    arguments: of python -m tests.conformance. Raises VmError, also where the run did not come to its end.
    """
    # What holds for the one group of several devices holds for the other.
    devices = () if "shared-group" in IOMMUS[iommu].without else _PAIR
    hardware = Hardware(iommu=iommu, memory=1024, huge_pages=16, parts=("shared-group", "nvme"), devices=devices)
    machine = Machine(image(kernel), hardware, timeout=_TIMEOUT)
    output, complaint = bytearray(), bytearray()
    command = ["python", "-m", "tests.conformance", "--json", *arguments]
    status = machine.run(command, {"stdout": output.extend, "stderr": complaint.extend})
    if status not in (0, 1) or complaint:
        raise VmError(f"the run on {kernel} ended with {status}: {complaint.decode(errors='replace')[-4000:]}")
    return Report.parse(output.decode().splitlines())
