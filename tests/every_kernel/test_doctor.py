"""What the doctor and the planner take from a kernel, asked of real ones: pools of huge pages, nodes, addresses."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from pyvfio import Container, Kernel, LinuxKernel
from pyvfio.abi import mman
from pyvfio.cli import main
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host import bind, device_addresses, restore
from pyvfio.host.doctor.build import Build, ModuleState
from pyvfio.kernel import host_memory, huge_pages, write_text
from pyvfio.sim import SimKernel
from pyvfio.sysfs import group_node, pci_device

pytestmark = pytest.mark.needs("type1")

SIZE = 2 << 20
POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"


@pytest.fixture
def real(kernel_name: str) -> LinuxKernel:
    """Of a machine that may be changed."""
    if kernel_name == "simulated":
        pytest.skip("asks a real kernel")
    return LinuxKernel()


def checks(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main(["doctor", "--json", *arguments])
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_huge_pages_that_are_made_when_asked_for(real: LinuxKernel, capsys: pytest.CaptureFixture[str]) -> None:
    before = huge_pages(SIZE, real)
    write_text(real, f"{POOL}/nr_overcommit_hugepages", "4")
    try:
        assert huge_pages(SIZE, real).more == 4
        wanted = (before.free + 3) * SIZE
        check = checks(capsys, "--memory", str(wanted), "--huge-pages", "2M")["huge pages 2 MiB"]
        assert check["status"] == "WARN"
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_HUGETLB | mman.MAP_HUGE_2MB
        address = real.mmap(wanted, mman.PROT_READ | mman.PROT_WRITE, flags)
        pool = huge_pages(SIZE, real)
        assert (pool.free, pool.more) == (0, 1)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            real.mmap(2 * SIZE, mman.PROT_READ | mman.PROT_WRITE, flags)
        real.munmap(address, wanted)
    finally:
        write_text(real, f"{POOL}/nr_overcommit_hugepages", "0")
    assert huge_pages(SIZE, real) == before


def test_a_node_that_is_not_in_dev(real: LinuxKernel, capsys: pytest.CaptureFixture[str]) -> None:
    address = edu_addresses(real)[0]
    before = bind(real, address)
    group = pci_device(real, address).group
    assert group is not None
    node = Path(group_node(real, group))
    aside = node.with_name("aside")  # the same file comes back: devtmpfs takes away what it made, and nothing else
    node.rename(aside)
    try:
        check = checks(capsys)["nodes"]
        assert (check["status"], check["found"]) == (
            "FAIL",
            f"{address} is bound to vfio-pci, but {node} is not here",
        )
        assert f"--device {node}" in check["fix"]
    finally:
        aside.rename(node)
        restore(real, before)


def test_addresses_are_those_that_a_container_takes(kernel_name: str) -> None:
    """What sysfs tells before anything is opened is what the kernel says afterwards, as far as it tells."""
    simulated = [SimKernel(edu_devices=1, iommu=iommu, remaps_interrupts=True) for iommu in ("intel", "amd", "virtio")]
    for kernel in simulated if kernel_name == "simulated" else [LinuxKernel()]:
        agree(kernel)


def agree(kernel: Kernel) -> None:
    address = edu_addresses(kernel)[0]
    before = bind(kernel, address)
    try:
        told = device_addresses(kernel, [address])
        assert told is not None
        assert told.reserved
        with Container(kernel=kernel) as container:
            container.open_device(address)
            ranges = container.iova_ranges
        assert ranges is not None
        for reserved in told.reserved:
            assert not any(each.start <= reserved.last and reserved.first <= each.last for each in ranges), reserved
        if told.width is not None:
            assert ranges[-1].last == (1 << told.width) - 1
        assert all(told.obstacle(each.start, each.last) is None for each in ranges)
    finally:
        restore(kernel, before)


def test_memory_can_be_had(real: LinuxKernel) -> None:
    memory = host_memory(real)
    assert memory is not None
    assert 32 << 20 < memory.available < 1 << 40


def test_a_module_that_this_kernel_does_not_have(real: LinuxKernel) -> None:
    build = Build(real)
    assert build.release == platform.release()
    assert build.module("vfio", "CONFIG_VFIO") is ModuleState.LOADED
    assert build.module("no_such_module", "CONFIG_NO_SUCH_MODULE") is not ModuleState.LOADED
