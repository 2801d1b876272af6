"""Memory that the host has and this process may not have: nodes, control groups, and what slows it down."""

from __future__ import annotations

import pytest

from pyvfio.kernel import huge_pages
from tests.hosts.doctored import checks, lay_out
from tests.hosts.planned import GIB, plan, rows
from tests.support.hosts import FakeHost

SIZE = 2 << 20
POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"


@pytest.fixture
def host(fake_host: FakeHost) -> FakeHost:
    """8192 huge pages, all of which node 0 has."""
    lay_out(fake_host)
    fake_host.file("/proc/meminfo", f"MemTotal: {64 << 20} kB\nMemAvailable: {48 << 20} kB\n")
    for name, number in (("nr", 8192), ("free", 8192), ("resv", 0), ("surplus", 0)):
        fake_host.file(f"{POOL}/{name}_hugepages", f"{number}\n")
    for node, number in ((0, 8192), (1, 0)):
        directory = f"/sys/devices/system/node/node{node}"
        fake_host.file(f"{directory}/meminfo", f"Node {node} MemFree: {20 << 20} kB\n")
        for name in ("nr", "free"):
            fake_host.file(f"{directory}/hugepages/hugepages-2048kB/{name}_hugepages", f"{number}\n")
    fake_host.file("/proc/self/status", "Mems_allowed_list:\t0-1\nVmLck: 0 kB\nVmPin: 0 kB\nCapEff: 0\n")
    return fake_host


def in_cgroup(host: FakeHost, version: int = 2, **files: int) -> None:
    host.file("/proc/self/cgroup", "4:hugetlb,memory:/jobs\n" if version == 1 else "0::/jobs\n")
    for name, number in files.items():
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/hugetlb"):
            host.file(f"{root}/jobs/{name.replace('__', '.')}", f"{number}\n")


def test_huge_pages_of_another_node_are_not_available(host: FakeHost) -> None:
    arguments = ("--region", "1G", "--memory", "hugetlb")
    assert rows(host, *arguments)["hugepages"]["verdict"] == "OK"
    row = rows(host, *arguments, "--node", "1")["hugepages"]
    assert (row["verdict"], row["available"]) == ("FAIL", 0)
    assert row["found"] == "512 needed, 0 available (node 1)"
    assert "numactl" in row["fix"]
    host.file("/proc/self/status", "Mems_allowed_list:\t1\nVmLck: 0 kB\nVmPin: 0 kB\nCapEff: 0\n")
    assert huge_pages(SIZE, host.kernel).free == 0
    status, found, _ = checks(host, "--memory", "1G", "--huge-pages", "2M")["huge pages 2 MiB"]
    assert (status, "0 of 8192 free" in found, "to this process (node 1)" in found) == ("FAIL", True, True)


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (2, {"hugetlb__2MB__max": 0, "hugetlb__2MB__current": 0}),
        (2, {"hugetlb__2MB__rsvd__max": 4 * SIZE, "hugetlb__2MB__rsvd__current": 4 * SIZE}),
        (1, {"hugetlb__2MB__limit_in_bytes": 8 * SIZE, "hugetlb__2MB__usage_in_bytes": 8 * SIZE}),
    ],
)
def test_a_control_group_withholds_huge_pages(host: FakeHost, version: int, files: dict[str, int]) -> None:
    """As every pod of Kubernetes that did not ask for some: what is mapped ends with SIGBUS."""
    in_cgroup(host, version, **files)
    row = rows(host, "--region", "1G", "--memory", "hugetlb")["hugepages"]
    assert (row["verdict"], row["available"]) == ("FAIL", 0)
    assert "of cgroup /jobs" in row["found"]
    assert row["fix"].startswith("raise hugetlb.2MB.")
    assert checks(host, "--memory", "1G", "--huge-pages", "2M")["huge pages 2 MiB"][0] == "FAIL"


def test_beyond_memory_high_the_kernel_slows_everything_down(host: FakeHost) -> None:
    in_cgroup(host, memory__high=2 * GIB, memory__current=0)
    assert rows(host, "--region", "1G")["memory"]["verdict"] == "OK"
    row = rows(host, "--region", "8G")["memory"]
    assert row["verdict"] == "WARN"
    assert "beyond 2 GiB the kernel slows it down (memory.high of cgroup /jobs)" in row["fix"]
    status, found, fix = checks(host, "--memory", "8G")["memory"]
    assert (status, "memory.high" in found, "MemoryHigh=" in fix) == ("WARN", True, True)


def test_files_in_use_are_dropped_before_anything_fails(host: FakeHost) -> None:
    in_cgroup(host, memory__max=32 * GIB, memory__current=31 * GIB)
    host.file("/sys/fs/cgroup/jobs/memory.stat", f"active_file {29 * GIB}\ninactive_file {GIB}\n")
    assert rows(host, "--region", "16G")["memory"]["available"] == 31 * GIB
    host.file("/proc/self/cgroup", "")
    text = f"Node 1 MemFree: {GIB >> 10} kB\nNode 1 Active(file): {4 * GIB >> 10} kB\n"
    host.file("/sys/devices/system/node/node1/meminfo", text)
    assert rows(host, "--region", "1G", "--node", "1")["memory"]["available"] == 5 * GIB


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--node", "7"], "--node 7: this host has the NUMA nodes 0, 1"),
        (["--node", "-1"], "--node -1: this host has the NUMA nodes 0, 1"),
        (["--device", "99:00.0"], "0000:99:00.0"),
        (["--device", "00:02.0"], "--device 0000:00:02.0: no IOMMU is behind it"),
        (["--devices", "-1"], "'-1' is not a number of one or more"),
        (["--devices", "0"], "'0' is not a number of one or more"),
        (["--other-mappings", "-5"], "'-5' is not a number of nothing or more"),
        (["--mappings", "-5"], "'-5' is not a number of nothing or more"),
    ],
)
def test_what_makes_no_sense_is_not_planned(host: FakeHost, arguments: list[str], said: str) -> None:
    host.pci("0000:00:02.0")
    ran = plan(host, "--region", "1G", *arguments)
    assert ran.status != 0
    assert said in ran.err
    assert "fits" not in ran.out
