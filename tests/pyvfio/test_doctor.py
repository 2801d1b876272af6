"""What the doctor says of hosts that are not as they should be."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pyvfio import Kernel
from pyvfio.faults import Before, Fault, FaultyKernel
from pyvfio.host import InterfaceUse, inventory
from pyvfio.host.doctor import Check, Needs, Status, examine
from pyvfio.host.doctor.iommu import check_groups, check_interrupt_remapping, check_iommu
from pyvfio.host.doctor.limits import check_huge_pages, check_mapping_limit, check_memlock, check_transparent_huge_pages
from pyvfio.host.doctor.modules import check_modules
from pyvfio.host.names.pci_ids import kind, names_of_host
from pyvfio.sim import SimKernel
from pyvfio.sim.devices import PciFunction
from tests.support.overlay import OverlayKernel

GIB = 1 << 30
RUNNING = ("/sys/firmware", "/sys/class/dmi", "/proc/config.gz", "/lib/modules", "/usr/lib/modules", "/boot")
"""What the simulated kernel leaves to the running one."""
HIDDEN = (*RUNNING, "/sys/class/iommu", "/sys/kernel/iommu_groups", "/sys/kernel/mm", "/sys/devices/system/node")
UNSAFE = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"


def host(files: Mapping[str, str] | None = None) -> Kernel:
    return OverlayKernel(SimKernel(), files, hidden=HIDDEN)


def brief(check: Check) -> tuple[str, str, str]:
    return check.status.value, check.found, check.fix


@pytest.mark.parametrize(
    ("files", "status", "found", "fix"),
    [
        ({"/sys/class/iommu/dmar0/x": "", "/sys/class/iommu/dmar1/x": ""}, "OK", "Intel VT-d, 2 units", ""),
        ({"/sys/class/iommu/ivhd0/x": ""}, "OK", "AMD-Vi, 1 unit", ""),
        ({"/sys/kernel/iommu_groups/0/x": ""}, "OK", "on", ""),
        ({"/proc/cmdline": "quiet", "/proc/cpuinfo": "vendor_id : GenuineIntel"}, "FAIL", "none", "intel_iommu=on"),
        ({"/proc/cmdline": "intel_iommu=on", "/proc/cpuinfo": "GenuineIntel"}, "FAIL", "none", "in the firmware"),
        ({"/proc/cmdline": "iommu=off", "/proc/cpuinfo": "AuthenticAMD"}, "FAIL", "none", "without iommu=off"),
    ],
)
def test_iommu(files: dict[str, str], status: str, found: str, fix: str) -> None:
    check = check_iommu(host(files))
    assert check.status == status
    assert check.found.startswith(found)
    assert fix in check.fix
    assert bool(fix) == bool(check.fix)


@pytest.mark.parametrize(
    ("interrupts", "unsafe", "status"),
    [
        ("1: 9 IR-IO-APIC 1-edge", "N", "OK"),
        ("1: 9 IO-APIC 1-edge", "N", "FAIL"),
        ("1: 9 IO-APIC 1-edge", "Y", "WARN"),
        ("1: 9 GICv3 27 Level", "N", "OK"),
    ],
)
def test_interrupt_remapping(interrupts: str, unsafe: str, status: str) -> None:
    kernel = host({"/proc/interrupts": interrupts, UNSAFE: unsafe})
    check = check_interrupt_remapping(kernel)
    assert check.status == status
    assert bool(check.fix) == (status != "OK")


def test_a_group_that_is_not_viable_names_who_spoils_it() -> None:
    kernel = SimKernel(edu_devices=2)
    kernel.add(PciFunction("0000:00:03.1", group=3, host_driver="snd_hda", driver="snd_hda"))
    whole, spoiled = check_groups(kernel)
    assert brief(whole) == ("OK", "2 groups, shared: 3 (2 devices)", "")
    assert brief(spoiled) == (
        "FAIL",
        "group 3 is not viable: 0000:00:03.1 snd_hda",
        "pyvfio bind --group 0000:00:03.0",
    )


@pytest.mark.parametrize(("iommufd", "status"), [(True, "WARN"), (False, "FAIL")])
def test_without_containers_iommufd_serves(iommufd: bool, status: str) -> None:
    files = {"/dev/iommu": ""} if iommufd else {}
    kernel = OverlayKernel(SimKernel(), files, hidden=(*RUNNING, "/dev/vfio/vfio", "/sys/module", "/dev/iommu"))
    vfio, type1, _ = check_modules(kernel)
    assert (vfio.status, type1.status) == (status, status)
    # The driver is there, so the module is.
    assert "--device /dev/vfio/vfio" in vfio.fix
    assert type1.fix.endswith("modprobe vfio_iommu_type1") or "not on disk" in type1.found


@pytest.mark.parametrize(
    ("kernel", "needs", "status", "found"),
    [
        (SimKernel(), Needs(), "OK", "unlimited"),
        (SimKernel(memlock=8 << 20, ipc_lock=False), Needs(), "WARN", "8 MiB: too little"),
        (SimKernel(memlock=8 << 20), Needs(memory=GIB), "OK", "8 MiB, not tested with CAP_IPC_LOCK; 1 GiB wanted"),
        (SimKernel(memlock=GIB, ipc_lock=False), Needs(memory=GIB), "OK", "1 GiB; 1 GiB wanted"),
        (
            SimKernel(memlock=GIB, ipc_lock=False),
            Needs(GIB, address_spaces=2),
            "FAIL",
            "1 GiB; 2 GiB wanted by 2 address",
        ),
    ],
)
def test_memlock(kernel: SimKernel, needs: Needs, status: str, found: str) -> None:
    check = check_memlock(kernel, needs)
    assert check.status == status
    assert check.found.startswith(found)
    assert ("ulimit -l" in check.fix) == (status != "OK")


@pytest.mark.parametrize(
    ("memory", "block_size", "status", "fix"),
    [
        (0, 2 << 20, "OK", ""),
        (65535 * (2 << 20), 2 << 20, "OK", ""),
        (256 * GIB, 2 << 20, "FAIL", "blocks of 8 MiB, or as root: echo 131072 >"),
        (256 * GIB, 4 << 20, "FAIL", "blocks of 8 MiB, or as root: echo 65536 >"),
        (256 * GIB, 8 << 20, "OK", ""),
    ],
)
def test_mapping_limit(memory: int, block_size: int, status: str, fix: str) -> None:
    check = check_mapping_limit(SimKernel(), Needs(memory, block_size))
    assert check.status == status
    assert check.fix.startswith(fix)


POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"
NODE = "/sys/devices/system/node/node{}/hugepages/hugepages-2048kB"
PAGES = {
    f"{POOL}/nr_hugepages": "12",
    f"{POOL}/free_hugepages": "8",
    f"{POOL}/resv_hugepages": "1",
    f"{NODE.format(0)}/nr_hugepages": "8",
    f"{NODE.format(0)}/free_hugepages": "8",
    f"{NODE.format(1)}/nr_hugepages": "4",
    f"{NODE.format(1)}/free_hugepages": "0",
}


@pytest.mark.parametrize(
    ("needs", "rows"),
    [
        (Needs(), [("OK", "7 of 12 free (node 0: 8 of 8, node 1: 0 of 4)", "")]),
        (
            Needs(memory=20 << 20, huge_page_size=2 << 20),
            [("FAIL", "7 of 12 free (node 0: 8 of 8, node 1: 0 of 4); 10 wanted",
              f"as root: echo 15 > {POOL}/nr_hugepages")],
        ),
        (
            Needs(memory=GIB, huge_page_size=GIB),
            [("FAIL", "this kernel has none of the size", "one of 2 MiB"),
             ("OK", "7 of 12 free (node 0: 8 of 8, node 1: 0 of 4)", "")],
        ),
    ],
)  # fmt: skip
def test_huge_pages(needs: Needs, rows: list[tuple[str, str, str]]) -> None:
    assert [brief(check) for check in check_huge_pages(host(PAGES), needs)] == rows


@pytest.mark.parametrize(
    ("mode", "status"), [("[always] madvise never", "OK"), ("always madvise [never]", "WARN"), (None, "WARN")]
)
def test_transparent_huge_pages(mode: str | None, status: str) -> None:
    files = {} if mode is None else {"/sys/kernel/mm/transparent_hugepage/enabled": mode}
    assert check_transparent_huge_pages(host(files)).status == status


def test_every_failure_has_a_fix_and_names_are_stable() -> None:
    """On a host that has nothing."""
    checks = examine(FaultyKernel(host(), Fault(name="listdir", errno=2)), Needs(GIB, huge_page_size=2 << 20))
    assert all(check.fix for check in checks if check.status in (Status.WARN, Status.FAIL))
    names = {check.name for check in checks}
    assert {"iommu", "interrupt remapping", "vfio", "type1", "vfio-pci", "iommufd", "groups", "nodes"} <= names
    assert {"memlock", "mapping limit", "transparent huge pages"} <= names


IDS = """# a comment
8086  Intel Corporation
\t1521  I350 Gigabit Network Connection
\t\t8086 0001  Ethernet Server Adapter
10de  NVIDIA Corporation
C 02  Network controller
\t00  Ethernet controller
"""


@pytest.mark.parametrize(
    ("vendor", "device", "name"),
    [
        (0x8086, 0x1521, "Intel Corporation I350 Gigabit Network Connection"),
        (0x10DE, 0x2684, "NVIDIA Corporation 2684"),
        (0x1234, 0x11E8, "1234:11e8"),
        (0x02, 0x00, "0002:0000"),
    ],
)
def test_names_of_devices(vendor: int, device: int, name: str) -> None:
    kernel = OverlayKernel(SimKernel(), {"/usr/share/hwdata/pci.ids": IDS})
    assert names_of_host(kernel).name(vendor, device) == name


@pytest.mark.parametrize(
    ("class_code", "word"),
    [(0x020000, "Ethernet"), (0x030000, "VGA"), (0x010802, "NVMe"), (0x01FF00, "Storage"), (0xFF0000, "Other")],
)
def test_kinds_of_devices(class_code: int, word: str) -> None:
    assert kind(class_code) == word


class NoNetwork:
    def use(self, interface: str) -> InterfaceUse:
        return InterfaceUse(interface, link=False)


@pytest.mark.parametrize("nth", range(40))
def test_a_device_that_goes_while_all_are_listed_spoils_nothing(nth: int) -> None:
    kernel = SimKernel(edu_devices=2)

    def pull() -> None:
        kernel.functions.pop("0000:00:03.0", None)

    entries = inventory(FaultyKernel(kernel, Before(nth=nth, action=pull)), NoNetwork())
    assert [entry.device.address for entry in entries][-1] == "0000:00:04.0"
