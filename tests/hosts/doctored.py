"""A computer that the doctor looks at, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.support.hosts import FakeHost
from tests.support.schemas import checked

CARD = "0000:01:00.0"
INTEL, AMD = "GenuineIntel", "AuthenticAMD"
RELEASE = "6.1.0-44-amd64"
MODULES = f"/lib/modules/{RELEASE}"

Checks = Mapping[str, tuple[str, str, str]]


def lay_out(host: FakeHost) -> None:
    """One with VT-d on and a card in vfio-pci's hands."""
    processor(host, INTEL)
    host.file("/proc/cmdline", "ro quiet intel_iommu=on\n")
    host.file("/proc/interrupts", "1: 9 IR-IO-APIC 1-edge\n")
    host.file("/sys/class/iommu/dmar0/x", "")
    host.file("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n")
    host.file("/proc/sys/kernel/osrelease", f"{RELEASE}\n")
    host.file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    host.pci(CARD, "10de:1b06", 0x030000, driver="vfio-pci", group=1)


def remove(host: FakeHost, path: str) -> None:
    at = host.at(path)
    if at.is_dir() and not at.is_symlink():
        for child in at.iterdir():
            remove(host, f"{path}/{child.name}")
        at.rmdir()
    else:
        at.unlink()


def processor(host: FakeHost, vendor: str, flags: str = "fpu") -> None:
    host.file("/proc/cpuinfo", f"vendor_id\t: {vendor}\nmodel name\t: x\nflags\t\t: {flags}\n")


def checks(host: FakeHost, *arguments: str) -> Checks:
    """Status, what was found, and the fix; the last of several by the same name."""
    data = checked("pyvfio-doctor", json.loads(host.run("doctor", "--json", *arguments).out))
    assert isinstance(data, dict)
    return {check["name"]: (check["status"], check["found"], check["fix"]) for check in data["checks"]}
