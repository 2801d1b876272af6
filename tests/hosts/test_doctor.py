"""What the doctor says of hosts that people had trouble with: the IOMMU and how to turn it on."""

from __future__ import annotations

import pytest

from pyvfio.host.doctor.boot import parse
from tests.hosts.doctored import AMD, CARD, INTEL, RELEASE, checks, lay_out, processor, remove
from tests.support.hosts import FakeHost


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """A computer with VT-d on and a card in vfio-pci's hands."""
    lay_out(fake_host)
    return fake_host


@pytest.fixture
def bare(host: FakeHost) -> FakeHost:
    """The same without its IOMMU, and so with no group and nothing bound."""
    host.at("/sys/class/iommu/dmar0/x").unlink()
    host.at("/sys/class/iommu/dmar0").rmdir()
    host.take(CARD)
    remove(host, "/sys/kernel/iommu_groups/1")
    host.at(f"/sys/devices/pci0000:00/{CARD}/iommu_group").unlink()
    host.file("/proc/interrupts", "1: 9 IO-APIC 1-edge\n")
    return host


def test_a_host_that_is_ready(host: FakeHost) -> None:
    ran = host.run("doctor")
    assert ran.out.endswith("ready\n")
    assert (ran.status, "FAIL" in ran.out, "SKIP" in ran.out) == (0, False, False)


def test_one_missing_iommu_is_one_failure(bare: FakeHost) -> None:
    ran = bare.run("doctor")
    assert ran.status == 1
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("FAIL")] == ["iommu"]
    # What else there is to say, as of an ordinary user's memlock, is a WARN.
    assert len([fix for status, _, fix in checks(bare).values() if fix and status in ("FAIL", "SKIP")]) == 1
    for name in ("interrupt remapping", "groups", "nodes"):
        status, found, fix = checks(bare)[name]
        assert (status, fix) == ("SKIP", "")
        assert found.endswith("follows from the missing IOMMU")


FIRMWARE = "turn VT-d (the IOMMU) on in the firmware"
AMD_FIRMWARE = "turn AMD-Vi (the IOMMU) on in the firmware"


@pytest.mark.parametrize(
    ("vendor", "line", "fix"),
    [
        (INTEL, "root=/dev/sda1 amd_iommu=on iommu=pt",
         f"{FIRMWARE}, and boot with intel_iommu=on (amd_iommu=on is not for this processor)"),
        (INTEL, "ro iommu=pt intel_iommu=on vfio-pci.ids=8086:9c31", FIRMWARE),
        (INTEL, "ro intel_iommu=on,sm_on iommu=pt", FIRMWARE),
        (INTEL, "ro intel_iommu=sm_on,on", FIRMWARE),
        (INTEL, "ro intel-iommu=on", FIRMWARE),
        (INTEL, 'ro "intel_iommu=on"', FIRMWARE),
        (INTEL, "ro intel_iommu=igfx_off", f"{FIRMWARE}, and boot with intel_iommu=on"),
        (INTEL, "ro intel_iommu=on,iommu=pt", FIRMWARE),
        (INTEL, "ro intel_iommu=on iommu=off", "boot without iommu=off"),
        (INTEL, "ro iommu=off intel_iommu=on", "boot without iommu=off"),
        (INTEL, "ro iommu=off", "boot without iommu=off and with intel_iommu=on"),
        (INTEL, "ro iommu=soft,off intel_iommu=on", "boot without iommu=soft,off"),
        (INTEL, "ro intel_iommu=on intel_iommu=off", "boot without intel_iommu=off, with intel_iommu=on instead"),
        (INTEL, "ro intel_iommu=off intel_iommu=on", FIRMWARE),
        (INTEL, "ro intel_iommu=off", "boot without intel_iommu=off, with intel_iommu=on instead"),
        (INTEL, 'dyndbg="file x +p intel_iommu=on"', f"{FIRMWARE}, and boot with intel_iommu=on"),
        (INTEL, "ro -- intel_iommu=on", f"{FIRMWARE}, and boot with intel_iommu=on"),
        ("CentaurHauls", "ro quiet", f"{FIRMWARE}, and boot with intel_iommu=on"),
        ("  Shanghai  ", "intel_iommu=on", FIRMWARE),
        (AMD, "ro amd_iommu=off", "boot without amd_iommu=off"),
        (AMD, "ro amd_iommu=fullflush,off", "boot without amd_iommu=fullflush,off"),
        (AMD, "ro iommu=off amd_iommu=on", "boot without iommu=off"),
        (AMD, "ro amd_iommu=on iommu=pt", AMD_FIRMWARE),
        (AMD, "ro intel_iommu=on iommu=pt", f"{AMD_FIRMWARE} (intel_iommu=on is not for this processor)"),
        ("HygonGenuine", "ro quiet", AMD_FIRMWARE),
        ("", "ro quiet", "turn the IOMMU (VT-d, AMD-Vi) on in the firmware"),
    ],
)  # fmt: skip
def test_the_command_line_as_the_kernel_reads_it(bare: FakeHost, vendor: str, line: str, fix: str) -> None:
    processor(bare, vendor)
    bare.file("/proc/cmdline", f"{line}\n")
    assert checks(bare)["iommu"] == ("FAIL", "none: no DMA can be mapped", fix)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("a=1  b", [("a", "1"), ("b", "")]),
        ('a="x y" "b=u v" c-d.e-f=g', [("a", "x y"), ("b", "u v"), ("c_d.e_f", "g")]),
        ("a=b=c -- d", [("a", "b=c")]),
        ('a="', [("a", "")]),
    ],
)
def test_arguments(text: str, arguments: list[tuple[str, str]]) -> None:
    assert list(parse(text)) == arguments


@pytest.mark.parametrize(
    ("table", "line", "configuration", "fix"),
    [
        # The firmware has it on: only the switch is missing.
        ("DMAR", "ro", "", "boot with intel_iommu=on"),
        ("DMAR", "ro", "CONFIG_INTEL_IOMMU=y\nCONFIG_INTEL_IOMMU_DEFAULT_ON=y", "the kernel log says why"),
        ("DMAR", "ro intel_iommu=on", "", "the kernel log says why"),
        ("DMAR", "ro intel_iommu=on", "CONFIG_SMP=y", "take a kernel with CONFIG_INTEL_IOMMU"),
        ("FACP", "ro intel_iommu=on", "", FIRMWARE),
        (
            "FACP",
            "ro intel_iommu=off",
            "",
            f"{FIRMWARE}, and boot without intel_iommu=off, with intel_iommu=on instead",
        ),
        ("FACP", "ro", "CONFIG_INTEL_IOMMU=y\nCONFIG_INTEL_IOMMU_DEFAULT_ON=y", FIRMWARE),
    ],
)
def test_the_firmware_is_asked(bare: FakeHost, table: str, line: str, configuration: str, fix: str) -> None:
    bare.file(f"/sys/firmware/acpi/tables/{table}", "")
    bare.file("/proc/cmdline", f"{line}\n")
    if configuration:
        bare.file(f"/boot/config-{RELEASE}", f"{configuration}\n")
    assert checks(bare)["iommu"][2].startswith(fix)


@pytest.mark.parametrize(
    ("maker", "fix"),
    [
        (
            "QEMU",
            "give the virtual machine a virtual IOMMU: QEMU -machine q35,kernel-irqchip=split -device intel-iommu",
        ),
        ("VMware, Inc.", "tick Expose IOMMU to guest OS"),
        ("Amazon EC2", "give the virtual machine a virtual IOMMU if its hypervisor has one; else"),
        ("Somebody", "give the virtual machine a virtual IOMMU"),
    ],
)
def test_a_virtual_machine_has_no_firmware_switch(bare: FakeHost, maker: str, fix: str) -> None:
    processor(bare, INTEL, "fpu hypervisor lahf_lm")
    bare.file("/sys/class/dmi/id/sys_vendor", f"{maker}\n")
    bare.file("/proc/cmdline", "ro\n")
    found = checks(bare)["iommu"][2]
    assert found.startswith(fix)
    assert found.endswith(", and boot with intel_iommu=on")
    assert "firmware" not in found


def test_a_virtual_machine_with_an_iommu_that_is_not_switched_on(bare: FakeHost) -> None:
    processor(bare, INTEL, "hypervisor")
    bare.file("/sys/firmware/acpi/tables/DMAR", "")
    bare.file("/proc/cmdline", "ro\n")
    assert checks(bare)["iommu"][2] == "boot with intel_iommu=on"


def test_a_virtual_machine_of_arm(bare: FakeHost) -> None:
    bare.file("/proc/cpuinfo", "CPU part\t: 0xd0b\n")
    bare.file("/sys/class/dmi/id/sys_vendor", "QEMU\n")
    assert checks(bare)["iommu"][2].startswith("give the virtual machine a virtual IOMMU: QEMU")


def test_an_iommu_that_covers_no_pci_function(fake_host: FakeHost) -> None:
    """A board whose IOMMUs serve the display and the codec."""
    for number, device in enumerate(("1f00128000.csi", "1000800000.codec")):
        fake_host.file(f"/sys/class/iommu/100000{number}.iommu/x", "")
        fake_host.link(f"/sys/kernel/iommu_groups/{number}/devices/{device}", f"/sys/devices/platform/{device}")
    fake_host.file("/proc/cpuinfo", "CPU part\t: 0xd0b\n")
    fake_host.pci("0001:01:00.0", "10ec:8125", 0x020000, driver="r8169", below="platform/axi/pci0001:00")
    found = checks(fake_host)
    status, said, fix = found["iommu"]
    assert status == "FAIL"
    assert said.endswith("2 units, but no PCI function is behind it: it translates for other devices only")
    assert "unsafe mode" in fix
    assert found["nodes"][0] == "SKIP"


def test_a_group_that_firmware_claims_is_a_failure(fake_host: FakeHost) -> None:
    fake_host.pci("0000:03:00.0", "8086:1521", 0x020000, driver="vfio-pci", group=12)
    regions = "0x000000007ba1e000 0x000000007ba26fff direct\n"
    fake_host.file("/sys/kernel/iommu_groups/12/reserved_regions", regions)
    failures = [line for line in fake_host.run("doctor").out.splitlines() if line.startswith("FAIL  groups")]
    assert len(failures) == 1
    assert "group 12 cannot be used: firmware claims 0x7ba1e000-0x7ba26fff" in failures[0]
