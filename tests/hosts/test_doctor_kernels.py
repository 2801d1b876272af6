"""What the doctor says of a kernel's modules, of nodes, and of memory."""

from __future__ import annotations

import errno
import gzip

import pytest

from tests.hosts.doctored import CARD, MODULES, RELEASE, checks, lay_out, remove
from tests.support.hosts import FakeHost

DEP = "kernel/drivers/vfio/vfio.ko: \nkernel/drivers/vfio/vfio_iommu_type1.ko.xz: kernel/drivers/vfio/vfio.ko\n"
VFIO_PCI = "kernel/drivers/vfio/pci/vfio-pci.ko.zst: kernel/drivers/vfio/vfio.ko\n"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """A computer with VT-d on and a card in vfio-pci's hands."""
    lay_out(fake_host)
    return fake_host


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
