"""What plan says of hosts whose memory, addresses and pages are not as expected."""

from __future__ import annotations

import pytest

from pyvfio.host import DeviceAddresses, ReservedRegion
from tests.hosts.planned import GIB, plan, rows
from tests.support.hosts import FakeHost

CARD, OTHER = "0000:03:00.0", "0000:04:00.0"
HT_HOLE = "0x000000fd00000000 0x000000ffffffffff reserved\n"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    fake_host.file("/proc/meminfo", f"MemTotal: {24 << 20} kB\nMemAvailable: {16 << 20} kB\n")
    fake_host.file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", f"{2 << 20}\n")
    fake_host.pci(CARD, "8086:1521", 0x020000, driver="vfio-pci", group=12)
    return fake_host


@pytest.mark.parametrize(
    ("region", "status", "verdict"), [("100T", 1, "FAIL"), ("17G", 1, "FAIL"), ("15G", 0, "WARN"), ("8G", 0, "OK")]
)
def test_memory_of_the_host(host: FakeHost, region: str, status: int, verdict: str) -> None:
    ran = plan(host, "--region", region)
    assert ran.status == status
    row = rows(host, "--region", region)["memory"]
    assert (row["verdict"], row["available"]) == (verdict, 16 * GIB)
    assert row["found"].endswith("16 GiB available (MemAvailable)")
    if verdict == "FAIL":
        assert ran.out.endswith("=> does not fit: too little memory\n")
        assert "fix: 16 GiB at most; or end what uses the rest" in ran.out
    if verdict == "WARN":
        assert ran.out.endswith("; tight: memory\n")


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_has_less(host: FakeHost, version: int) -> None:
    root, limit, usage = (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        if version == 1
        else ("/sys/fs/cgroup", "memory.max", "memory.current")
    )
    host.file("/proc/self/cgroup", "4:memory:/docker/1\n" if version == 1 else "0::/docker/1\n")
    host.file(f"{root}/docker/1/{limit}", f"{2 * GIB}\n")
    host.file(f"{root}/docker/1/{usage}", f"{GIB}\n")
    if version == 1:
        host.file(f"{root}/docker/{limit}", "9223372036854771712\n")
        host.file(f"{root}/docker/{usage}", "0\n")
    row = rows(host, "--region", "2G")["memory"]
    assert (row["verdict"], row["available"]) == ("FAIL", GIB)
    assert "raise the limit of cgroup /docker/1" in row["fix"]


def test_what_is_above_a_namespace_is_not_seen(host: FakeHost) -> None:
    host.file("/proc/self/cgroup", "0::/../..\n")
    host.file("/sys/fs/cgroup/memory.max", f"{3 * GIB}\n")
    host.file("/sys/fs/cgroup/memory.current", "0\n")
    assert rows(host, "--region", "1G")["memory"]["available"] == 3 * GIB


def nodes(host: FakeHost) -> None:
    for node, free in ((0, 6), (1, 3)):
        lines = f"Node {node} MemTotal: {12 << 20} kB\nNode {node} MemFree: {free << 20} kB\n"
        host.file(f"/sys/devices/system/node/node{node}/meminfo", lines + f"Node {node} Inactive(file): {1 << 20} kB\n")


def test_memory_of_a_numa_node(host: FakeHost) -> None:
    nodes(host)
    assert rows(host, "--region", "5G")["memory"]["verdict"] == "OK"
    row = rows(host, "--region", "5G", "--node", "1")["memory"]
    assert (row["verdict"], row["available"]) == ("FAIL", 4 * GIB)
    assert row["found"] == "5 GiB needed, 4 GiB available (node 1)"


def test_nodes_that_the_process_may_not_use(host: FakeHost) -> None:
    nodes(host)
    lines = "VmLck: 0 kB\nVmPin: 0 kB\nCapEff: 0\nMems_allowed_list:\t0\n"
    host.file("/proc/self/status", lines)
    assert rows(host, "--region", "5G")["memory"]["found"] == "5 GiB needed, 7 GiB available (node 0)"


def test_another_host_s_memory(host: FakeHost) -> None:
    assert rows(host, "--region", "1T", "--host-memory", "2T")["memory"]["verdict"] == "OK"
    assert "memory" not in rows(host, "--region", "1T", "--host-memory", "unlimited")


# Addresses.


@pytest.mark.parametrize(
    ("region", "address", "verdict", "fitting"),
    [
        ("8G", "4G", "OK", 4 * GIB),
        ("64G", "1000G", "FAIL", 1 << 40),
        ("1200G", "4G", "FAIL", 1 << 40),
        ("8G", "1016G", "FAIL", 1 << 40),
        ("64G", "1T", "OK", 1 << 40),
        ("1G", "0xfee00000", "FAIL", 4 * GIB),
        ("12G", "1000G", "OK", 1000 * GIB),
    ],
)
def test_amd_s_hole(host: FakeHost, region: str, address: str, verdict: str, fitting: int) -> None:
    host.group(12, reserved=HT_HOLE)
    arguments = ["--region", region, "--address", address, "--host-memory", "unlimited"]
    row = rows(host, *arguments)["addresses"]
    assert (row["verdict"], row["available"]) == (verdict, fitting)
    ran = plan(host, *arguments)
    assert ran.status == (verdict == "FAIL")
    if verdict == "FAIL":
        assert f"fix: --address {fitting:#x}" in ran.out
        assert "runs into 0xfd00000000-0xffffffffff (reserved)" in ran.out or "runs into 0xfee00000" in ran.out
        assert ran.out.endswith("=> does not fit: it cannot be at this address\n")
        moved = rows(host, *arguments[:2], "--address", hex(fitting), *arguments[4:])
        assert moved["addresses"]["verdict"] == "OK"


def test_beyond_what_the_iommu_translates(host: FakeHost) -> None:
    """A VT-d of 39 bits."""
    host.file("/sys/class/iommu/dmar0/intel-iommu/cap", f"{0x26_0200:x}\n")
    row = rows(host, "--region", "64G", "--address", "480G", "--host-memory", "unlimited")["addresses"]
    assert (row["verdict"], row["available"]) == ("FAIL", 4 * GIB)
    assert row["found"].endswith("is beyond the 39 bits that are translated")
    row = rows(host, "--region", "600G", "--host-memory", "unlimited", "--block-size", "1G")["addresses"]
    assert (row["available"], row["fix"]) == (None, "a region of 508 GiB at most fits anywhere")
    assert rows(host, "--region", "64G", "--host-memory", "unlimited")["addresses"]["found"].endswith("within 39 bits")


@pytest.mark.parametrize(
    ("capabilities", "width"), [(0x26_0200, 39), (0x2F_0600, 48), (0x26_0600, 39), (0x38_0E00, 57)]
)
def test_widths_of_vt_d(host: FakeHost, capabilities: int, width: int) -> None:
    host.file("/sys/class/iommu/dmar7/intel-iommu/cap", f"{capabilities:x}\n")
    host.link(f"/sys/devices/pci0000:00/{CARD}/iommu", "/sys/class/iommu/dmar7")
    assert f"within {width} bits" in rows(host, "--region", "1G")["addresses"]["found"]


def test_whose_reserved_regions_count(host: FakeHost) -> None:
    """Those of the devices named; or of all that VFIO has; or what is common to all."""
    rmrr = "0x0000000200000000 0x00000002ffffffff direct\n0x0000000400000000 0x00000004ffffffff direct-relaxable\n"
    host.pci(OTHER, "8086:a2af", 0x0C0330, driver="xhci_hcd", group=13)
    host.group(13, reserved=rmrr)
    arguments = ["--region", "8G", "--address", "8G"]
    assert rows(host, *arguments)["addresses"]["verdict"] == "OK"
    named = rows(host, *arguments, "--device", OTHER)["addresses"]
    assert named["found"] == "0x200000000-0x3ffffffff runs into 0x200000000-0x2ffffffff (direct)"
    assert named["fix"] == "--address 0x300000000"
    host.take(CARD)
    assert rows(host, *arguments)["addresses"]["verdict"] == "OK"
    host.group(12, reserved=rmrr)
    assert rows(host, *arguments)["addresses"]["verdict"] == "FAIL"


def test_an_address_that_is_no_multiple_of_a_block(host: FakeHost) -> None:
    row = rows(host, "--region", "1G", "--address", "0x100100000")["addresses"]
    assert row["found"].endswith("does not begin at a multiple of 2 MiB")
    assert row["fix"] == "--address 0x100200000"


def test_without_an_iommu_nothing_is_said_of_addresses(fake_host: FakeHost) -> None:
    assert "addresses" not in rows(fake_host, "--region", "1G")


def test_the_largest_that_fits() -> None:
    there = DeviceAddresses((ReservedRegion(5, 5, "x"), ReservedRegion(0x30, 0x3F, "y")), 6)
    assert there.largest(0, 1) == 0x2A
    assert there.largest(0, 16) == 0x20
    assert there.fitting(0x20, 0, 16) == 0x10
    assert there.fitting(0x21, 0, 16) is None


# Pages.

POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"


def pool(host: FakeHost, free: int, overcommit: int = 0, surplus: int = 0) -> None:
    figures = {"nr": free, "free": free, "nr_overcommit": overcommit, "resv": 0, "surplus": surplus}
    for name, number in figures.items():
        host.file(f"{POOL}/{name}_hugepages", f"{number}\n")


@pytest.mark.parametrize(
    ("free", "overcommit", "surplus", "verdict", "memory"),
    [
        (512, 0, 0, "OK", None),
        (256, 256, 0, "WARN", "OK"),
        (256, 256, 1, "FAIL", None),
        (16, 0, 0, "FAIL", None),
        (0, 9999, 0, "WARN", "OK"),
    ],
)
def test_huge_pages_that_the_kernel_makes_when_asked(
    host: FakeHost, free: int, overcommit: int, surplus: int, verdict: str, memory: str | None
) -> None:
    pool(host, free, overcommit, surplus)
    found = rows(host, "--region", "1G", "--memory", "hugetlb")
    assert found["hugepages"]["verdict"] == verdict
    assert (found["memory"]["verdict"] if "memory" in found else None) == memory
    assert bool(found["hugepages"]["fix"]) == (verdict != "OK")


def test_sizes_that_the_host_has_by_name(host: FakeHost) -> None:
    pool(host, 8)
    host.file("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n")
    row = rows(host, "--region", "1G", "--memory", "hugetlb:16M")["hugepages"]
    assert row["found"] == "this host has no huge pages of 16 MiB"
    assert row["fix"] == "take hugetlb:2M or hugetlb:1G"


@pytest.fixture
def arm(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Pages of 64 KiB, transparent huge ones of 512 MiB."""
    monkeypatch.setattr("os.sysconf", lambda _: 65536)
    host.file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", f"{512 << 20}\n")
    return host


@pytest.mark.parametrize(
    ("arguments", "block", "noted"),
    [
        (["--region", "8G"], "512 MiB", False),
        (["--region", "8256M"], "64 MiB", True),
        (["--region", "256M"], "256 MiB", True),
        (["--region", "1152M"], "128 MiB", True),
        (["--region", "1G", "--plugged", "768M"], "256 MiB", True),
        (["--region", "8G", "--block-size", "2M"], "2 MiB", True),
        (["--region", "1G", "--block-size", "1G"], "1 GiB", False),
    ],
)
def test_a_transparent_huge_page_is_a_preference(arm: FakeHost, arguments: list[str], block: str, noted: bool) -> None:
    ran = plan(arm, *arguments)
    assert ran.status == 0
    assert f"=> fits with blocks of {block}" in ran.out
    assert (f"blocks of {block} are smaller than transparent huge pages, 512 MiB" in ran.out) == noted
    assert "anon memory is of 64 KiB pages" in ran.out


def test_long_times_are_in_hours(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtiomem.cli import plan as command
    from virtiomem.cli.speed import PopulateSpeed

    monkeypatch.setattr(command, "measure_populate", lambda *_: PopulateSpeed(1 << 26, 1e9))
    for region, duration in (
        ("512M", "537 ms"),
        ("4G", "4.3 s"),
        ("256G", "5 min"),
        ("32T", "9.8 h"),
        ("1024T", "13.0 days"),
    ):
        ran = host.run("plan", "--region", region, "--host-memory", "unlimited", program="virtiomem")
        assert f"{duration} to populate" in ran.out
