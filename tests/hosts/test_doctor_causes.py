"""Causes that look alike: the doctor names the one that is so, and a fix that there is for this machine."""

from __future__ import annotations

import pytest

from tests.hosts.doctored import AMD, CARD, INTEL, checks, lay_out, processor, remove
from tests.support.hosts import FakeHost

UNSAFE = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
TRUST = f"if every device is trusted: echo 1 > {UNSAFE}"
WITHOUT = "1: 9 IO-APIC 1-edge\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\n"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    lay_out(fake_host)
    return fake_host


@pytest.fixture
def bare(host: FakeHost) -> FakeHost:
    """Without an IOMMU that is on."""
    remove(host, "/sys/class/iommu/dmar0")
    remove(host, f"/sys/devices/pci0000:00/{CARD}/iommu_group")
    remove(host, "/sys/kernel/iommu_groups/1")
    host.file("/proc/cmdline", "ro quiet\n")
    host.file("/proc/interrupts", WITHOUT)
    return host


def qemu(host: FakeHost, processors: str = "") -> None:
    host.file("/sys/class/dmi/id/sys_vendor", "QEMU\n")
    if processors:
        host.file("/proc/cpuinfo", processors)
    else:
        processor(host, INTEL, "fpu hypervisor")


# The IOMMU.


def test_the_firmware_s_table_tells_whose_iommu_it_is(bare: FakeHost) -> None:
    """As on a virtual machine whose processors are AMD's and whose IOMMU is QEMU's model of Intel's."""
    processor(bare, AMD, "fpu hypervisor")
    bare.file("/sys/class/dmi/id/sys_vendor", "QEMU\n")
    bare.file("/sys/firmware/acpi/tables/DMAR", "")
    assert checks(bare)["iommu"][2] == "boot with intel_iommu=on"
    bare.file("/proc/cmdline", "ro intel_iommu=off\n")
    assert checks(bare)["iommu"][2] == "boot without intel_iommu=off, with intel_iommu=on instead"
    remove(bare, "/sys/firmware/acpi/tables/DMAR")
    bare.file("/sys/firmware/acpi/tables/IVRS", "")
    processor(bare, INTEL)
    assert "intel_iommu" not in checks(bare)["iommu"][2].partition("(")[0]


def test_a_kernel_that_reads_no_tables_is_told_to(bare: FakeHost) -> None:
    bare.file("/proc/cmdline", "ro acpi=off\n")
    assert checks(bare)["iommu"][2].startswith("boot without acpi=off")
    bare.file("/proc/cmdline", "ro acpi=off acpi=force\n")
    assert "acpi=" not in checks(bare)["iommu"][2]


def test_xen_keeps_the_iommu_to_itself(bare: FakeHost) -> None:
    bare.file("/sys/hypervisor/type", "xen\n")
    bare.file("/proc/xen/capabilities", "control_d\n")
    assert checks(bare)["iommu"][2].startswith("Xen has the IOMMU: give the device to a guest of Xen's (xen-pciback)")
    bare.file("/proc/xen/capabilities", "\n")
    assert "Xen has" not in checks(bare)["iommu"][2]


@pytest.mark.parametrize(
    ("processors", "fix"),
    [
        (ARM, "QEMU -machine virt,iommu=smmuv3, or -device virtio-iommu-pci"),
        ("processor\t: 0\nhart\t\t: 0\nisa\t\t: rv64imafdc\n", "QEMU -machine virt -device riscv-iommu-pci"),
    ],
)
def test_a_virtual_machine_is_given_an_iommu_of_its_architecture(bare: FakeHost, processors: str, fix: str) -> None:
    qemu(bare, processors)
    found = checks(bare)["iommu"][2]
    assert fix in found
    assert "intel" not in found


@pytest.mark.parametrize(
    ("maker", "product", "is_virtual"),
    [
        ("Amazon EC2", "t4g.micro", True),
        ("Amazon EC2", "a1.metal", False),
        ("Apple Inc.", "Apple Virtualization Generic Platform", True),
        ("Apple Inc.", "Mac mini", False),
        ("Microsoft Corporation", "Virtual Machine", True),
        ("Microsoft Corporation", "Surface Pro", False),
    ],
)
def test_makers_of_virtual_machines_make_real_ones(bare: FakeHost, maker: str, product: str, is_virtual: bool) -> None:
    bare.file("/proc/cpuinfo", ARM)
    bare.file("/sys/class/dmi/id/sys_vendor", f"{maker}\n")
    bare.file("/sys/class/dmi/id/product_name", f"{product}\n")
    fix = checks(bare)["iommu"][2]
    assert ("virtual machine" in fix) is is_virtual
    assert ("turn the IOMMU (SMMU) on in the firmware" in fix) is not is_virtual


# Interrupt remapping.


@pytest.mark.parametrize("argument", ["intremap=off", "nointremap", "intremap=nosid,off"])
def test_the_argument_that_turns_remapping_off_is_named(host: FakeHost, argument: str) -> None:
    host.file("/proc/interrupts", WITHOUT)
    host.file("/proc/cmdline", f"ro intel_iommu=on {argument}\n")
    assert checks(host)["interrupt remapping"] == (
        "FAIL",
        "off: containers refuse their IOMMU (EPERM)",
        f"boot without {argument}; {TRUST}",
    )


def test_a_virtual_machine_has_no_firmware_to_turn_remapping_on_in(host: FakeHost) -> None:
    host.file("/proc/interrupts", WITHOUT)
    assert checks(host)["interrupt remapping"][2] == f"turn it on in the firmware; {TRUST}"
    qemu(host)
    assert checks(host)["interrupt remapping"][2] == (
        "have the virtual IOMMU do it: QEMU -machine kernel-irqchip=split -device intel-iommu,intremap=on; " + TRUST
    )
    host.file(UNSAFE, "Y\n")
    status, _, fix = checks(host)["interrupt remapping"]
    assert (status, "firmware" in fix) == ("WARN", False)


def test_no_virtio_iommu_remaps_interrupts(fake_host: FakeHost) -> None:
    lay_out(fake_host)
    remove(fake_host, "/sys/class/iommu/dmar0")
    fake_host.virtio_iommu()
    qemu(fake_host)
    fake_host.file("/proc/interrupts", WITHOUT)
    assert checks(fake_host)["interrupt remapping"][2] == TRUST


def test_what_cannot_be_seen_is_not_said_to_be_well(host: FakeHost) -> None:
    host.file("/proc/interrupts", "")
    status, found, _ = checks(host)["interrupt remapping"]
    assert (status, "/proc/interrupts is empty" in found) == ("SKIP", True)


@pytest.mark.parametrize(
    ("interrupts", "status"),
    [
        ("50: 0 GICv2m-PCI-MSI-0000:00:02.0 0 Edge\n", "FAIL"),
        ("50: 0 ITS-PCI-MSI-0000:00:02.0 0 Edge\n", "OK"),
        ("13: 0 GICv3 27 Level arch_timer\n", "OK"),
    ],
)
def test_arm_s_gicv2m_does_not_tell_devices_apart(host: FakeHost, interrupts: str, status: str) -> None:
    host.file("/proc/cpuinfo", ARM)
    host.file("/proc/interrupts", interrupts)
    assert checks(host)["interrupt remapping"][0] == status


# Groups and modules.


def test_a_group_that_no_bind_frees(host: FakeHost) -> None:
    """As a bridge that shpchp has, or something that is no PCI function."""
    bridge = "0000:00:1c.0"
    host.pci(bridge, "8086:9d10", 0x060400, driver="shpchp", group=1, header_type=1)
    status, found, fix = checks(host)["groups"]
    assert (status, f"{bridge} shpchp" in found) == ("FAIL", True)
    assert fix.startswith("Take it from that driver")
    assert "pyvfio bind" not in fix


def test_a_module_that_the_command_line_forbids(host: FakeHost) -> None:
    remove(host, "/sys/bus/pci/drivers/vfio-pci")
    host.file("/proc/cmdline", "ro intel_iommu=on module_blacklist=nouveau,vfio_pci\n")
    _, found, fix = checks(host)["vfio-pci"]
    assert "the command line forbids it (module_blacklist=nouveau,vfio_pci)" in found
    assert fix == "boot without vfio_pci in module_blacklist="


def test_containers_of_iommufd_need_no_type1(host: FakeHost) -> None:
    remove(host, "/sys/module/vfio_iommu_type1")
    host.file(
        "/boot/config-6.1.0-44-amd64",
        "CONFIG_VFIO=y\nCONFIG_VFIO_PCI=y\nCONFIG_IOMMUFD=y\nCONFIG_IOMMUFD_VFIO_CONTAINER=y\n",
    )
    assert checks(host)["type1"] == ("OK", "containers are iommufd's (CONFIG_IOMMUFD_VFIO_CONTAINER)", "")
