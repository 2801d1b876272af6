"""What the doctor says of hosts that people had trouble with."""

from __future__ import annotations

import errno
import gzip
import json
from collections.abc import Mapping

import pytest

from pyvfio.host.doctor.boot import parse
from tests.support.hosts import FakeHost
from tests.support.schemas import checked

CARD = "0000:01:00.0"
INTEL, AMD = "GenuineIntel", "AuthenticAMD"
RELEASE = "6.1.0-44-amd64"
MODULES = f"/lib/modules/{RELEASE}"
DEP = "kernel/drivers/vfio/vfio.ko: \nkernel/drivers/vfio/vfio_iommu_type1.ko.xz: kernel/drivers/vfio/vfio.ko\n"
VFIO_PCI = "kernel/drivers/vfio/pci/vfio-pci.ko.zst: kernel/drivers/vfio/vfio.ko\n"

Checks = Mapping[str, tuple[str, str, str]]


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """A computer with VT-d on and a card in vfio-pci's hands."""
    processor(fake_host, INTEL)
    fake_host.file("/proc/cmdline", "ro quiet intel_iommu=on\n")
    fake_host.file("/proc/interrupts", "1: 9 IR-IO-APIC 1-edge\n")
    fake_host.file("/sys/class/iommu/dmar0/x", "")
    fake_host.file("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n")
    fake_host.file("/proc/sys/kernel/osrelease", f"{RELEASE}\n")
    fake_host.file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    fake_host.pci(CARD, "10de:1b06", 0x030000, driver="vfio-pci", group=1)
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


def test_a_host_that_is_ready(host: FakeHost) -> None:
    ran = host.run("doctor")
    assert ran.out.endswith("ready\n")
    assert (ran.status, "FAIL" in ran.out, "SKIP" in ran.out) == (0, False, False)


def test_one_missing_iommu_is_one_failure(bare: FakeHost) -> None:
    ran = bare.run("doctor")
    assert ran.status == 1
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("FAIL")] == ["iommu"]
    assert ran.out.count("fix:") == 1
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
        ("", "ro quiet", "turn the IOMMU (VT-d, AMD-Vi, SMMU) on in the firmware"),
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


# Modules.


def without(host: FakeHost, *, driver: bool = True) -> None:
    """Nothing of VFIO is loaded."""
    host.take(CARD)
    remove(host, "/dev/vfio/vfio")
    remove(host, "/sys/module/vfio_iommu_type1")
    if driver:
        remove(host, "/sys/bus/pci/drivers/vfio-pci")


def test_modules_that_are_only_not_loaded_are_one_failure(host: FakeHost) -> None:
    without(host)
    host.file(f"{MODULES}/modules.dep", DEP + VFIO_PCI)
    found = checks(host)
    assert found["vfio-pci"] == ("FAIL", "not loaded", "as root: modprobe vfio-pci")
    assert found["vfio"] == found["type1"] == ("SKIP", "not loaded: it comes with vfio-pci", "")


def test_a_kernel_without_the_module(host: FakeHost) -> None:
    without(host)
    host.file(f"{MODULES}/modules.dep", DEP)
    found = checks(host)
    assert found["vfio-pci"] == (
        "FAIL",
        "this kernel was built without it (CONFIG_VFIO_PCI is not set)",
        "take a kernel with CONFIG_VFIO_PCI; no modprobe brings it",
    )
    assert found["vfio"][2] == "as root: modprobe vfio"


@pytest.mark.parametrize("place", ["/proc/config.gz", f"/boot/config-{RELEASE}", f"{MODULES}/config"])
def test_a_kernel_without_vfio(host: FakeHost, place: str) -> None:
    without(host)
    text = "CONFIG_PCI=y\n# CONFIG_VFIO is not set\n"
    host.file(place, text)
    if place.endswith("gz"):
        host.at(place).write_bytes(gzip.compress(text.encode()))
    found = checks(host)
    options = "CONFIG_VFIO, CONFIG_VFIO_IOMMU_TYPE1, CONFIG_VFIO_PCI"
    assert found["vfio"] == (
        "FAIL",
        "this kernel was built without it (CONFIG_VFIO is not set)",
        f"take a kernel with {options}; no modprobe brings it",
    )
    assert found["type1"] == found["vfio-pci"] == ("SKIP", "not there: follows from the kernel without VFIO", "")
    assert "modprobe vfio" not in host.run("doctor").out


def test_what_is_built_in_needs_no_modprobe(host: FakeHost) -> None:
    """The node is not there all the same: it was not passed in."""
    remove(host, "/dev/vfio/vfio")
    host.file(f"{MODULES}/modules.builtin", "kernel/drivers/vfio/vfio.ko\n")
    host.file(f"{MODULES}/modules.dep", "")
    assert checks(host)["vfio"] == (
        "FAIL",
        "no /dev/vfio/vfio here, though the kernel has it",
        "udev or devtmpfs makes it; a container has to be given it: --device /dev/vfio/vfio",
    )


def test_a_kernel_whose_modules_an_update_took_away(host: FakeHost) -> None:
    without(host)
    status, found, fix = checks(host)["vfio-pci"]
    assert (status, found) == ("FAIL", f"not loaded, and the modules of this kernel, {RELEASE}, are not on disk")
    assert fix == "boot the kernel that is installed, or install the modules of this one"


def test_a_kernel_that_has_only_iommufd(host: FakeHost) -> None:
    remove(host, "/dev/vfio/vfio")
    host.file("/dev/iommu", "")
    host.file("/proc/config.gz", "")
    host.at("/proc/config.gz").write_bytes(gzip.compress(b"CONFIG_VFIO=y\nCONFIG_IOMMUFD=y\n"))
    found = checks(host)
    assert found["vfio"][:2] == ("WARN", "no /dev/vfio/vfio: this kernel was built without containers")


# Containers and permissions.

IN_DOCKER = (
    "22 1 0:25 / / rw - overlay overlay rw\n"
    "501 22 8:1 /var/lib/docker/containers/0123/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n"
)


def test_in_a_container_whose_nodes_were_not_passed_in(host: FakeHost) -> None:
    """sysfs is the host's: the card is bound, whatever is in /dev."""
    host.file("/proc/self/mountinfo", IN_DOCKER)
    remove(host, "/dev/vfio/1")
    remove(host, "/dev/vfio/vfio")
    found = checks(host)
    assert found["nodes"] == (
        "FAIL",
        f"{CARD} is bound to vfio-pci, but /dev/vfio/1 is not here",
        "pass it into this container, docker and podman: --device /dev/vfio/1",
    )
    assert found["vfio"][2] == "pass it into this container, docker and podman: --device /dev/vfio/vfio"


@pytest.mark.parametrize("has_groups", [True, False])
def test_a_kernel_that_has_nodes_of_devices(host: FakeHost, has_groups: bool) -> None:
    """One without nodes of groups misses none."""
    remove(host, "/dev/vfio/1")
    host.file(f"/sys/bus/pci/devices/{CARD}/vfio-dev/vfio0/dev", "511:0\n")
    host.file("/dev/vfio/devices/vfio0", "")
    if has_groups:
        host.file("/sys/class/vfio/1/dev", "511:1\n")
    status, found, _ = checks(host)["nodes"]
    assert status == ("FAIL" if has_groups else "OK")
    assert ("/dev/vfio/1 is not here" in found) == has_groups
    assert ("/dev/vfio/devices/vfio0 can be opened" in found) != has_groups


def test_in_a_container_the_host_loads_modules(host: FakeHost) -> None:
    without(host)
    host.file("/run/systemd/container", "lxc\n")
    assert checks(host)["vfio-pci"][2] == "as root, outside this container: modprobe vfio-pci"


def test_who_may_open_a_group(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.errors["/dev/vfio/1"] = host.errors["/dev/vfio/vfio"] = errno.EACCES
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.getuid", lambda: 0)
    found = checks(host)
    assert found["nodes"] == ("FAIL", "/dev/vfio/1: Permission denied", f"as root: pyvfio bind --owner root {CARD}")
    assert found["vfio"][2].startswith("as root: chmod 0666 /dev/vfio/vfio")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    found = checks(host)
    for name in ("nodes", "vfio"):
        assert found[name][2].startswith("this container's device rules do not allow it")


def test_a_group_that_a_program_has(host: FakeHost) -> None:
    host.errors["/dev/vfio/1"] = errno.EBUSY
    assert checks(host)["nodes"] == ("OK", "/dev/vfio/1 is in use by a program", "")


# Memory.

POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"


def pool(host: FakeHost, free: int, overcommit: int, surplus: int = 0) -> None:
    figures = {"nr": free, "free": free, "nr_overcommit": overcommit, "resv": 0, "surplus": surplus}
    for name, number in figures.items():
        host.file(f"{POOL}/{name}_hugepages", f"{number}\n")


@pytest.mark.parametrize(
    ("free", "overcommit", "surplus", "status", "found"),
    [
        (9000, 9000, 0, "WARN", "9000 of 9000 free, 9000 more when asked for; 10240 wanted"),
        (9000, 9000, 7761, "FAIL", "9000 of 9000 free, 1239 more when asked for; 10240 wanted"),
        (10240, 9000, 0, "OK", "10240 of 10240 free, 9000 more when asked for; 10240 wanted"),
        (16, 0, 0, "FAIL", "16 of 16 free; 10240 wanted"),
    ],
)
def test_huge_pages_that_the_kernel_makes_when_asked(
    host: FakeHost, free: int, overcommit: int, surplus: int, status: str, found: str
) -> None:
    pool(host, free, overcommit, surplus)
    check = checks(host, "--memory", "20G", "--huge-pages", "2M")["huge pages 2 MiB"]
    assert check[0] == status
    assert check[1].startswith(found)
    assert bool(check[2]) == (status != "OK")


MEMINFO = "MemTotal: 24000000 kB\nMemFree: 1000000 kB\nMemAvailable: 16777216 kB\n"


@pytest.mark.parametrize(
    ("memory", "status", "found"),
    [
        ("100T", "FAIL", "16 GiB can be had (MemAvailable); 100 TiB wanted"),
        ("17G", "FAIL", "16 GiB can be had (MemAvailable); 17 GiB wanted"),
        ("15G", "WARN", "16 GiB can be had (MemAvailable); 15 GiB wanted: nearly all there is"),
        ("8G", "OK", "16 GiB can be had (MemAvailable); 8 GiB wanted"),
    ],
)
def test_memory_of_the_host(host: FakeHost, memory: str, status: str, found: str) -> None:
    host.file("/proc/meminfo", MEMINFO)
    check = checks(host, "--memory", memory)["memory"]
    assert check[:2] == (status, found)
    assert bool(check[2]) == (status != "OK")


def test_a_control_group_has_less(host: FakeHost) -> None:
    host.file("/proc/meminfo", MEMINFO)
    host.file("/proc/self/cgroup", "0::/jobs/build\n")
    host.file("/sys/fs/cgroup/jobs/memory.max", f"{4 << 30}\n")
    host.file("/sys/fs/cgroup/jobs/memory.current", f"{3 << 30}\n")
    host.file("/sys/fs/cgroup/jobs/memory.stat", f"anon 5\ninactive_file {1 << 30}\n")
    host.file("/sys/fs/cgroup/jobs/build/memory.max", "max\n")
    status, found, fix = checks(host, "--memory", "3G")["memory"]
    assert (status, found) == ("FAIL", "2 GiB can be had (the limit of cgroup /jobs); 3 GiB wanted")
    assert "raise the limit of cgroup /jobs: memory.max" in fix


def test_the_kernel_s_own_page_size(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 65536)
    host.file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", f"{512 << 20}\n")
    found = checks(host, "--memory", "1G", "--block-size", "4K")
    assert found["transparent huge pages"][1] == "madvise; of 512 MiB, where ordinary pages are of 64 KiB"
    assert found["mapping limit"][:2] == (
        "FAIL",
        "blocks of 4 KiB are no whole pages of this kernel, 64 KiB",
    )
