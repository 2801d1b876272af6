"""What is a bridge the header says, not the class; and what spoils a group."""

from __future__ import annotations

import pytest

from pyvfio import Group, GroupNotViable
from pyvfio.sim import SimKernel
from pyvfio.sim.devices import PciFunction
from tests.support.hosts import FakeHost

SWITCH = "0000:42:00.0"
GPU = "0000:43:00.0"


@pytest.fixture
def nvswitch(fake_host: FakeHost) -> FakeHost:
    """Class 0680, with the header of a device."""
    fake_host.pci(SWITCH, "10de:22a3", 0x068000, driver="nvidia-nvswitch", group=62)
    return fake_host


@pytest.fixture
def pch(fake_host: FakeHost) -> FakeHost:
    """The functions of an Intel PCH: LPC (an ISA bridge), SMBus, audio."""
    fake_host.pci("0000:00:1f.0", "8086:a305", 0x060100, driver="lpc_ich", group=9)
    fake_host.pci("0000:00:1f.3", "8086:a348", 0x040300, group=9)
    fake_host.pci("0000:00:1f.4", "8086:a323", 0x0C0500, group=9)
    return fake_host


@pytest.fixture
def root_port(fake_host: FakeHost) -> FakeHost:
    """A GPU in one group with the port above it."""
    fake_host.pci("0000:00:01.0", "8086:1901", 0x060400, driver="pcieport", group=1, header_type=1)
    fake_host.pci(GPU, "10de:1b06", 0x030000, group=1, below="pci0000:00/0000:00:01.0")
    fake_host.pci("0000:43:00.1", "10de:10ef", 0x040300, group=1, below="pci0000:00/0000:00:01.0")
    return fake_host


@pytest.mark.parametrize("arguments", [[], ["--group"]])
def test_a_function_of_a_bridges_class_can_be_bound(nvswitch: FakeHost, arguments: list[str]) -> None:
    assert nvswitch.run("bind", *arguments, SWITCH).out == f"{SWITCH}: nvidia-nvswitch -> vfio-pci  /dev/vfio/62\n"


def test_a_host_driver_of_such_a_function_spoils_the_group(pch: FakeHost) -> None:
    bound = pch.run("bind", "00:1f.3")
    assert bound.status == 0
    assert "group 9 cannot be used yet: 0000:00:1f.0 is bound to lpc_ich. pyvfio bind --group 0000:00:1f.3" in bound.out
    assert "no: 0000:00:1f.0 lpc_ich" in pch.run("list").out


def test_a_dry_run_says_so_too_and_stays_a_script(pch: FakeHost) -> None:
    lines = pch.run("bind", "--dry-run", "00:1f.3").out.splitlines()
    assert lines[-1].startswith("# group 9 cannot be used yet: 0000:00:1f.0 is bound to lpc_ich")


def test_with_the_whole_group_nothing_is_missing(pch: FakeHost) -> None:
    bound = pch.run("bind", "--group", "00:1f.3").out.splitlines()
    assert [line.split(":  ")[0].partition(": ")[0] for line in bound] == [
        "0000:00:1f.0",
        "0000:00:1f.3",
        "0000:00:1f.4",
    ]


def test_a_port_is_left_to_its_driver(root_port: FakeHost) -> None:
    bound = root_port.run("bind", "--group", GPU)
    assert "0000:00:01.0" not in bound.out
    assert "cannot be used" not in bound.out
    assert root_port.driver_of("0000:00:01.0") == "pcieport"


def test_a_driver_of_a_bridge_that_does_dma_spoils_its_group(root_port: FakeHost) -> None:
    """Linux 5.18 asks for driver_managed_dma, which of the drivers of bridges pcieport alone has."""
    root_port.take("0000:00:01.0")
    root_port.driver("shpchp")
    root_port.give("0000:00:01.0", "shpchp")
    said = root_port.run("bind", "--group", GPU).said
    assert "group 1 cannot be used yet: 0000:00:01.0 is bound to shpchp. Take it from that driver" in said


def test_before_linux_5_18_no_driver_of_a_bridge_spoils_its_group(root_port: FakeHost) -> None:
    root_port.take("0000:00:01.0")
    root_port.driver("shpchp")
    root_port.give("0000:00:01.0", "shpchp")
    root_port.file("/proc/sys/kernel/osrelease", "5.10.0-30-amd64\n")
    assert "cannot be used" not in root_port.run("bind", "--group", GPU).said


def test_a_group_of_bridges_has_nothing_to_bind(root_port: FakeHost) -> None:
    root_port.pci("0000:00:1c.0", "8086:a33c", 0x060400, driver="pcieport", group=7, header_type=1)
    refused = root_port.run("bind", "--group", "00:1c.0")
    assert refused.status == 1
    assert "nothing of group 7 can be bound: 0000:00:1c.0 is a bridge" in refused.err
    assert "it is a bridge" in root_port.run("bind", "00:1c.0").err


@pytest.mark.parametrize(
    ("class_code", "config", "secondary", "is_bridge"),
    [
        (0x060400, None, False, True),
        (0x060700, None, False, True),
        (0x060000, b"\0" * 64, False, False),
        (0x068000, b"\0" * 14 + b"\x81" + b"\0" * 49, False, True),
        (0x0B4000, None, True, True),
        (0x060100, None, False, False),
        (0x068000, b"\xff" * 64, False, False),
    ],
)
def test_what_tells_a_bridge(
    fake_host: FakeHost, class_code: int, config: bytes | None, secondary: bool, is_bridge: bool
) -> None:
    place = fake_host.pci("0000:05:00.0", class_code=class_code, group=1)
    fake_host.at(f"{place}/config").unlink()
    if config is not None:
        fake_host.at(f"{place}/config").write_bytes(config)
    if secondary:
        fake_host.file(f"{place}/secondary_bus_number", "6\n")
    refused = fake_host.run("bind", "--dry-run", "05:00.0")
    assert ("it is a bridge" in refused.err) == is_bridge


def test_a_member_that_is_on_no_pci_bus_counts(fake_host: FakeHost) -> None:
    fake_host.pci("0000:01:00.0", group=4)
    fake_host.file("/sys/devices/platform/fd4a0000.codec/uevent", "")
    fake_host.link("/sys/kernel/iommu_groups/4/devices/fd4a0000.codec", "/sys/devices/platform/fd4a0000.codec")
    fake_host.link("/sys/devices/platform/fd4a0000.codec/driver", "/sys/bus/platform/drivers/hantro-vpu")
    said = fake_host.run("bind", "--group", "01:00.0").out
    assert "group 4 cannot be used yet: fd4a0000.codec is bound to hantro-vpu" in said
    assert "no: fd4a0000.codec hantro-vpu" in fake_host.run("list").out


@pytest.mark.parametrize(
    ("function", "viable"),
    [
        (PciFunction("0000:00:1f.0", group=9, driver="lpc_ich", class_code=0x060100), False),
        (PciFunction("0000:00:1c.0", group=9, driver="pcieport", class_code=0x060400, header_type=1), True),
        (PciFunction("0000:00:1c.0", group=9, driver="shpchp", class_code=0x060400, header_type=1), False),
        (PciFunction("0000:00:1c.0", group=9, class_code=0x060400, header_type=1), True),
    ],
)
def test_the_simulated_kernel_has_the_same_rule(function: PciFunction, viable: bool) -> None:
    kernel = SimKernel()
    kernel.add(function)
    kernel.add(PciFunction("0000:00:1f.3", group=9, driver="vfio-pci", class_code=0x040300))
    with Group(9, kernel=kernel) as group:
        assert group.viable == viable
        if not viable:
            with pytest.raises(GroupNotViable, match=f"{function.address} is bound to {function.driver}"):
                group.require_viable()
